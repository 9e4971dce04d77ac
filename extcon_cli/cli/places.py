"""Where a pruning writes: one output, or one for each target, and what is exported beside them. It needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from extcon_cli.checkpoint.folder import check_folder, is_transformers
from extcon_cli.cli import checks
from extcon_cli.errors import UsageError
from extcon_cli.export.formats import FORMATS, beside, named
from extcon_cli.json_text import parse_json
from extcon_cli.training.whole import digest


def output_of(checkpoint: Path, out: Path | None, ending: str = ".safetensors") -> Path:
    """Where the result goes; of several targets, what their outputs' names are made of."""
    if out is not None:
        return out
    if is_transformers(checkpoint):
        return checkpoint.parent / f"{checkpoint.resolve().name}.pruned"
    return checkpoint.with_name(f"{checkpoint.stem}.pruned{ending}")


def outputs_of(output: Path, asked: Sequence[str]) -> list[Path]:
    """The output of each target: OUT-0.3.safetensors, OUT-0.5.safetensors; of a single one OUT itself."""
    if len(asked) < 2:
        return [output]
    ending = output.suffix if output.suffix == ".safetensors" else ""
    return [output.with_name(f"{output.name.removesuffix(ending)}-{text}{ending}") for text in asked]


def check_places(
    checkpoint: Path,
    output: Path,
    outputs: Sequence[Path],
    exports: Sequence[str] | None,
    *,
    ending: str,
    force: bool,
    resume: bool,
) -> list[bool]:
    """UsageError where a file could not be written; of each output whether it may be overwritten."""
    folder = is_transformers(checkpoint)
    own = _written(output) if resume and len(outputs) > 1 else {}
    forced = []
    for path in outputs:
        may = force or (path.exists() and own.get(str(path)) == digest(path))
        if folder:
            check_folder(path, force=may, like=checkpoint)
        else:
            if ending == ".safetensors" and path.suffix in (".pt", ".pth"):
                raise UsageError(
                    f"{path}: a pruned model is more than its tensors: give --out a name that ends in .safetensors; "
                    "--export state-dict writes a plain state dict beside it"
                )
            may = checks.check_output(path, force=may, resume=resume, suffixes=[ending])
        for format in exports or ():
            named(format)
            checks.check_output(beside(path, format), force=may, resume=resume, suffixes=[FORMATS[format][1]])
        forced.append(may)
    return forced


def _written(output: Path) -> dict[str, str]:
    """Digests of the outputs that an interrupted sweep has written; read without judging it."""
    try:
        done = parse_json(Path(f"{output}.run", "sweep.json").read_text(encoding="utf-8"))["done"]
        return {str(row["output"]): str(row["digest"]) for row in done.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}

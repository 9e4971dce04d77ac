"""`extcon init`."""

from __future__ import annotations

import json

from extcon_cli.checkpoint.folder import is_transformers
from extcon_cli.cli import checks, resolve
from extcon_cli.cli import options as o
from extcon_cli.errors import UsageError
from extcon_cli.report.serialise import to_json


def init(
    checkpoint: o.Checkpoint,
    data: o.DataOption = None,
    out: o.OutOption = None,
    overrides: o.SetOption = None,
    force: o.ForceOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Look at a checkpoint and its data, and write a recipe with what they tell and what only you know.

    Writes CKPT.yaml beside the checkpoint, where every other command finds it.

    Example: `extcon init model.pt --data photos/`

    Example: `extcon init model.pt --data table.csv --out mine.yaml`
    """
    o.set_memory(max_memory)
    checkpoint = resolve.checkpoint_file(checkpoint)
    if is_transformers(checkpoint):
        raise UsageError(
            f"{checkpoint} is a folder of Hugging Face: it says its model and its task; begin a recipe of "
            "your own with `extcon recipe show prune/default`"
        )
    output = out or checkpoint.with_suffix(".yaml")
    kind = resolve.data_kind(data)
    resolved = resolve.bundled_recipe("prune", overrides, kind)
    checks.check_output(output, force=force, resume=False, suffixes=[".yaml", ".yml"])

    from extcon_cli.cli.console import listening

    with listening(quiet=quiet):
        from extcon_cli.checkpoint.trust import Trust
        from extcon_cli.pipelines.first_look import first_look

        given = resolve.is_set("task", overrides)
        look = first_look(checkpoint, resolved.recipe, kind, task_given=given, trust=Trust(pickle=trust_pickle))
    try:
        output.write_text(look.text(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}; choose another --out") from error
    if as_json:
        print(json.dumps(to_json(look.result(output)), indent=2))
        return
    if not quiet:
        print(look.text())
    for finding in look.missing:
        print(f"only you know {finding.key}: {finding.why}")
    print(f"written to {output}" + (": fill in what is missing" if look.missing else ""))

"""`extcon verify A B`: how far the outputs of two checkpoints differ, measured. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from extcon_cli import channels
from extcon_cli.channels import weights_hash
from extcon_cli.channels.compare import EXACT, Inputs
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import GateError
from extcon_cli.events import Emit, ignore
from extcon_cli.pipelines.running.gates import gate
from extcon_cli.pipelines.running.inputs import moved, shapes
from extcon_cli.pipelines.running.measure import output_difference
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.pipelines.running.prepare import prepare
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.inspect import THESE_WEIGHTS, TRAINED_ON, VerifyResult
from extcon_cli.training.device import create_accelerator


def verify(
    first: Path,
    second: Path,
    recipes: tuple[Recipe, Recipe],
    *,
    max_diff: float = EXACT,
    split: str | None = None,
    device: str = "cpu",
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> VerifyResult:
    """The differences; `verdict` says whether every difference is within `max_diff` of the largest output.

    Args:
        recipes: of the first and the second checkpoint; `model` counts, and `data` of the first with `split`.
        split: compare on these real inputs as well (`test`, `validation`, `train`).
        device: where float32 is compared; float64 is always on the CPU.

    Raises: GateError where the two take different inputs.
    """
    place = create_accelerator(device).device
    two = open_model(second, recipes[1], trust=trust, emit=emit)
    one = open_model(first, recipes[0], trust=trust, like=two.arch, emit=emit)
    if shapes(one.example) != shapes(two.example):
        raise GateError(f"{first} takes inputs of {shapes(one.example)}, {second} of {shapes(two.example)}")
    real: Iterable[Inputs] = ()
    if split is not None:
        prepared = prepare(recipes[0], first, trust=trust)
        real = (prepared.task.arguments(inputs) for inputs, _ in prepared.data.eval_loader(split, device=place))
    found = channels.verify(
        one.module.to(place), two.module.to(place), [moved(example, place) for example in one.examples], evaluation=real
    )
    gaps = {"random": found.random, "double": found.double}
    if split is not None:
        gaps["evaluation"] = found.evaluation
    said = f"outputs differ by {found.relative:.1e} of the largest"
    return VerifyResult(
        checkpoint=str(first),
        other=str(second),
        max_diff=max_diff,
        verdict=found.relative <= max_diff,
        differences={name: None if gap is None else output_difference(gap) for name, gap in gaps.items()},
        certificate=certified(two.checkpoint.metadata, weights_hash(two.module.cpu())),
        task=recipes[0].task,
        gates=(gate("max-diff", found.relative, max_diff, said),),
    )


def certified(metadata: Metadata | None, weights: str) -> str | None:
    """What the second checkpoint's own certificate says of its weights; None where it carries none."""
    certificates = [done["certificate"] for done in (metadata.history if metadata else ()) if "certificate" in done]
    if not certificates or not isinstance(last := certificates[-1], Mapping):  # a file may say anything
        return None
    return THESE_WEIGHTS if last.get("after") == weights else TRAINED_ON

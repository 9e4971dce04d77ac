"""The ways of `extcon prune`: each calls its pipeline with what the options say. They are read and checked before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from extcon_cli.checkpoint.trust import Trust
from extcon_cli.events import Emit
from extcon_cli.export.formats import beside
from extcon_cli.processes import launched
from extcon_cli.training.run_lock import RunLock

if TYPE_CHECKING:
    from extcon_cli.pipelines.running.gates import Limits
    from extcon_cli.pipelines.sweep import Member
    from extcon_cli.recipe.load import Resolved
    from extcon_cli.recipe.schema import Recipe
    from extcon_cli.report.results.previews import DryRunResult
    from extcon_cli.report.results.prune import PruneResult, SweepResult


@dataclass(frozen=True)
class Wish:
    """What a command line asks for."""

    checkpoint: Path
    output: Path
    recipe: Recipe
    formats: tuple[str, ...]
    """To export the result to as well."""
    limits: tuple[float | None, float | None, int | None, str | None]
    """--max-drop, --min-accuracy, --max-size, --max-latency."""
    latency: bool
    plan: Path | None
    device: str | None
    resume: bool
    force: bool
    keep_run: bool
    trust: Trust

    @property
    def gates(self) -> Limits:
        from extcon_cli.pipelines.running.gates import Limits

        return Limits(*self.limits)

    def lock(self) -> RunLock:
        """Nobody else writes the output meanwhile: for what is over in one go."""
        return RunLock(Path(f"{self.output}.run"))


def of_what_is_dead(wish: Wish, emit: Emit, tolerance: float) -> PruneResult:
    """`--already-zero`."""
    from extcon_cli.pipelines.already_zero import already_zero

    with wish.lock():
        result = already_zero(
            wish.checkpoint,
            wish.recipe,
            output=wish.output,
            tolerance=tolerance,
            latency=wish.latency,
            force=wish.force,
            trust=wish.trust,
            emit=emit,
        )
    return exported(wish, result, wish.recipe, emit)


def at_once(wish: Wish, emit: Emit) -> PruneResult:
    """Without data: nothing is trained."""
    from extcon_cli.pipelines.at_once import prune_at_once

    with wish.lock():
        result = prune_at_once(
            wish.checkpoint,
            wish.recipe,
            output=wish.output,
            latency=wish.latency,
            force=wish.force,
            trust=wish.trust,
            emit=emit,
        )
    return exported(wish, result, wish.recipe, emit)


def of_ultralytics(wish: Wish, emit: Emit) -> PruneResult:
    """A checkpoint of Ultralytics, by its own trainer."""
    from extcon_cli.pipelines.ultralytics import prune_ultralytics

    return prune_ultralytics(
        wish.checkpoint,
        wish.recipe,
        output=wish.output,
        device=wish.device,
        force=wish.force,
        limits=wish.gates,
        keep_run=wish.keep_run,
        plan=wish.plan,
        latency=wish.latency,
        trust=wish.trust,
        emit=emit,
    )


def tried_out_for_ultralytics(wish: Wish, emit: Emit) -> DryRunResult:
    """`--dry-run` of the same; nothing is trained."""
    from extcon_cli.pipelines.ultralytics_previews import try_ultralytics

    return try_ultralytics(
        wish.checkpoint,
        wish.recipe,
        output=wish.output,
        device=wish.device,
        plan=wish.plan,
        trust=wish.trust,
        emit=emit,
    )


def to_one(wish: Wish, emit: Emit) -> PruneResult:
    """To one target, or by a plan."""
    from extcon_cli.pipelines.prune import prune

    result = prune(
        wish.checkpoint,
        wish.recipe,
        output=wish.output,
        device=wish.device,
        resume=wish.resume,
        force=wish.force,
        limits=wish.gates,
        keep_run=wish.keep_run,
        plan=wish.plan,
        latency=wish.latency,
        trust=wish.trust,
        emit=emit,
    )
    return exported(wish, result, wish.recipe, emit)


def to_several(wish: Wish, emit: Emit, quantity: str, members: Sequence[Member]) -> SweepResult:
    """To several targets: --ratio 0.3,0.5,0.7."""
    from extcon_cli.pipelines.sweep import sweep

    again = replace(wish, force=True)
    return sweep(
        wish.checkpoint,
        members,
        quantity=quantity,
        output=wish.output,
        device=wish.device,
        resume=wish.resume,
        limits=wish.gates,
        keep_run=wish.keep_run,
        latency=wish.latency,
        then=lambda done, recipe: exported(again, done, recipe, emit),
        trust=wish.trust,
        emit=emit,
    )


def members(
    complete: Recipe, asked: Sequence[str], every: Sequence[Resolved], outputs: Sequence[Path], forced: Sequence[bool]
) -> list[Member]:
    """One for each target: `complete`, which is the recipe of the first with all filled in, with the target of each."""
    from extcon_cli.pipelines.sweep import Member

    def aimed(found: Resolved) -> Recipe:
        aim = {"ratio": found.recipe.prune.ratio, "target": found.recipe.prune.target}
        return complete.model_copy(update={"prune": complete.prune.model_copy(update=aim)})

    return [Member(*one) for one in zip(asked, map(aimed, every), outputs, forced, strict=True)]


def tried_out(wish: Wish, emit: Emit) -> DryRunResult:
    """`--dry-run`."""
    from extcon_cli.pipelines.prune import prune, trains
    from extcon_cli.pipelines.running.rehearsal import quietly, rehearse

    told = quietly(emit, wish.output)

    def attempt(short: Recipe, to: Path) -> PruneResult:
        done = prune(
            wish.checkpoint,
            short,
            output=to,
            device=wish.device,
            plan=wish.plan,
            trust=wish.trust,
            emit=told,
            rehearsal=True,
        )
        return exported(wish, done, short, told)

    still = not trains(wish.recipe.prune)
    return rehearse("prune", wish.recipe, wish.checkpoint, attempt, output=wish.output, trust=wish.trust, sparing=still)


def exported(wish: Wish, result: PruneResult, recipe: Recipe, emit: Emit) -> PruneResult:
    """The result with what was exported of it."""
    if not wish.formats or launched().place:
        return result
    from extcon_cli.pipelines.export import export

    path = Path(result.run.output)
    done = [
        export(path, recipe, format=name, output=beside(path, name), force=wish.force, trust=wish.trust, emit=emit)
        for name in wish.formats
    ]
    return replace(result, exported=tuple(done))

"""`extcon prune`: score, decide, bifurcate, remove, fine-tune.

Every removal is measured before anything is written. An interrupted run goes on where it was: scores and the
selection are not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from extcon_cli.channels.deferred import is_deferred
from extcon_cli.checkpoint.precision import round_to
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.events import Emit, Saved, ignore
from extcon_cli.pipelines.pruning.bifurcate import bifurcate
from extcon_cli.pipelines.pruning.finetune import finetune
from extcon_cli.pipelines.pruning.folders import write_pruned
from extcon_cli.pipelines.pruning.keep import check_patterns
from extcon_cli.pipelines.pruning.plan_file import planned, read_plan
from extcon_cli.pipelines.pruning.prune_run import PruneRun, PruneState, analyse
from extcon_cli.pipelines.pruning.removal import remove, repeat
from extcon_cli.pipelines.pruning.scoring import UNTRAINED, score, select
from extcon_cli.pipelines.running.gates import NO_LIMITS, Limits, enforce
from extcon_cli.pipelines.running.measure import timed
from extcon_cli.pipelines.running.output import data_metadata, frozen, widths
from extcon_cli.pipelines.running.start import start_run
from extcon_cli.recipe.schema import PruneSpec, Recipe
from extcon_cli.report.results.prune import PruneHistory, PruneRecord, PruneResult

AGAIN = "repeat with --resume and another limit to accept it, or fine-tune longer"


def prune(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    limits: Limits = NO_LIMITS,
    keep_run: bool = True,
    plan: Path | None = None,
    scorer: Callable[[PruneRun], Tensor] = score,
    latency: bool = True,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
    rehearsal: bool = False,
) -> PruneResult:
    """Prune a checkpoint and write the smaller one to `output`.

    Args:
        recipe: `prune`, `data`, `model`, `task`, `seed` count.
        output: a .safetensors file; for a folder of transformers a folder. Beside it, `OUTPUT.run/` holds the run.
        limits: what the result has to keep to.
        keep_run: let the run's folder be there afterwards.
        plan: the decision, as `extcon plan` writes it, in the place of ratio, target, score and decide.
        scorer: gives one number a filter, the larger the more it matters.
        latency: measure the latency of the model before and after.
        device, resume, force, trust, rehearsal: as in `start_run`.

    Raises: GateError where the removal is not exact, the target is missed, or a limit is not kept; then nothing is
    written. Interrupted (resumable) on Ctrl-C or SIGTERM.
    """
    document, training = read_plan(plan) if plan is not None else None, trains(recipe.prune)
    with start_run(
        "prune", recipe, checkpoint, output=output, device=device, speed=recipe.prune.finetune if training else None,
        resume=resume, force=force, trust=trust, emit=emit, rehearsal=rehearsal, sparing=not training,
    ) as run:  # fmt: skip
        pruning = analyse(run)
        chosen = None
        if document is not None:
            chosen = planned(document, pruning.channels, pruning.filters, str(plan), pruning.ties)
        check_patterns(recipe.prune.decide, [group.name for group in pruning.channels.groups])
        state = PruneState.of(run.resume_state)
        state.check(chosen)
        if state.removal is None:
            before = run.stats(pruning.original)
            if (selected := chosen if chosen is not None else state.selected) is None:
                scores = scorer(pruning)
                selected = run.processes.once(lambda: select(pruning, scores, before.size))
            run.processes.check("filters that go", str(selected.tolist()))
            shrunk = bifurcate(pruning, selected, state.bifurcation)
            removal = remove(pruning, shrunk, before, planned=chosen is not None)
        else:
            removal = repeat(pruning, state.removal)
        final = finetune(pruning, removal, state.finetuning)
        round_to(removal.module, run.prepared.precision)
        after = run.stats(removal.module)
    known = removal.record
    record = PruneRecord(before=known.before, after=after, removal=known.figures, certificate=known.certificate)
    original, module = pruning.original, removal.module.eval()
    if is_deferred(module):  # it is on the CPU, and to read the weights would be most of its latency
        latency = False
    else:
        original, module = original.cpu(), module.cpu()
    example, first = run.prepared.example, run.processes.first
    if not first:  # the first one times, judges and writes
        limits, latency = NO_LIMITS, False
    spec = recipe.prune.latency if latency else None
    before, after, times = timed(
        record.before, record.after, (original, module), example, spec, device=str(run.device), emit=run.emit
    )
    gates = limits.checked(run.prepared.task, before, after)
    result = PruneResult(
        before=before,
        after=after,
        removal=record.removal,
        certificate=record.certificate,
        layers=widths(original, module),
        frozen=frozen(pruning.channels),
        unreached=pruning.channels.unreached,
        latency=times,
        history=PruneHistory((*known.phases, *([final.record] if final else [])), known.trace),
        run=run.facts(),
        gates=gates or None,
    )
    enforce(gates, result, hint=f"; nothing was written (the state is kept in {run.directory.path}: {AGAIN})")
    if not first:
        return result
    if pruning.widths is None:
        run.write(module, record, plan=known.plan)
    else:
        described = data_metadata(run.prepared, record, known.plan)
        folder = write_pruned(output, module, pruning.widths, record, described, known.plan, example, force=force)
        run.emit(Saved(str(output)))
        result = replace(result, folder=folder)
    run.finish(keep=keep_run)
    return result


def trains(spec: PruneSpec) -> bool:
    """Does anything of this need the gradients of the weights?"""
    hands_over = spec.compensate.enabled and spec.compensate.hand_over != "sequential"
    still = spec.finetune.steps == 0 and spec.bifurcate.method == "none" and spec.score.method in UNTRAINED
    return hands_over or not still

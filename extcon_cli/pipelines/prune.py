"""`extcon prune`: score, decide, bifurcate, remove, fine-tune (DESIGN.md, section 3).

Every removal is measured before anything is written. The training phases resume; scores and decisions are kept.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extcon_cli import __version__
from extcon_cli.catalyst.filters import by_group
from extcon_cli.catalyst.scores import normalised
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import RemovalPlan, remove
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.write import check_writable, write
from extcon_cli.errors import GateError, Interrupted
from extcon_cli.events import Emit, Noted, PhaseEnded, PhaseStarted, RunStarted, Saved, ignore
from extcon_cli.pipelines.bifurcate import bifurcate
from extcon_cli.pipelines.job import Job
from extcon_cli.pipelines.output import SCHEMA, data_metadata, widths
from extcon_cli.pipelines.phase import Metrics, Validation, interruptible, run_phase, tee_events
from extcon_cli.pipelines.prepare import prepare
from extcon_cli.pipelines.removal import cut
from extcon_cli.pipelines.scoring import score
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import FinetuneSpec, Recipe
from extcon_cli.report.measure import latency
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.interrupt import graceful
from extcon_cli.training.objective import evaluate
from extcon_cli.training.run_directory import RunDirectory


def prune(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    max_drop: float | None = None,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> dict[str, Any]:
    """Prune a checkpoint and write the smaller one to `output`; the result document of the command.

    Args:
        recipe: `prune`, `data`, `model`, `task`, `seed` count.
        output: a .safetensors file. Beside it, `OUTPUT.run/` holds the run.
        max_drop: points of accuracy (or of 100 R2) on the test data that may be lost. None: any.
        device, resume, force, trust: as in `train`.

    Raises: GateError where the removal is not exact, the target is missed, or more than `max_drop` is lost; then
    nothing is written. Interrupted (resumable) on Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    check_writable(output, force)
    accelerator = create_accelerator(device, recipe.prune.finetune.mixed_precision)
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, checkpoint, trust=trust)
    assert prepared.opened is not None
    inputs = {"command": "prune", "checkpoint": prepared.opened.checkpoint.sha256}
    run = RunDirectory(Path(f"{output}.run"), prepared.recipe, inputs)
    resume_state = run.begin(resume=resume)
    emit = tee_events(emit, run)
    emit(RunStarted("prune", str(checkpoint), str(output), str(accelerator.device), recipe.seed))
    job = Job(prepared, accelerator, run, emit)
    with graceful() as job.stop:
        try:
            removed = _bifurcate_and_remove(job, resume_state)
            _finetune(job, removed, resume_state)
            after = job.figures(job.module)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted; the state is kept in {run.path}: repeat the command with --resume to go on"
            ) from error
    drop = _drop(removed["before"]["metrics"], after["metrics"])
    if max_drop is not None and drop > max_drop:
        raise GateError(
            f"{drop:.2f} points were lost, more than --max-drop {max_drop:g}; nothing was written (the state is kept "
            f"in {run.path}: repeat with --resume and a larger --max-drop to accept it, or fine-tune longer)"
        )
    done = {
        "command": "prune",
        "version": __version__,
        "before": removed["before"],
        "after": after,
        "removal": removed["removal"],
        "certificate": removed["certificate"],
    }
    module = job.module.cpu().eval()
    write(output, module, data_metadata(job.prepared, done, removed["plan"]), force=force)
    emit(Saved(str(output)))
    for figures, of in ((done["before"], job.original), (done["after"], module)):
        figures["latency"] = {str(n): latency(of.cpu(), job.input_shape, n) for n in (1, 64)}
    return {
        "schema": SCHEMA,
        **done,
        "checkpoint": str(checkpoint),
        "output": str(output),
        "recipe": to_dict(prepared.recipe),
        "seed": recipe.seed,
        "device": str(accelerator.device),
        "layers": widths(job.original, module, job.input_shape),
        "frozen": [{"group": g.name, "reason": g.reason} for g in job.channels.groups if not g.prunable],
        "history": {"phases": job.history, "bifurcation": removed["trace"]},
        "seconds": {**job.seconds, "total": time.monotonic() - began},
    }


def _bifurcate_and_remove(job: Job, resume_state: tuple[str, dict[str, Any]] | None) -> dict[str, Any]:
    """Everything up to the smaller module; what is known of it, to be kept with the fine-tuning's state."""
    if resume_state is not None and resume_state[0] == "finetune":
        removed = dict(resume_state[1]["more"]["removed"])
        remove(job.module, RemovalPlan.from_json(removed["plan"]))
        job.history = list(removed["phases"])
        return removed
    before = job.figures(job.original)
    if resume_state is None:
        scores = score(job)
        decided = _decide(job, scores)
    else:
        decided = resume_state[1]["more"]["decided"]
    trace = bifurcate(job, decided, resume_state[1] if resume_state is not None else None)
    removed = _remove(job, decided)
    return {"before": before, "trace": trace, "phases": list(job.history), **removed}


def _decide(job: Job, scores: Tensor) -> Tensor:
    """Which filters go: a mask (n,)."""
    spec = job.spec.decide
    values = normalised(scores, job.filters) if spec.normalize else scores
    decided = decide(values, job.filters, job.spec.ratio, floor=spec.floor, keep=spec.keep)
    parts = by_group(job.filters, decided)
    shown = ", ".join(f"{name} {int(part.sum())}/{len(part)}" for name, part in parts.items())
    job.emit(Noted(f"{int(decided.sum())} of {len(job.filters)} filters go: {shown}"))
    return decided


def _remove(job: Job, decided: Tensor) -> dict[str, Any]:
    """Cut what is dead, and measure that nothing changed: on the test data and on random inputs."""
    began = time.monotonic()
    job.emit(PhaseStarted("remove", "Removing", None, "batch"))
    zeroed = job.module.eval()
    real = ((x,) for x, _ in interruptible(iter(job.prepared.data.eval_loader("test", device=job.device)), job.stop))
    removal = cut(zeroed, job.channels, job.example, real, least=int(decided.sum()))
    job.module = removal.module
    metrics = job.metrics(zeroed), job.metrics(job.module)
    job.emit(PhaseEnded("remove", time.monotonic() - began, metrics[1]))
    job.seconds["remove"] = time.monotonic() - began
    certificate = removal.certificate
    return {
        "plan": removal.plan.to_json(),
        "certificate": certificate.to_json(),
        "removal": removal.figures(
            certificate.evaluation or certificate.random,
            requested=job.spec.ratio,
            before=metrics[0],
            after=metrics[1],
        ),
    }


def _finetune(job: Job, removed: dict[str, Any], resume_state: tuple[str, dict[str, Any]] | None) -> None:
    """Train the smaller model, guided by the original; it ends with the state that the recipe keeps."""
    spec: FinetuneSpec = job.spec.finetune
    validation = None
    if len(job.prepared.data.validation):
        loader = job.prepared.data.eval_loader("validation", device=job.device)

        def look() -> Metrics:
            return evaluate(job.module, interruptible(iter(loader), job.stop), job.prepared.recipe.task)

        validation = Validation(look, job.prepared.recipe.task, spec.evaluate_every, spec.keep == "best", before=True)
    outcome = run_phase(
        "finetune",
        "Fine-tuning",
        job.trainer(4, spec, job.module),
        emit=job.emit,
        stop=job.stop,
        run=job.run,
        resume_state=resume_state[1] if resume_state is not None and resume_state[0] == "finetune" else None,
        validation=validation,
        more_state=lambda: {"removed": removed},
    )
    job.history.append(outcome.history)
    job.seconds["finetune"] = outcome.seconds


def _drop(before: Metrics, after: Metrics) -> float:
    """Points of accuracy, or of 100 R2, that were lost."""
    figure = "accuracy" if "accuracy" in before else "r2"
    return 100 * (before[figure] - after[figure])

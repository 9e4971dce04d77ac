"""`extcon prune`: score, decide, bifurcate, remove, fine-tune (DESIGN.md, section 3).

Every removal is measured before anything is written. The training phases resume; scores and decisions are kept.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli import __version__
from extcon_cli.catalyst.bifurcation import Bifurcation, Flow, Penalty, Proximal
from extcon_cli.catalyst.compensate import Handover, handover
from extcon_cli.catalyst.filters import Filters, by_group, norms
from extcon_cli.catalyst.scores import normalised
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import Channels, RemovalPlan, certify, channel_groups, plan, remove
from extcon_cli.checkpoint.write import Metadata, check_writable, write
from extcon_cli.errors import GateError, Interrupted
from extcon_cli.events import Emit, Noted, PhaseEnded, PhaseStarted, RunStarted, Saved, ignore
from extcon_cli.pipelines.phase import Looks, Metrics, heard, run_phase, told
from extcon_cli.pipelines.prepare import Prepared, prepare
from extcon_cli.pipelines.scoring import score
from extcon_cli.pipelines.train import SCHEMA, measured
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import FinetuneSpec, PruneSpec, Recipe
from extcon_cli.report.measure import latency, layers, measure
from extcon_cli.training.device import Accelerator, accelerator
from extcon_cli.training.interrupt import Stop, graceful
from extcon_cli.training.loop import Step, Trainer
from extcon_cli.training.objective import evaluate, objective
from extcon_cli.training.optim import total_steps
from extcon_cli.training.run_directory import RunDirectory

TRACE_POINTS = 60
"""Moments of the bifurcation that the report shows."""


def prune(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    max_drop: float | None = None,
    trust_code: bool = False,
    trust_pickle: bool = False,
    trust_recipe: bool = False,
    emit: Emit = ignore,
) -> dict[str, Any]:
    """Prune a checkpoint and write the smaller one to `output`; the result document of the command.

    Args:
        recipe: `prune`, `data`, `model`, `task`, `seed` count.
        output: a .safetensors file. Beside it, `OUTPUT.run/` holds the run.
        max_drop: points of accuracy (or of 100 R2) on the test data that may be lost. None: any.
        device, resume, force, trust_code, trust_pickle, trust_recipe: as in `train`.

    Raises: GateError where the removal is not exact, the target is missed, or more than `max_drop` is lost; then
    nothing is written. Interrupted (resumable) on Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    check_writable(output, force)
    hardware = accelerator(device, recipe.prune.finetune.mixed_precision)
    torch.manual_seed(recipe.seed)
    ready = prepare(recipe, checkpoint, trust_code=trust_code, trust_pickle=trust_pickle, trust_recipe=trust_recipe)
    assert ready.opened is not None
    inputs = {"command": "prune", "checkpoint": ready.opened.checkpoint.sha256}
    run = RunDirectory(Path(f"{output}.run"), ready.recipe, inputs)
    kept = run.begin(resume=resume)
    emit = told(emit, run)
    emit(RunStarted("prune", str(checkpoint), str(output), str(hardware.device), recipe.seed))
    job = Job(ready, hardware, run, emit)
    with graceful() as job.stop:
        try:
            removed = _bifurcate_and_remove(job, kept)
            _finetune(job, removed, kept)
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
    write(output, module, _metadata(job, removed, done), force=force)
    run.finish()
    emit(Saved(str(output)))
    for figures, of in ((done["before"], job.original), (done["after"], module)):
        figures["latency"] = {str(n): latency(of.cpu(), job.input_shape, n) for n in (1, 64)}
    return {
        "schema": SCHEMA,
        **done,
        "checkpoint": str(checkpoint),
        "output": str(output),
        "recipe": to_dict(ready.recipe),
        "seed": recipe.seed,
        "device": str(hardware.device),
        "layers": _widths(job.original, module, job.input_shape),
        "frozen": [{"group": g.name, "reason": g.reason} for g in job.channels.groups if not g.prunable],
        "history": {"phases": job.history, "bifurcation": removed["trace"]},
        "seconds": {**job.seconds, "total": time.monotonic() - began},
    }


@dataclass
class Job:
    """What the phases share: the model on its way, the original that teaches, and where to tell and keep."""

    ready: Prepared
    hardware: Accelerator
    run: RunDirectory
    emit: Emit
    stop: Stop = field(default_factory=Stop)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = self.ready.module.to(self.hardware.device)
        self.original = copy.deepcopy(self.module).requires_grad_(False)
        self.example: tuple[Tensor, ...] = (
            next(iter(self.ready.data.eval_loader("train", device=self.device)))[0][:2],
        )
        self.channels: Channels = channel_groups(self.module, self.example)
        self.filters = Filters.of(self.channels.groups)
        if not len(self.filters):
            reasons = sorted({group.reason for group in self.channels.groups})
            raise GateError(f"no filter of this model can be pruned: {'; '.join(reasons) or 'it has no linear map'}")

    @property
    def spec(self) -> PruneSpec:
        return self.ready.recipe.prune

    @property
    def device(self) -> torch.device:
        return self.hardware.device

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.example[0].shape[1:])

    def batches(self, phase: int, count: int, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """`count` training batches of a phase's own order."""
        loader = self.ready.data.train_loader(device=self.device, seed=self.seed(phase), batch_size=batch_size)
        return heard((loader.batch(step) for step in range(count)), self.stop)

    def seed(self, phase: int) -> int:
        """A seed of its own for each phase, whether the phases before ran or were resumed."""
        return (self.ready.recipe.seed * 1000 + phase) % 2**32

    def trainer(self, phase: int, spec: Any, module: nn.Module, **more: Any) -> Trainer:
        """The training loop of a phase; the original teaches where the phase distils."""
        torch.manual_seed(self.seed(phase))
        return Trainer(
            module,
            self.ready.data.train_loader(device=self.device, seed=self.seed(phase)),
            spec,
            objective=objective(
                self.ready.recipe.task, label_smoothing=getattr(spec, "label_smoothing", 0.0), distill=spec.distill
            ),
            accelerator=self.hardware,
            teacher=self.original,
            **more,
        )

    def metrics(self, module: nn.Module) -> Metrics:
        """Figures on the test data."""
        return measured(module, self.ready.data, "test", self.hardware, self.stop) or {}

    def figures(self, module: nn.Module) -> dict[str, Any]:
        """Test metrics and sizes of a module."""
        size = measure(module, self.input_shape)
        return {"metrics": self.metrics(module), "params": size.params, "macs": size.macs, "bytes": size.bytes}


def _bifurcate_and_remove(job: Job, kept: tuple[str, dict[str, Any]] | None) -> dict[str, Any]:
    """Everything up to the smaller module; what is known of it, to be kept with the fine-tuning's state."""
    if kept is not None and kept[0] == "finetune":
        removed = dict(kept[1]["more"]["removed"])
        remove(job.module, RemovalPlan.from_json(removed["plan"]))
        job.history = list(removed["phases"])
        return removed
    before = job.figures(job.original)
    if kept is None:
        scores = score(job)
        decided = _decide(job, scores)
    else:
        decided = kept[1]["more"]["decided"]
    trace = _bifurcate(job, decided, kept[1] if kept is not None else None)
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


def _bifurcate(job: Job, decided: Tensor, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """Take the decided filters to exactly zero while the others train; the norms and d over time, for the report."""
    spec = job.spec.bifurcate
    total = 0 if spec.method == "none" else total_steps(spec, len(job.ready.data.train_loader(device="cpu", seed=0)))
    shrinking = _shrinking(job, decided, total)
    substitute = _handover(job, decided)
    trace = _Trace(shrinking, every=max(1, total // TRACE_POINTS))
    if kept is not None:
        shrinking.load_state_dict(kept["more"]["bifurcation"])
        trace.load(kept["more"]["trace"])

    def shrink(step: Step | None) -> dict[str, float]:
        fallen = shrinking.step(step.lr if step is not None else 0.0)
        if substitute is not None:
            substitute.step(fallen)
        trace.add()
        return {"decided": float(decided.sum()), "dead": float(shrinking.dead)}

    if total == 0:
        shrink(None)
    else:
        trainer = job.trainer(2, spec, job.module, penalty=shrinking.penalty if spec.method == "penalty" else None)
        outcome = run_phase(
            "bifurcate",
            "Bifurcating",
            trainer,
            emit=job.emit,
            stop=job.stop,
            run=job.run,
            kept=kept,
            after_step=shrink,
            more_state=lambda: {"decided": decided, "bifurcation": shrinking.state_dict(), "trace": trace.state()},
        )
        job.history.append(outcome.history)
        job.seconds["bifurcate"] = outcome.seconds
    shrinking.finish()
    if shrinking.missing:
        raise GateError(
            f"the target is missed: {shrinking.missing} of {int(decided.sum())} decided filters are not zero after "
            f"{total} steps of {spec.method}; raise prune.bifurcate.strength, take more steps, or use method: flow"
        )
    return trace.document()


def _shrinking(job: Job, decided: Tensor, total: int) -> Bifurcation:
    spec, these = job.spec.bifurcate, (job.module, job.filters, decided, job.spec.bifurcate.chi)
    if spec.method == "proximal":
        return Proximal(*these, strength=spec.strength)
    if spec.method == "penalty":
        return Penalty(*these, strength=spec.strength, epsilon=spec.epsilon)
    return Flow(*these, steps=max(1, round(spec.shrink * total)))


def _handover(job: Job, decided: Tensor) -> Handover | None:
    """Least squares for what reads the decided filters, where the recipe asks for it."""
    spec = job.spec.compensate
    if not spec.enabled:
        return None
    size = job.ready.data.spec.batch_size
    began = time.monotonic()
    job.emit(PhaseStarted("compensate", "Fitting stand-ins", None, "batch"))
    batches = job.batches(3, max(1, -(-spec.images // size)))
    found = handover(
        job.module, job.channels, job.filters, decided, batches, lambda batch: job.module(batch[0]), ridge=spec.ridge
    )
    job.emit(PhaseEnded("compensate", time.monotonic() - began))
    return found


class _Trace:
    """Norms and d of every filter at some moments of the bifurcation."""

    def __init__(self, shrinking: Bifurcation, every: int) -> None:
        self.shrinking, self.every = shrinking, every
        self.steps: list[int] = [0]
        self.norm: list[Tensor] = [shrinking.start.cpu()]
        self.d: list[Tensor] = [shrinking.d.cpu()]

    def add(self) -> None:
        if self.shrinking.done % self.every == 0:
            self.steps.append(self.shrinking.done)
            self.norm.append(norms(self.shrinking.module, self.shrinking.filters).cpu())
            self.d.append(self.shrinking.d.cpu())

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "norm": torch.stack(self.norm), "d": torch.stack(self.d)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.steps, self.norm, self.d = list(state["steps"]), list(state["norm"]), list(state["d"])

    def document(self) -> dict[str, Any]:
        decided = self.shrinking.decided.cpu().tolist()
        norm, d = ([row.tolist() for row in rows] for rows in (self.norm, self.d))
        return {"steps": self.steps, "norm": norm, "d": d, "decided": decided}


def _remove(job: Job, decided: Tensor) -> dict[str, Any]:
    """Cut what is dead, and measure that nothing changed: on the test data and on random inputs."""
    began = time.monotonic()
    job.emit(PhaseStarted("remove", "Removing", None, "batch"))
    zeroed = copy.deepcopy(job.module).eval()
    metrics = job.metrics(zeroed)
    removal = plan(zeroed, job.channels)
    remove(job.module, removal)
    real = ((x,) for x, _ in heard(iter(job.ready.data.eval_loader("test", device=job.device)), job.stop))
    certificate = certify(zeroed, job.module, removal, job.example, real)
    smaller = job.metrics(job.module)
    if not certificate.exact:
        worst = max(certificate.random.relative, certificate.double.relative)
        raise GateError(f"the removal is not exact: outputs differ by {worst:.1e} of the largest; nothing was written")
    job.emit(PhaseEnded("remove", time.monotonic() - began, smaller))
    job.seconds["remove"] = time.monotonic() - began
    evaluation = certificate.evaluation or certificate.random
    return {
        "plan": removal.to_json(),
        "certificate": certificate.to_json(),
        "removal": {
            "requested_ratio": job.spec.ratio,
            "ratio": int(decided.sum()) / len(decided),
            "filters": int(decided.sum()),
            "prunable": len(decided),
            "metrics_before_removal": metrics,
            "metrics_after_removal": smaller,
            "max_difference": evaluation.largest,
            "largest_output": evaluation.scale,
            "relative_difference": max(evaluation.relative, certificate.random.relative),
            "argmax_agreement": evaluation.agreement,
        },
    }


def _finetune(job: Job, removed: dict[str, Any], kept: tuple[str, dict[str, Any]] | None) -> None:
    """Train the smaller model, guided by the original; it ends with the state that the recipe keeps."""
    spec: FinetuneSpec = job.spec.finetune
    looks = None
    if len(job.ready.data.validation):
        loader = job.ready.data.eval_loader("validation", device=job.device)

        def look() -> Metrics:
            return evaluate(job.module, heard(iter(loader), job.stop), job.ready.recipe.task)

        looks = Looks(look, job.ready.recipe.task, spec.evaluate_every, spec.keep == "best")
    outcome = run_phase(
        "finetune",
        "Fine-tuning",
        job.trainer(4, spec, job.module),
        emit=job.emit,
        stop=job.stop,
        run=job.run,
        kept=kept[1] if kept is not None and kept[0] == "finetune" else None,
        looks=looks,
        more_state=lambda: {"removed": removed},
    )
    job.history.append(outcome.history)
    job.seconds["finetune"] = outcome.seconds


def _drop(before: Metrics, after: Metrics) -> float:
    """Points of accuracy, or of 100 R2, that were lost."""
    figure = "accuracy" if "accuracy" in before else "r2"
    return 100 * (before[figure] - after[figure])


def _widths(before: nn.Module, after: nn.Module, input_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Output widths of every layer, before and after."""
    smaller = {layer.name: layer for layer in layers(after, input_shape)}
    return [
        {"name": layer.name, "kind": layer.kind, "before": layer.outputs, "after": smaller[layer.name].outputs}
        for layer in layers(before, input_shape)
    ]


def _metadata(job: Job, removed: dict[str, Any], done: dict[str, Any]) -> Metadata:
    """All that the checkpoint says about itself; no times, so that the same run gives the same bytes."""
    data, recipe = job.ready.data, job.ready.recipe
    opened = job.ready.opened
    earlier = opened.checkpoint.metadata if opened is not None else None
    return Metadata(
        arch=recipe.model.arch,
        kwargs=recipe.model.kwargs,
        input_shape=recipe.model.input_shape,
        recipe=to_dict(recipe),
        plan=(*(earlier.plans if earlier else ()), removed["plan"]),
        history=(*(earlier.history if earlier else ()), done),
        classes=data.class_names or data.classes,
        normalize=data.normalize,
        version=__version__,
    )

"""The third phase of pruning: the selected filters go to exactly zero while the others train on and take over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from extcon_cli.catalyst.bifurcation import Bifurcation, Flow, Penalty, Proximal
from extcon_cli.catalyst.filters import Filters, norms
from extcon_cli.catalyst.hand_over import hand_over
from extcon_cli.catalyst.local_hand_over import Compensation, fit_compensation
from extcon_cli.channels import Channels
from extcon_cli.channels.compare import Inputs
from extcon_cli.checkpoint.huggingface.shards import spill
from extcon_cli.errors import GateError, TraceError
from extcon_cli.events import Emit, Noted
from extcon_cli.pipelines.pruning.prune_run import PruneRun
from extcon_cli.pipelines.running.phase import run_phase
from extcon_cli.recipe.schema import CompensateSpec
from extcon_cli.report.results.prune import BifurcationTrace
from extcon_cli.report.results.records import PhaseRecord
from extcon_cli.training.loop import Step
from extcon_cli.training.optim import total_steps

TRACE_POINTS = 60
"""Moments of the bifurcation that the report shows."""
NUMBERS, FEWEST = 1 << 24, 32
"""Inputs of the sequential hand-over hold at most so many numbers (111 images of 224 pixels), or so many samples."""
MOVES = 20
"""In how many parts a filter's work is handed over while it shrinks."""


@dataclass(frozen=True)
class Shrunk:
    """The selected filters are at exactly zero."""

    selected: Tensor  # (n,) mask
    trace: BifurcationTrace
    phases: tuple[PhaseRecord, ...]  # none where the recipe takes no steps


def bifurcate(pruning: PruneRun, selected: Tensor, resume_state: Mapping[str, Any] | None) -> Shrunk:
    """Take the selected filters to exactly zero while the others train (GateError: one of them is not zero)."""
    run, spec = pruning.run, pruning.spec.bifurcate
    steps_per_epoch = len(run.prepared.data.train_loader(device="cpu", seed=0))
    total = 0 if spec.method == "none" else total_steps(spec, steps_per_epoch)
    shrinking = _shrinking(pruning, selected, total)
    compensation = _compensation(pruning, selected, every=max(1, round(spec.shrink * total) // MOVES))
    sequential = _Sequential(pruning, selected)
    trace = TraceRecorder(shrinking, every=max(1, total // TRACE_POINTS))
    if resume_state is not None:
        shrinking.load_state_dict(resume_state["more"]["bifurcation"])
        trace.load_state_dict(resume_state["more"]["trace"])
        if compensation is not None:
            compensation.load_state_dict(resume_state["more"]["compensation"])
        sequential.done = resume_state["more"]["handed_over"]

    def shrink(step: Step | None) -> dict[str, float]:
        fallen = shrinking.step(step.lr if step is not None else 0.0)
        if compensation is not None:
            compensation.step(fallen)
        if shrinking.missing == 0:
            sequential.run()
        trace.add()
        return {"decided": shrinking.number, "dead": shrinking.dead}

    phases: tuple[PhaseRecord, ...] = ()
    if total == 0:
        shrink(None)
    else:
        penalty = shrinking.penalty if spec.method == "penalty" else None
        outcome = run_phase(
            "bifurcate",
            "Bifurcating",
            pruning.trainer(2, spec, pruning.module, penalty=penalty),
            emit=run.emit,
            stop=run.stop,
            run=run.directory,
            resume_state=resume_state,
            after_step=shrink,
            more_state=lambda: {
                "selected": selected,
                "bifurcation": shrinking.state_dict(),
                "compensation": compensation.state_dict() if compensation is not None else None,
                "handed_over": sequential.done,
                "trace": trace.state_dict(),
            },
        )
        phases = (outcome.record,)
        run.seconds["bifurcate"] = outcome.seconds
    if compensation is not None:
        compensation.move()
    shrinking.finish()
    if shrinking.missing:
        raise GateError(
            f"the target is missed: {shrinking.missing} of {int(selected.sum())} decided filters are not zero after "
            f"{total} steps of {spec.method}; raise prune.bifurcate.strength, take more steps, or use method: flow"
        )
    sequential.run()
    return Shrunk(selected, trace.record(), phases)


def _shrinking(pruning: PruneRun, selected: Tensor, total: int) -> Bifurcation:
    """How the recipe takes the selected filters to zero."""
    spec = pruning.spec.bifurcate
    arguments = (pruning.module, pruning.filters, selected, spec.chi)
    if spec.method == "proximal":
        return Proximal(*arguments, strength=spec.strength)
    if spec.method == "penalty":
        return Penalty(*arguments, strength=spec.strength, epsilon=spec.epsilon)
    return Flow(*arguments, steps=max(1, round(spec.shrink * total)))


def _compensation(pruning: PruneRun, selected: Tensor, every: int) -> Compensation | None:
    """Least squares for what reads the selected filters while they shrink, where the recipe asks for it."""
    spec, run = pruning.spec.compensate, pruning.run
    if not spec.enabled or spec.hand_over != "local":
        return None
    batches = pruning.batches(3, max(1, -(-spec.images // run.prepared.data.spec.batch_size)))
    with run.phase("compensate", "Fitting stand-ins", reported=False):
        readers = run.processes.once(
            lambda: (
                fit_compensation(
                    pruning.module,
                    pruning.channels,
                    pruning.filters,
                    selected,
                    batches,
                    lambda batch: run.prepared.task.forward(pruning.module, batch),
                    ridge=spec.ridge,
                ).readers
            )
        )
    return Compensation(pruning.module, readers, every)


@dataclass
class _Sequential:
    """The sequential hand-over, once the selected filters are zero, where the recipe asks for it."""

    pruning: PruneRun
    selected: Tensor
    done: bool = False

    def run(self) -> None:
        """Do it, unless it is done; of several processes the first one does it for all."""
        spec, processes = self.pruning.spec.compensate, self.pruning.run.processes
        if self.done or not spec.enabled or spec.hand_over != "sequential":
            return
        self.done = True
        processes.once(self._hand_over)
        processes.align(self.pruning.module)

    def _hand_over(self) -> None:
        pruning, spec = self.pruning, self.pruning.spec.compensate
        at_once = pruning.spec.bifurcate.method == "none"  # else it is a moment of that phase
        with pruning.run.phase("compensate", "Handing over", reported=False) if at_once else nullcontext():
            task = pruning.run.prepared.task
            count = fitting(pruning.examples[0], spec.images)
            batches = [task.arguments(inputs) for inputs, _ in pruning.batches(3, 1, count)]
            arguments = pruning.module, pruning.original, pruning.channels, pruning.filters, self.selected
            folder = pruning.run.directory.path
            hand_over_if_traced(*arguments, batches, spec, pruning.run.emit, after_fit=lambda w: spill(w, folder))


def hand_over_if_traced(
    model: nn.Module,
    original: nn.Module,
    channels: Channels,
    filters: Filters,
    selected: Tensor,  # (n,) mask of the filters that go
    batches: list[Inputs],
    spec: CompensateSpec,
    emit: Emit,
    *,
    after_fit: Callable[[Tensor], None] = lambda _: None,
) -> None:
    """The sequential hand-over; where the forward pass cannot be run again, the model as it was and a warning."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        hand_over(model, original, channels, filters, selected, batches, ridge=spec.ridge, after_fit=after_fit)
    except TraceError as error:
        model.load_state_dict(before)
        emit(Noted(f"nothing was handed over: {error}", warning=True))


def fitting(example: Inputs, wanted: int) -> int:
    """How many samples make one batch, whose activations lie in memory twice: fewer where they are large.

    Args:
        example: of two samples.
    """
    leaves = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    each = max(1, sum(leaf.numel() for leaf in leaves) // 2)
    return max(1, min(wanted, max(FEWEST, NUMBERS // each)))


class TraceRecorder:
    """Norms and d of every filter at some moments of the bifurcation."""

    def __init__(self, shrinking: Bifurcation, every: int) -> None:
        self.shrinking, self.every = shrinking, every
        self.steps: list[int] = [0]
        self.norm: list[Tensor] = [shrinking.start.cpu()]
        self.d: list[Tensor] = [shrinking.d.cpu()]

    def add(self) -> None:
        """The filters as they are, where it is time."""
        if self.shrinking.done % self.every == 0:
            self.steps.append(self.shrinking.done)
            self.norm.append(norms(self.shrinking.module, self.shrinking.filters).cpu())
            self.d.append(self.shrinking.d.cpu())

    def state_dict(self) -> Mapping[str, Any]:
        """All of it, as torch.save takes it."""
        return {"steps": self.steps, "norm": torch.stack(self.norm), "d": torch.stack(self.d)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.steps, self.norm, self.d = list(state["steps"]), list(state["norm"]), list(state["d"])

    def record(self) -> BifurcationTrace:
        """What the report draws."""
        norm, d = (tuple(tuple(row.tolist()) for row in rows) for rows in (self.norm, self.d))
        return BifurcationTrace(tuple(self.steps), norm, d, tuple(self.shrinking.decided.cpu().tolist()))

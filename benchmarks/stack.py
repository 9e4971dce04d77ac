"""Many seeds of a small net at once: their parameters are stacked, and one step moves all of them (torch.func).

The modules of the seeds hold views of the stacked tensors, so that all else of a strategy, its contraction, its trace
and its removal, is extcon's own code and acts on each seed by itself. For nets without buffers and without dropout, at
a constant learning rate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from extcon_cli.bypass.strategies import CONTROLS, STRATEGIES, Strategy
from extcon_cli.bypass.strategies.base import StepInfo
from extcon_cli.bypass.trace import Trace
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.errors import GateError, UsageError
from extcon_cli.pipelines.bypass import strategies
from extcon_cli.pipelines.bypassing.stalled import Stalled, schedule_of, stalled_model
from extcon_cli.pipelines.running.prepare import prepare
from extcon_cli.recipe.schema import OptimizerSpec, Recipe
from extcon_cli.tasks import Task
from extcon_cli.tasks.base import prediction
from extcon_cli.training.calibration import calibrate
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.loop import Batches
from extcon_cli.training.optim import lr_factor, optimizer, total_steps

OURS = Trust(recipe=True)
"""The recipes here are the benchmarks' own, and so are the nets that they name."""


class Stack:
    """The parameters of equal modules, stacked: (S, ...). The modules' own, and their gradients, become views."""

    def __init__(self, modules: Sequence[nn.Module], task: Task) -> None:
        if any(True for _ in modules[0].buffers()):
            raise UsageError("a module with buffers cannot be stacked")
        base = copy.deepcopy(modules[0]).train()
        held = [dict(module.named_parameters()) for module in modules]
        self.own = [p for own in held for p in own.values()]
        self.stacked = {name: torch.stack([own[name].detach() for own in held]).requires_grad_() for name in held[0]}
        for name, whole in self.stacked.items():
            whole.grad = torch.zeros_like(whole)
            for own, values, gradient in zip(held, whole.data, whole.grad, strict=True):
                own[name].grad = None
                own[name].data = values
                if own[name].requires_grad:
                    own[name].grad = gradient
        self.losses = vmap(lambda p, x, y: task.loss(prediction(functional_call(base, p, (x,))), y))

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each seed, its gradient added: (S,)."""
        losses: Tensor = self.losses(self.stacked, x, y)
        losses.sum().backward()
        return losses.detach()

    @torch.no_grad()
    def move(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step of all; what a contraction has projected stays where it is."""
        still = [(p, p.clone()) for p in self.own if not p.requires_grad]
        optimizer.step()
        for parameter, value in still:
            parameter.copy_(value)
        for whole in self.stacked.values():
            assert whole.grad is not None
            whole.grad.zero_()


def steps(
    modules: Callable[[], Sequence[nn.Module]],
    loaders: Sequence[Batches],
    task: Task,
    spec: OptimizerSpec,
    factors: Sequence[float],
    penalty: Callable[[], Sequence[Tensor]] = lambda: (),
) -> Iterator[tuple[int, Tensor]]:
    """Train each module on its own batches; after every step its number and the losses, (S,).

    Args:
        modules: as they are; where others have come in their places the optimizer begins anew.
        factors: of the learning rate, one a step.
        penalty: what is added to the loss, of some of the seeds.
    """
    whole = [loader.batch(0) if len(loader) == 1 else None for loader in loaders]  # all data at once: in any order
    now: list[nn.Module] = []
    for index, factor in enumerate(factors):
        if any(old is not new for old, new in zip(now, modules(), strict=False)) or not now:
            now = list(modules())
            stack = Stack(now, task)
            moving = optimizer(spec, stack.stacked.values())
        for group in moving.param_groups:
            group["lr"] = spec.lr * factor
        batches = [all_of or loader.batch(index) for all_of, loader in zip(whole, loaders, strict=True)]
        losses = stack.backward(*(torch.stack(parts) for parts in zip(*batches, strict=True)))
        added = [term for term in penalty() if term.requires_grad]
        if added:
            torch.stack(added).sum().backward()
        stack.move(moving)
        yield index, losses


def stalled(recipe: Recipe, seeds: int) -> list[nn.Module]:
    """The recipe's model, trained anew by each seed, all of them in one go: `extcon train` with `keep: last`."""
    prepared = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        prepared.append(prepare(recipe.model_copy(update={"seed": seed}), None, trust=OURS))
    modules = [item.module for item in prepared]
    loaders = [item.data.train_loader(device="cpu", seed=seed) for seed, item in enumerate(prepared)]
    spec = recipe.train
    total = total_steps(spec, len(loaders[0]))
    factors = [lr_factor(spec.schedule, step, total) for step in range(total)]
    for _ in steps(lambda: modules, loaders, prepared[0].task, spec.optimizer, factors):
        pass
    return modules


@dataclass(frozen=True)
class Walked:
    """One strategy of one seed: the contracted module (None: there is none) and what was measured."""

    module: nn.Module | None
    certificate: dict[str, object]
    history: dict[str, object]


def compare(recipe: Recipe, modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """Every strategy of the recipe from each of these, as `extcon bypass --ignore-probe` does, without the probe.

    Returns of each seed what its document would hold: before, after, validation, certificate, verdict, history.
    """
    seeds = []
    for seed, module in enumerate(modules):
        prepared = prepare(recipe.model_copy(update={"seed": seed}), None, trust=OURS)
        seeds.append(stalled_model(replace(prepared, module=module.eval()), create_accelerator("cpu", "no")))
    walks = {name: _walk(name, seeds) for name in strategies(recipe.bypass)}
    return [
        document(stalled, {name: walked[seed] for name, walked in walks.items()}) for seed, stalled in enumerate(seeds)
    ]


def document(stalled: Stalled, found: Mapping[str, Walked]) -> dict[str, Any]:
    """What the document of one seed would hold, and the figures of each strategy."""
    ended = {"theta*": stalled.model(stalled.theta)}
    ended |= {name: walked.module for name, walked in found.items() if walked.module is not None}
    losses = {name: stalled.metrics(module, "validation")["loss"] for name, module in ended.items()}
    calibrated = {name: stalled.calibrated(module) for name, module in ended.items()}
    judged = {name: losses[name] if known is None else known.loss for name, known in calibrated.items()}
    allowed = [name for name in losses if name not in CONTROLS and losses[name] <= losses["theta*"]]
    verdict = min(allowed, key=judged.__getitem__)
    return {
        "certificate": {name: walked.certificate for name, walked in found.items()},
        "history": {"phases": [walked.history for walked in found.values()]},
        "validation": losses,
        "calibrated": {name: known and vars(known) for name, known in calibrated.items()},
        "test": {name: stalled.metrics(module, "test") for name, module in ended.items()},
        "test calibrated": {name: _calibrated(stalled, module) for name, module in ended.items()},
        "verdict": verdict,
        "before": {"metrics": stalled.metrics(ended["theta*"], "test")},
        "after": {"metrics": stalled.metrics(ended[verdict], "test")},
    }


def _calibrated(stalled: Stalled, module: nn.Module) -> float | None:
    """The test loss after one temperature has been fitted on the test data; None: the outputs are no logits."""
    loader = stalled.prepared.data.eval_loader("test", device="cpu")
    found = calibrate(module, lambda: iter(loader), stalled.task)
    return found.loss if found is not None else None


def _walk(name: str, seeds: Sequence[Stalled]) -> list[Walked]:
    """One strategy of all seeds."""
    ways: dict[int, Strategy] = {}
    lost: dict[int, str] = {}
    for seed, stalled in enumerate(seeds):
        try:
            ways[seed] = STRATEGIES[name](stalled.context(stalled.theta))
        except (GateError, UsageError) as error:
            lost[seed] = str(error)
    traces = {seed: Trace(way, way.context.phases.total) for seed, way in ways.items()}
    losses: dict[int, dict[int, float]] = {seed: {} for seed in range(len(seeds))}  # by step
    if ways:
        _together(ways, traces, {seed: seeds[seed] for seed in ways}, losses, lost)
    found = []
    for seed in range(len(seeds)):
        trace = [list(row) for row in traces[seed].rows] if seed in traces else []
        at, loss = list(losses[seed]), list(losses[seed].values())
        history = {"phase": name, "steps": at, "loss": loss, "trace": trace}
        if seed in lost:
            found.append(Walked(None, {"contracted": False, "reason": lost[seed]}, history))
        else:
            report = ways[seed].contract()
            found.append(Walked(report.module, report.to_json(), history))
    return found


def _together(
    ways: Mapping[int, Strategy],
    traces: Mapping[int, Trace],
    seeds: Mapping[int, Stalled],
    losses: dict[int, dict[int, float]],
    lost: dict[int, str],
) -> None:
    first = next(iter(seeds.values()))
    spec, one = first.spec, next(iter(ways.values()))
    total = one.context.phases.total
    if spec.schedule.name != "constant" or any(p.optimizer for p in (spec.opt_1, spec.opt_2, spec.train_3)):
        raise UsageError("stacked seeds take a constant learning rate and one optimizer")

    def penalty() -> list[Tensor]:
        return [term for seed, way in ways.items() if seed not in lost and (term := way.penalty()) is not None]

    loaders, lr = [stalled.loader for stalled in seeds.values()], spec.optimizer.lr * one.lr_factor
    own = schedule_of(one.rate_schedule, total) if one.rate_schedule is not None else spec.schedule
    for index, now in steps(
        lambda: [way.module for way in ways.values()],
        loaders,
        first.task,
        spec.optimizer,
        [one.lr_factor * lr_factor(own, step, total) for step in range(total)],
        penalty,
    ):
        for (seed, way), loss in zip(ways.items(), now, strict=True):
            if seed in lost:
                continue
            try:
                way.after_step(StepInfo(index, lr, loss))
                traces[seed].note(index)
            except GateError as error:
                lost[seed] = str(error)
        if index % max(1, total // 1000) == 0:
            for seed, value in zip(ways, now.tolist(), strict=True):
                losses[seed][index + 1] = value

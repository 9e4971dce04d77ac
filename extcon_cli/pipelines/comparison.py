"""theta*, the diagnosis, and every way from there, each for as many steps on the same batches.

Candidates are chosen from by validation loss; controls are compared with and never chosen.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.contraction import ContractionSettings
from extcon_cli.bypass.extension import extend
from extcon_cli.bypass.plateau import dead_units
from extcon_cli.bypass.strategies import BASELINE, CONTROLS, EXTENSIONS, STRATEGIES, Strategy
from extcon_cli.bypass.strategies.base import PhaseSteps, Scoring, StepInfo, StrategyContext, StrategySettings
from extcon_cli.bypass.strategies.revive import constants_on
from extcon_cli.bypass.trace import Trace
from extcon_cli.bypass.units import units
from extcon_cli.channels import Channels, channel_groups
from extcon_cli.errors import DivergedError, GateError, TraceError, UsageError
from extcon_cli.events import Emit, Noted, PhaseEnded, PhaseStarted, Progress, ignore
from extcon_cli.pipelines.diagnosis import Trial, diagnose, gradient_norm
from extcon_cli.pipelines.measure import measured
from extcon_cli.pipelines.phase import PROGRESS_EVERY, run_phase
from extcon_cli.pipelines.prepare import Prepared
from extcon_cli.recipe.schema import BypassSpec, OptimizerSpec, TrainSpec
from extcon_cli.report.bypass_results import Diagnosis
from extcon_cli.report.document import evidence
from extcon_cli.report.measure import measure
from extcon_cli.report.numbers import percent
from extcon_cli.report.records import Metrics
from extcon_cli.report.serialise import from_json, to_json
from extcon_cli.training.device import Accelerator, create_accelerator
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.loop import Step, Trainer
from extcon_cli.training.objective import objective, per_sample_loss, prediction
from extcon_cli.training.optim import total_steps
from extcon_cli.training.run_directory import RunDirectory

ResumeState = tuple[str, dict[str, Any]] | None
GRADIENT_BATCHES = 20
"""Training batches over which the gradient's norm, and the energy of widened units, are taken."""
ATTEMPTS = 4
"""How often a way whose loss is not finite goes back to its last good state, each time at half the learning rate."""


def way_of(name: str) -> str:
    """The way of a branch: "diag" of "diag 2", in the second cycle."""
    return name.partition(" ")[0]


@dataclass
class Comparison:
    """theta*, its diagnosis, and what became of it on each branch."""

    prepared: Prepared
    accelerator: Accelerator
    run: RunDirectory | None
    emit: Emit
    stop: Stop
    branches: dict[str, dict[str, Any]] = field(default_factory=dict)
    diagnosis: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    good: dict[str, Any] | None = None  # the last good state of the way that is gone

    def __post_init__(self) -> None:
        self.spec: BypassSpec = self.prepared.recipe.bypass
        self.module = self.prepared.module.to(self.accelerator.device)
        if self.spec.start == "initialisation":
            _initialise(self.module, self.prepared.recipe.seed)
        self.example = (next(iter(self.prepared.data.eval_loader("train", device=self.accelerator.device)))[0][:2],)
        self.input_shape = tuple(self.example[0].shape[1:])
        self.theta = copy.deepcopy(self.module.state_dict())
        self.loader = self.prepared.data.train_loader(device=self.accelerator.device, seed=self.prepared.recipe.seed)
        self.task = objective(self.prepared.recipe.task)
        self.losses["theta*"] = self.metrics(self.module, "validation")["loss"]

    @property
    def states(self) -> dict[str, Any]:
        """theta*, and where each branch ended."""
        ended = {name: branch["state"] for name, branch in self.branches.items() if branch["state"] is not None}
        return {"theta*": self.theta, **ended}

    @cached_property
    def channels(self) -> Channels:
        """The channel groups; tracing takes seconds, and every extension by units needs them."""
        return channel_groups(self.model("theta*").eval(), self.example)

    def compare(self, resume_state: ResumeState, *, go_on: bool) -> None:
        """Diagnose once; then every way of every cycle. What a resumed run has is taken from it."""
        if resume_state is not None:
            more = resume_state[1]["more"]
            self.branches, self.losses = dict(more["branches"]), dict(more["losses"])
            self.diagnosis, self.seconds = more["diagnosis"], dict(more["seconds"])
        else:
            self.diagnosis = self.diagnose()
            if self.run is not None:
                self.run.save("diagnosis", {"more": self._kept()})
        self.emit(Noted(evidence(from_json(Diagnosis, self.diagnosis))))
        if not (go_on or self.diagnosis["predicted"]):
            text = f"no gain is to be expected: stopped (--go-on bypasses all the same){self._else()}"
            self.emit(Noted(text, warning=True))
            return
        behind = () if go_on else self.diagnosis["behind"]
        if behind:
            self.emit(Noted(f"left out, far behind in the probe: {', '.join(behind)} (--go-on tries them all)"))
        for cycle in range(1, self.spec.cycles + 1):
            start = self.best(before=cycle)
            for way in self.ways():
                name = way if cycle == 1 else f"{way} {cycle}"
                if name not in self.branches and way not in behind:
                    self._branch(
                        name, start, resume_state[1] if resume_state is not None and resume_state[0] == name else None
                    )

    def _else(self) -> str:
        """What the probe found to help instead."""
        lowered = self.diagnosis["probe"].get("lr_drop")
        if lowered is None or lowered["gain"] < max(self.spec.probe.gain, 2 * lowered["error"]):
            return ""
        return f"; {self.spec.probe.lr_drop:g} of the learning rate would gain {percent(lowered['gain'])}"

    def ways(self) -> tuple[str, ...]:
        """What the recipe asks for, in order."""
        return (*((BASELINE, *self.spec.controls) if self.spec.baseline else ()), *self.spec.extensions)

    def best(self, before: int | None = None) -> str:
        """The candidate with the least validation loss; of the cycles `before` one."""

        def counts(name: str) -> bool:
            cycle = int(name.partition(" ")[2] or 1)
            return way_of(name) not in CONTROLS and (before is None or name == "theta*" or cycle < before)

        return min((name for name in self.losses if counts(name)), key=lambda name: self.losses[name])

    def diagnose(self) -> dict[str, Any]:
        """The whole run in miniature, on copies and the same batches; dead units and the gradient at theta*."""
        given = self.given("theta*")
        model = given.model().eval()
        batches = min(GRADIENT_BATCHES, len(self.loader))
        names = ("baseline", "lr_drop", *self.spec.extensions)
        self.emit(PhaseStarted("probe", "Probing in miniature", len(names) * self.spec.probe.steps))
        began = time.monotonic()
        found = diagnose(
            {name: lambda name=name, i=i: self._trial(name, given, i) for i, name in enumerate(names)},  # type: ignore[misc]
            self._dead(given),
            gradient_norm(model, (self._loss(model, self.loader.batch(step)) for step in range(batches))),
            least_gain=self.spec.probe.gain,
        )
        self.seconds["probe"] = time.monotonic() - began
        self.emit(PhaseEnded("probe", self.seconds["probe"]))
        return found

    def _trial(self, name: str, given: StrategyContext, number: int) -> Trial | str:
        """A short run of a way; why there is none. `radius` contracts, as it needs no time to find its way."""
        quarter = self.spec.probe.steps // 4
        radius = replace(given.settings, contraction=replace(given.settings.contraction, method="radius"))
        phases = PhaseSteps(self.spec.probe.steps - 2 * quarter, quarter, quarter)
        short = replace(given, phases=phases, settings=radius)
        try:
            way = STRATEGIES[name](short)
            trainer, after = self._training(name, way)
            losses, shown = [], 0.0
            for step in trainer:
                self.stop.check()
                way.after_step(StepInfo(step.index, step.lr, step.loss))
                after(step)
                losses.append(step.loss)
                if step.last or time.monotonic() - shown >= PROGRESS_EVERY:
                    self.emit(Progress("probe", number * step.total + trainer.done))
                    shown = time.monotonic()
            module = way.contract().module
        except (GateError, TraceError, UsageError) as error:
            return str(error)
        loader = self.prepared.data.eval_loader("validation", device=self.accelerator.device)
        return Trial(torch.stack(losses).tolist(), per_sample_loss(module.eval(), loader, self.prepared.recipe.task))

    def _dead(self, given: StrategyContext) -> dict[str, dict[str, int]]:
        """Dead units by activation; by channel group where the model's forward pass cannot be rewritten."""
        model = given.model().eval()
        try:
            extended = extend(model, self.example)
        except (GateError, TraceError, UsageError):
            found = units(model, self.channels)
            seen = constants_on(model, found, self._inputs())
            dead = [torch.stack([~values.isnan() for values in held.values()]).all(0) for held in seen]
            return {
                group.name: {"dead": int(mask.sum()), "nearly": 0, "units": group.group.size}
                for group, mask in zip(found, dead, strict=True)
            }
        return dead_units(extended, lambda: (x for (x,) in self._inputs()))

    def _branch(self, name: str, start: str, resume_state: Mapping[str, Any] | None) -> None:
        """One way from `start` to its end; a way that cannot go, or is lost, leaves a note and no state.

        Where the loss is not finite it goes back to its last good state and takes half the learning rate.
        """
        ended: dict[str, Any] = {"state": None, "history": {"phase": name, "steps": [], "loss": []}, "certificate": {}}
        given = self.given(start, int(name.partition(" ")[2] or 1))
        self.good = resume_state["more"]["good"] if resume_state is not None else None
        for attempt in range(resume_state["more"]["attempt"] if resume_state is not None else 0, ATTEMPTS):
            way = None
            try:
                way = STRATEGIES[way_of(name)](given)
                self._walk(name, way, attempt, resume_state)
                return
            except DivergedError as error:
                resume_state = copy.deepcopy(self.good)
                back = (
                    f"back to step {resume_state['trainer']['done']}"
                    if resume_state is not None
                    else "back to its start"
                )
                self.emit(Noted(f"{name}: {error}; {back}, at half the rate", warning=True))
                ended["certificate"] = {"contracted": False, "reason": str(error)}
            except (GateError, TraceError, UsageError) as error:
                self.emit(Noted(f"{name}: {error}", warning=True))
                ended["certificate"] = {"contracted": False, "reason": str(error)} if way is not None else {}
                break
        self.branches[name] = ended

    def _walk(self, name: str, way: Strategy, attempt: int, resume_state: Mapping[str, Any] | None) -> None:
        """Train a way to its end and keep what it leaves."""
        trace = Trace(way, way.context.phases.total)
        trainer, step_over = self._training(way_of(name), way, 0.5**attempt, resume_state)
        if resume_state is not None:
            trace.load_state_dict(resume_state["more"]["trace"])

        def state_of() -> dict[str, Any]:
            return {"way": way.state_dict(), "trace": trace.state_dict()}

        def after(step: Step) -> dict[str, float]:
            way.after_step(StepInfo(step.index, step.lr, step.loss))
            trace.note(step.index)
            step_over(step)
            return {**way.figures, **({"D": trace.rows[-1].norm} if way.deltas else {})}

        def more() -> dict[str, Any]:
            return {**self._kept(), **state_of(), "attempt": attempt, "good": self.good}

        def good(state: dict[str, Any]) -> None:
            self.good = {**state, "more": copy.deepcopy(state_of())}

        outcome = run_phase(
            name, way.title, trainer, emit=self.emit, stop=self.stop, run=self.run, resume_state=resume_state,
            after_step=after, more_state=more, on_finite_state=good,
        )  # fmt: skip
        report = way.contract()
        module, certificate = report.module, report.to_json()
        self.losses[name] = self.metrics(module, "validation")["loss"]
        self.seconds[name] = outcome.seconds
        self.branches[name] = {
            "state": copy.deepcopy(module.state_dict()),
            "history": {**to_json(outcome.record), "trace": [list(row) for row in trace.rows]},
            "certificate": {**certificate, **({"restarts": attempt} if attempt else {})},
        }

    def _kept(self) -> dict[str, Any]:
        """What a resumed run takes over."""
        names = ("branches", "diagnosis", "losses", "seconds")
        return {name: getattr(self, name) for name in names}

    def _training(
        self, name: str, way: Strategy, factor: float = 1.0, resume_state: Mapping[str, Any] | None = None
    ) -> tuple[Trainer, Callable[[Step], None]]:
        """The trainer of a way, and what to do after each step: the phases of an extension may have optimizers."""
        opt_1, opt_2 = way.context.phases.opt_1, way.context.phases.opt_2
        phases = (self.spec.opt_1, self.spec.opt_2, self.spec.train_3)
        wanted = [(phase.optimizer if name in EXTENSIONS else None) or self.spec.optimizer for phase in phases]
        specs = {
            at: spec.model_copy(update={"lr": spec.lr * way.lr_factor * factor})
            for at, spec in zip((0, opt_1, opt_1 + opt_2), wanted, strict=True)
        }
        running = specs[
            max(at for at in specs if at <= (resume_state["trainer"]["done"] if resume_state is not None else 0))
        ]
        trainer = self.trainer(way.module, way.context.phases.total, running, way.penalty)
        if resume_state is not None:
            way.load_state_dict(resume_state["more"]["way"])
            trainer.switch(running, way.module)

        def after(step: Step) -> None:
            if not step.last and step.index + 1 in specs:
                trainer.switch(specs[step.index + 1], way.module)

        return trainer, after

    def given(self, start: str, cycle: int = 1) -> StrategyContext:
        """What a way from this state is made from; each cycle draws other new units."""
        parts = (self.spec.opt_1, self.spec.opt_2, self.spec.train_3)
        opt_1, opt_2, train_3 = (total_steps(part, len(self.loader)) for part in parts)
        batches = min(GRADIENT_BATCHES, len(self.loader))
        return StrategyContext(
            model=lambda: self.model(start).eval(),
            channels=lambda: self.channels,
            example=self.example,
            data=self._inputs,
            scoring=Scoring(lambda: (self.loader.batch(step) for step in range(batches)), self._loss),
            phases=PhaseSteps(opt_1, opt_2, train_3),
            settings=self._settings(start),
            seed=self.prepared.recipe.seed + cycle - 1,
        )

    def _inputs(self) -> Iterator[tuple[Tensor]]:
        return ((x,) for x, _ in self.prepared.data.eval_loader("train", device=self.accelerator.device))

    def _loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.task(prediction(module(batch[0])), batch[1])

    def _settings(self, start: str) -> StrategySettings:
        spec, raised = self.spec.opt_2, self.spec.opt_2.raised
        return StrategySettings(
            form=self.spec.form,
            layers=self.spec.layers,
            contraction=ContractionSettings(
                spec.method,
                gamma=spec.gamma,
                raised=(total_steps(raised, len(self.loader)), raised.gamma) if raised else None,
                epsilon=spec.epsilon,
                bound=self.metrics(self.model(start), "train")["loss"] if spec.method == "controlled" else 0.0,
            ),
            share=self.spec.widen.share,
            widened=self.spec.widen.layers,
            lr_drop=self.spec.probe.lr_drop,
            perturbation=self.spec.perturbation,
        )

    def trainer(
        self, module: nn.Module, steps: int, optimizer: OptimizerSpec, penalty: Callable[[], Tensor | None]
    ) -> Trainer:
        """Training over `steps` steps, on the same batches each time."""
        spec = TrainSpec(
            epochs=None, steps=steps, optimizer=optimizer, schedule=self.spec.schedule, clip_grad=self.spec.clip_grad
        )
        torch.manual_seed(self.prepared.recipe.seed)
        return Trainer(module, self.loader, spec, objective=self.task, accelerator=self.accelerator, penalty=penalty)

    def model(self, name: str) -> nn.Module:
        """A new copy of the model in one of the states."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.states[name])
        return module.to(self.accelerator.device)

    def metrics(self, module: nn.Module, split: str) -> Metrics:
        return measured(module, self.prepared.data, split, self.accelerator, self.stop) or {}

    def figures(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Test metrics and size of a state."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(state)
        size = measure(module, self.input_shape)
        metrics = self.metrics(module, "test")
        return {"metrics": metrics, "params": size.params, "macs": size.macs, "bytes": size.bytes}


def diagnosis(prepared: Prepared, *, device: str | None = None, stop: Stop | None = None) -> dict[str, Any]:
    """Whether a checkpoint is stalled and what an extension would gain, as `bypass` finds it; nothing is kept.

    Raises: UsageError (no extension of this model).
    """
    torch.manual_seed(prepared.recipe.seed)
    return Comparison(prepared, create_accelerator(device, "no"), None, ignore, stop or Stop()).diagnose()


def _initialise(module: nn.Module, seed: int) -> None:
    """New weights by each layer's own `reset_parameters` (UsageError: a layer has none)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, child in module.named_modules():
            if not child._parameters and not child._buffers:
                continue
            reset = getattr(child, "reset_parameters", None)
            if not callable(reset):
                raise UsageError(f"bypass.start: initialisation: {name or 'the model'} says no way to draw its weights")
            reset()

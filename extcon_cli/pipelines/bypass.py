"""`extcon bypass`: diagnose, probe, bypass, and compare with going on (DESIGN.md, section 2). Never does harm.

The result is the best of theta*, the baseline and the bypassed model by the loss on the validation data.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from extcon_cli import __version__
from extcon_cli.bypass.constraint import Contraction
from extcon_cli.bypass.extension import Extended, extend
from extcon_cli.bypass.plateau import dead_units, slope
from extcon_cli.channels import difference
from extcon_cli.channels.verify import EXACT, random_batches
from extcon_cli.checkpoint.write import check_writable, write
from extcon_cli.errors import DataError, GateError, Interrupted
from extcon_cli.events import Emit, Noted, RunStarted, Saved, ignore
from extcon_cli.pipelines.output import SCHEMA, data_metadata, widths
from extcon_cli.pipelines.phase import Metrics, run_phase, told
from extcon_cli.pipelines.prepare import Prepared, prepare
from extcon_cli.pipelines.train import measured
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import BypassSpec, Recipe, TrainSpec
from extcon_cli.report.measure import latency, measure
from extcon_cli.training.device import Accelerator, accelerator
from extcon_cli.training.interrupt import Stop, graceful
from extcon_cli.training.loop import Step, Trainer
from extcon_cli.training.objective import objective
from extcon_cli.training.optim import total_steps
from extcon_cli.training.run_directory import RunDirectory

Kept = tuple[str, dict[str, Any]] | None
ORDER = ("baseline", "lr_drop", "bypassed")


def bypass(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    go_on: bool = False,
    require_gain: bool = False,
    trust_code: bool = False,
    trust_pickle: bool = False,
    trust_recipe: bool = False,
    emit: Emit = ignore,
) -> dict[str, Any]:
    """Bypass where a checkpoint is stalled, and write the best model to `output`; the result document.

    Args:
        go_on: though the probe predicts no gain.
        require_gain: GateError, and nothing written, where the bypassed model is not the best.
        the others: as in `prune`.
    """
    began = time.monotonic()
    check_writable(output, force)
    hardware = accelerator(device, "no")
    torch.manual_seed(recipe.seed)
    ready = prepare(recipe, checkpoint, trust_code=trust_code, trust_pickle=trust_pickle, trust_recipe=trust_recipe)
    assert ready.opened is not None
    if not len(ready.data.validation):
        raise DataError("bypass chooses by validation data: set data.validation above 0")
    run = RunDirectory(
        Path(f"{output}.run"), ready.recipe, {"command": "bypass", "checkpoint": ready.opened.checkpoint.sha256}
    )
    kept = run.begin(resume=resume)
    emit = told(emit, run)
    emit(RunStarted("bypass", str(checkpoint), str(output), str(hardware.device), recipe.seed))
    with graceful() as stop:
        job = _Job(ready, hardware, run, emit, stop)
        try:
            diagnosis = job.diagnose()
            if go_on or diagnosis["gain"] >= job.spec.probe.gain:
                job.run_all(kept)
            else:
                emit(Noted("no gain is to be expected: the probe gained "
                           f"{100 * diagnosis['gain']:.1f} % (--force goes on)", warning=True))  # fmt: skip
            losses = job.losses()
            kind = min((name for name in losses if name != "lr_drop"), key=lambda name: losses[name])
            before, after = (job.figures(job.states[name]) for name in ("theta*", kind))
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted; the state is kept in {run.path}: repeat the command with --resume to go on"
            ) from error
    if require_gain and kind != "bypassed":
        raise GateError(f"no gain: the best on the validation data is {kind}; nothing was written")
    done = {
        "command": "bypass",
        "version": __version__,
        "before": before,
        "after": after,
        "verdict": kind if job.branches else "no gain expected",
        "validation": losses,
        "diagnosis": diagnosis,
        "certificate": job.certificate,
    }
    original = job.model("theta*").cpu()
    module = job.model(kind).cpu().eval()
    write(output, module, data_metadata(ready, done), force=force)
    emit(Saved(str(output)))
    for figures, of in ((before, original), (after, module)):
        figures["latency"] = {str(n): latency(of, job.input_shape, n) for n in (1, 64)}
    return {
        "schema": SCHEMA,
        **done,
        "checkpoint": str(checkpoint),
        "output": str(output),
        "recipe": to_dict(ready.recipe),
        "seed": recipe.seed,
        "device": str(hardware.device),
        "layers": widths(original, module, job.input_shape),
        "history": {"phases": [branch["history"] for branch in job.branches.values()]},
        "seconds": {**job.seconds, "total": time.monotonic() - began},
    }


@dataclass
class _Job:
    """theta*, and what became of it on each branch."""

    ready: Prepared
    hardware: Accelerator
    run: RunDirectory
    emit: Emit
    stop: Stop
    branches: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = self.ready.module.to(self.hardware.device)
        self.spec: BypassSpec = self.ready.recipe.bypass
        self.example = (next(iter(self.ready.data.eval_loader("train", device=self.hardware.device)))[0][:2],)
        self.input_shape = tuple(self.example[0].shape[1:])
        self.theta = copy.deepcopy(self.module.state_dict())
        self.loader = self.ready.data.train_loader(device=self.hardware.device, seed=self.ready.recipe.seed)
        parts = (self.spec.opt_1, self.spec.opt_2, self.spec.train_3)
        self.lengths = [total_steps(part, len(self.loader)) for part in parts]
        self.bound = self.metrics(self.module, "train")["loss"]
        self.certificate: dict[str, Any] = {}

    @property
    def states(self) -> dict[str, Any]:
        ended = {name: branch["state"] for name, branch in self.branches.items() if branch["state"] is not None}
        return {"theta*": self.theta, **ended}

    def diagnose(self) -> dict[str, Any]:
        """Probe from copies on the same batches: the slope of going on, dead units, the predicted gain."""
        steps = max(3, self.spec.probe.steps)
        extended, _ = self.extended()
        dead = dead_units(extended, (x for x, _ in self.ready.data.eval_loader("train", device=self.hardware.device)))
        drop = self.spec.probe.lr_drop
        ways: dict[str, tuple[nn.Module, float]] = {
            "baseline": (self.model("theta*"), 1.0),
            "extended": (extended, 1.0),
            "lr_drop": (self.model("theta*"), drop),
        }
        losses = {}
        for name, (module, factor) in ways.items():
            losses[name] = self._probe(module, steps, factor)
        ends = {name: sum(seen[-max(1, steps // 4) :]) / max(1, steps // 4) for name, seen in losses.items()}
        gain = (ends["baseline"] - ends["extended"]) / max(abs(ends["baseline"]), 1e-30)
        found = slope(losses["baseline"])
        units, number = sum(d for d, _ in dead.values()), sum(n for _, n in dead.values())
        self.emit(Noted(
            f"slope {100 * found.relative:.1f} % per 1000 steps (t {found.t:.1f}), {units} of {number} units dead, "
            f"predicted gain {100 * gain:.1f} %"
        ))  # fmt: skip
        dead_share = {name: {"dead": d, "units": n} for name, (d, n) in dead.items()}
        return {"slope": asdict(found), "dead": dead_share, "probe": ends, "gain": gain if math.isfinite(gain) else 0.0}

    def _probe(self, module: nn.Module, steps: int, factor: float) -> list[float]:
        found = []
        try:
            for step in self.trainer(module, steps, factor):
                self.stop.check()
                found.append(float(step.loss))
        except GateError:  # not finite
            return [*found, *[1e30] * (steps - len(found))]
        return found

    def run_all(self, kept: Kept) -> None:
        """Every branch of the recipe, each from theta*; those that a resumed run has are taken from it."""
        if kept is not None:
            self.branches = dict(kept[1]["more"]["branches"])
        for name in ORDER if self.spec.baseline else ("bypassed",):
            if name not in self.branches:
                self.branches[name] = self._branch(name, kept[1] if kept is not None and kept[0] == name else None)
        self.certificate = self.branches["bypassed"]["certificate"]

    def _branch(self, name: str, kept: Mapping[str, Any] | None) -> dict[str, Any]:
        back: _Back | None = None
        plain = module = self.model("theta*")
        if name == "bypassed":
            module, plain = extended, _ = self.extended()
            back = _Back(extended, plain, self.example, self.lengths, self.spec, self.bound)
        factor = self.spec.probe.lr_drop if name == "lr_drop" else 1.0
        trainer = self.trainer(module, sum(self.lengths), factor, back)
        if kept is not None and back is not None:
            back.load_state_dict(kept["more"]["back"])
        titles = {"baseline": "Going on", "lr_drop": "Lowered learning rate", "bypassed": "Bypassing"}
        try:
            outcome = run_phase(
                name, titles[name], trainer, emit=self.emit, stop=self.stop, run=self.run, kept=kept,
                after_step=back.step if back is not None else None,
                more_state=lambda: {"branches": self.branches, "back": back and back.state_dict()},
            )  # fmt: skip
        except GateError as error:
            self.emit(Noted(f"{name}: {error}", warning=True))
            missed = {"contracted": False, "embed_difference": back.embedding.largest} if back is not None else {}
            return {"state": None, "history": {"phase": name}, "certificate": missed}
        self.seconds[name] = outcome.seconds
        certificate: dict[str, Any] = {}
        if back is not None:
            certificate = back.certificate()
            if not back.met:
                self.emit(Noted("opt_2 did not reach its constraint: no bypassed model", warning=True))
                return {"state": None, "history": outcome.history, "certificate": certificate}
        return {"state": copy.deepcopy(plain.state_dict()), "history": outcome.history, "certificate": certificate}

    def trainer(self, module: nn.Module, steps: int, factor: float, back: _Back | None = None) -> Trainer:
        given = self.spec.optimizer
        spec = TrainSpec(
            epochs=None,
            steps=steps,
            optimizer=given.model_copy(update={"lr": given.lr * factor}),
            schedule=self.spec.schedule,
            clip_grad=self.spec.clip_grad,
        )
        torch.manual_seed(self.ready.recipe.seed)
        task = objective(self.ready.recipe.task)
        penalty = back.penalty if back is not None and self.spec.opt_2.method == "penalty" else None
        return Trainer(module, self.loader, spec, objective=task, accelerator=self.hardware, penalty=penalty)

    def extended(self) -> tuple[Extended, nn.Module]:
        """theta* with psi at its sites, and the module of the original architecture that shares its parameters."""
        original = self.model("theta*").eval()
        return extend(original, self.example, form=self.spec.form, layers=self.spec.layers), original

    def model(self, name: str) -> nn.Module:
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.states[name])
        return module.to(self.hardware.device)

    def metrics(self, module: nn.Module, split: str) -> Metrics:
        return measured(module, self.ready.data, split, self.hardware, self.stop) or {}

    def losses(self) -> dict[str, float]:
        """Validation loss of each candidate, and of the control."""
        return {name: self.metrics(self.model(name), "validation")["loss"] for name in self.states}

    def figures(self, state: Mapping[str, Any]) -> dict[str, Any]:
        module = copy.deepcopy(self.module)
        module.load_state_dict(state)
        size = measure(module, self.input_shape)
        metrics = self.metrics(module, "test")
        return {"metrics": metrics, "params": size.params, "macs": size.macs, "bytes": size.bytes}


class _Back:
    """opt_1 for its steps, then opt_2; measures what embedding, projecting and leaving the graph do to outputs."""

    def __init__(
        self,
        extended: Extended,
        original: nn.Module,  # of the same parameters
        example: tuple[Any, ...],
        lengths: list[int],  # steps of opt_1, opt_2, train_3
        spec: BypassSpec,
        bound: float,
    ) -> None:
        self.extended, self.original, self.example = extended, original, example
        self.lengths, self.spec, self.bound = lengths, spec, bound
        self.contraction: Contraction | None = None
        self.embedding = difference(original, extended, random_batches(example))

    @property
    def met(self) -> bool:
        return self.contraction is not None and self.contraction.met

    def penalty(self) -> torch.Tensor:
        if self.contraction is None or self.met:
            return torch.zeros((), device=self.extended.deltas[0].device)
        return self.contraction.penalty()

    def step(self, step: Step) -> dict[str, float]:
        opt_1, opt_2, _ = self.lengths
        if opt_1 <= step.index < opt_1 + opt_2 and not self.met:
            if self.contraction is None:
                self.contraction = self._begin()
            task = float(step.loss) if self.spec.opt_2.method == "controlled" else 0.0
            self.contraction.step(step.lr, task)
        if step.index + 1 == opt_1 + opt_2 and not self.met:
            raise GateError("opt_2 did not meet its constraint within its steps: raise opt_2.steps or opt_2.gamma")
        return {"D": float(torch.stack([d.detach().norm() for d in self.extended.deltas]).norm())}

    def _begin(self) -> Contraction:
        spec = self.spec.opt_2
        return Contraction(
            self.extended,
            spec.method,
            steps=self.lengths[1],
            gamma=spec.gamma,
            epsilon=spec.epsilon,
            bound=self.bound,
            example=self.example,
        )

    def certificate(self) -> dict[str, Any]:
        """GateError where the original module does not give what the extended one gives."""
        measured = difference(self.extended, self.original, random_batches(self.example))
        if measured.relative > EXACT:
            raise GateError(f"the contraction is not exact: outputs differ by {measured.relative:.1e} of the largest")
        return {
            "contracted": self.met,
            "steps_to_contract": self.contraction.done if self.contraction else 0,
            "embed_difference": self.embedding.largest,
            "projection_difference": self.contraction.jump if self.contraction else 0.0,
            "difference_after_contraction": measured.largest,
        }

    def state_dict(self) -> dict[str, Any] | None:
        return self.contraction.state_dict() if self.contraction is not None else None

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        if state is not None:
            self.contraction = self._begin()
            self.contraction.load_state_dict(state)

"""The training loop: an iterator over optimizer steps. It measures nothing, saves nothing, prints nothing.

    trainer = Trainer(model, loader, spec, objective=objective(Classification()), accelerator=create_accelerator("cpu"))
    for step in trainer:
        ...  # the parameters have moved; act on them, look at step.loss, save trainer.state_dict()

All that decides the next step is in `state_dict()`: on the CPU, a loop that was stopped between two steps and
loaded again goes on bit for bit.

Several processes run the same loop, each on its share of every batch; gradients and the loss are added up over all of
them, so that parameters and optimizers stay the same everywhere. They are added in a fixed order (torch's
DistributedDataParallel changes its own after the first step, and with it the last bits of a run that goes on).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from extcon_cli.errors import DivergedError, GateError
from extcon_cli.processes import ALONE, Processes
from extcon_cli.recipe.schema import OptimizerSpec, ScheduleSpec
from extcon_cli.tasks import Batch
from extcon_cli.training.device import Accelerator
from extcon_cli.training.global_batch_norm import global_batch_norm
from extcon_cli.training.objective import Batches, Objective
from extcon_cli.training.optim import Length, lr_factor, optimizer, total_steps
from extcon_cli.training.speed import PLAIN, Speed
from extcon_cli.training.teacher import Teacher

CHECK_EVERY = 50
"""Steps between two looks at whether the loss is finite, where a look makes the device wait."""


class Phase(Length, Protocol):
    """The section of a recipe that a loop runs by: TrainSpec, FinetuneSpec, BifurcateSpec."""

    @property
    def optimizer(self) -> OptimizerSpec: ...

    @property
    def schedule(self) -> ScheduleSpec: ...

    @property
    def clip_grad(self) -> float | None: ...


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. Reading `loss` as a number, or `metrics`, makes a GPU wait."""

    index: int  # 0 .. total - 1
    total: int
    epoch: float  # epochs done after this step
    lr: float
    loss: Tensor  # () on the device, detached
    figures: Callable[[], Mapping[str, Tensor]]
    """Of this batch, by the task; before the step."""

    @property
    def last(self) -> bool:
        return self.index + 1 == self.total

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Loss, learning rate and what the task shows of a batch, such as its accuracy (0..1)."""
        figures = {name: float(value) for name, value in self.figures().items()}
        return {"loss": float(self.loss), "lr": self.lr, **figures}


class Trainer:
    """Iterates over the steps of one phase.

    Args:
        model: on the accelerator's device; changed in place.
        loader: of training batches.
        spec: length, optimizer, schedule, clip_grad.
        objective: the task, and the loss of (outputs, targets, teacher's outputs).
        accelerator: of training.device.
        teacher: its outputs guide the objective's distillation; kept in eval mode. None: no teacher.
        penalty: a term added to each step's loss, such as a regulariser. None: nothing.
        processes: that share the run; the loader gives this one's part of each batch.
        speed: how steps are computed.

    Raises (while iterating): DivergedError where the loss is not finite.
    """

    looks_up = True
    """May outputs of the teacher that was given be looked up? One that is set later computes them all."""

    def __init__(
        self,
        model: nn.Module,
        loader: Batches,
        spec: Phase,
        *,
        objective: Objective,
        accelerator: Accelerator,
        teacher: nn.Module | None = None,
        penalty: Callable[[], Tensor | None] | None = None,
        processes: Processes = ALONE,
        speed: Speed = PLAIN,
    ) -> None:
        self.loader, self.spec, self.speed = loader, spec, speed
        self.processes, self._seed = processes, torch.initial_seed()
        self.objective, self.accelerator, self.penalty = objective, accelerator, penalty
        self.model = self.placed(model)
        self._computed = speed.model(self.model)
        taught = objective.distill is not None and objective.task.teachable
        self.teacher = self.placed(teacher).eval() if teacher is not None and taught else None
        self.optimizer = optimizer(spec.optimizer, (p for p in self.model.parameters() if p.requires_grad))
        self.lr = spec.optimizer.lr
        """At the top of the schedule."""
        self.total = total_steps(spec, len(loader))
        self.done = 0
        """Steps that are over."""
        self._taught = Teacher(self._guide, loader, self.total) if self.looks_up and self.teacher is not None else None
        self._infinite: Tensor | None = None  # () bool on the device, None: none was checked yet

    def __iter__(self) -> Iterator[Step]:
        self.align()
        self.model.train()
        while self.done < self.total:
            with self.speed.explained():
                step = self._step()
            yield step

    def placed(self, module: nn.Module) -> nn.Module:
        """The form in which the loop holds the model, and its teacher."""
        return module

    def align(self) -> None:
        """Begin with the weights of the first process in all of them."""
        self.processes.align(self.model)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the model's state, as `load_weights` takes it."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def load_weights(self, state: Mapping[str, Any]) -> None:
        """Give the model this state."""
        self.model.load_state_dict(state)

    def give_back(self, module: nn.Module) -> None:
        """Let the module for which the loop was made have what was trained."""

    def switch(self, spec: OptimizerSpec, model: nn.Module) -> None:
        """Go on with another optimizer, and perhaps another model; one of the same kind carries the moments."""
        old, self.lr = self.optimizer, spec.lr
        trained = [p for group in old.param_groups for p in group["params"]]
        if model is not self.model:
            self.processes.align(model)
            self.model, self._computed = model.train(), self.speed.model(model)
            trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer(spec, trained)
        if type(old) is type(self.optimizer):
            self.optimizer.state.update({p: old.state[p] for p in trained if p in old.state})

    def _step(self) -> Step:
        lr = self.lr * lr_factor(self.spec.schedule, self.done, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch, task = self.loader.batch(self.done), self.objective.task
        if self.processes.several:  # dropout differs between processes, and depends on nothing but the step
            place, number = self.processes.share
            torch.manual_seed(((self._seed * 1_000_003 + self.done) * number + place) % 2**63)
        batch = self.speed.inputs(batch[0]), batch[1]
        with self.speed.autocast(self.accelerator), global_batch_norm(self.processes):
            outputs = task.forward(self._computed, batch)
            guide = self._guide(batch) if self._taught is None else self._taught.outputs(self.done, batch)
        loss = self.objective(outputs, batch[1], guide)
        if self.penalty is not None and (added := self.penalty()) is not None:
            loss = loss + added
        if self.processes.several:
            loss = self._shared_backward(
                loss, task.count(batch[1]) * self.processes.share.number / self.loader.batch_size
            )
        else:
            self.accelerator.backward(loss)
        self._move()
        self.done += 1
        loss = loss.detach()
        self._watch(loss)
        return Step(
            self.done - 1,
            self.total,
            self.done / len(self.loader),
            lr,
            loss,
            partial(task.progress, _detached(outputs), batch[1]),
        )

    def _shared_backward(self, loss: Tensor, weight: float) -> Tensor:
        """Gradients of the loss over all processes' parts, which is returned: (). `weight`: of this one's part."""
        self.accelerator.backward(loss * weight)
        return self._added_up(loss.detach(), weight)

    @torch.no_grad()
    def _added_up(self, loss: Tensor, weight: float) -> Tensor:
        """Make the gradients those of the loss of all processes' parts, which is returned: ()."""
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
        sums = torch.stack([loss * weight, torch.full_like(loss, weight)])
        reached = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=loss.device)
        self.processes.add_up([*found, sums, reached])
        total = sums[1].clamp_min(1e-30)
        for at, (parameter, gradient) in enumerate(zip(trained, found, strict=True)):
            gradient.div_(total)
            if parameter.grad is None and reached[at]:  # only some processes' samples reach it
                parameter.grad = gradient
        return sums[0] / total

    def _guide(self, batch: Batch) -> Any:
        """The teacher's outputs; None: nobody teaches."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.objective.task.forward(self.teacher, (self.speed.inputs(batch[0]), batch[1]))

    def _move(self) -> None:
        scaler = self.accelerator.scaler
        if self.spec.clip_grad is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip_grad)
        if scaler is not None:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _watch(self, loss: Tensor) -> None:
        bad = ~torch.isfinite(loss)
        self._infinite = bad if self._infinite is None else self._infinite | bad
        if loss.device.type == "cpu" or self.done % CHECK_EVERY == 0 or self.done == self.total:
            self.check()

    def check(self) -> None:
        """DivergedError if a loss so far was not finite. Waits for the device; call it before keeping a state."""
        if self._infinite is not None and bool(self._infinite):
            raise DivergedError(
                f"the loss is not finite by step {self.done} of {self.total}: "
                "lower optimizer.lr, add schedule.warmup, or set clip_grad"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: step, model, optimizer, scaler and torch's random state."""
        self.check()
        scaler = self.accelerator.scaler
        cuda = self.accelerator.device.type == "cuda"
        return {
            "done": self.done,
            "total": self.total,
            "model": self._model_state(),
            "optimizer": self._optimizer_state(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.accelerator.device) if cuda else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same model, data and spec."""
        if state["total"] != self.total:
            raise GateError(f"the kept state is of a phase of {state['total']} steps, this one has {self.total}")
        self.done = state["done"]
        self.load_weights(state["model"])
        self._load_optimizer_state(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        if self.accelerator.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.accelerator.device)

    def _model_state(self) -> Mapping[str, Any]:
        return self.model.state_dict()

    def _optimizer_state(self) -> Mapping[str, Any]:
        return self.optimizer.state_dict()

    def _load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state))


def _detached(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.detach()  # tree_map takes as long as a small layer
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)

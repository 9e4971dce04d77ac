"""Catalyst and Bypass in the trainers of Ultralytics, while they train and without a restart."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from extcon_cli.catalyst.alike import Tie
from extcon_cli.channels.compare import Inputs
from extcon_cli.checkpoint.ultralytics.outputs import plain_outputs, raw_outputs
from extcon_cli.checkpoint.ultralytics.widths import Widths
from extcon_cli.errors import UsageError
from extcon_cli.integrations.bypassing import BypassingCallback
from extcon_cli.integrations.pruning import FirstInputs, PruningCallback

Listener = TypeVar("Listener", "UltralyticsCatalyst", "UltralyticsBypass")


@dataclass(eq=False)
class UltralyticsCatalyst(PruningCallback):
    """Prunes the model that Ultralytics trains: the decided filters reach zero, go, and training goes on.

        >>> from ultralytics import YOLO
        >>> from extcon_cli.integrations import UltralyticsCatalyst
        >>> model = YOLO("yolov8n.pt")
        >>> pruning = UltralyticsCatalyst(ratio=0.3).attach(model)
        >>> model.train(data="coco8.yaml", epochs=50)  # its best.pt is of the smaller model

    After the removal the optimizer goes on with the states of what is left; the averaged model begins anew from the
    smaller one, and so does the search for the best one.

    Args:
        ratio: share of the prunable filters that goes.
        score_steps, shrink_steps, chi, floor, keep: as in `CatalystCallback`.
        widths: `uniform`: the YAML says them, and Ultralytics trains the result. `free`: any width.
    """

    _: KW_ONLY
    widths: Literal["uniform", "free"] = "uniform"
    _first: FirstInputs | None = field(default=None, init=False)
    _says: Widths | None = field(default=None, init=False)
    _steps: int = field(default=0, init=False)

    def attach(self, model: Any) -> UltralyticsCatalyst:
        """Listen to the training of a `YOLO`, or of one of its trainers."""
        return _attached(self, model)

    def on_train_start(self, trainer: Any) -> None:
        """Begin to listen. UsageError: the training is too short, is resumed, compiled or distributed."""
        _check(trainer)
        self._steps = _steps(trainer)
        self.pruning.steps(self._steps - 1)
        self._first = FirstInputs(trainer.model)
        trainer.optimizer.register_step_post_hook(self.pruning.after_step)

    def on_train_batch_end(self, trainer: Any) -> None:
        """After the first batch: trace; after the last of the flow: remove."""
        model = trainer.model
        if self.pruning.catalyst is None:
            example = _pictures(self._first)
            self._says = Widths.of(model, example, self.widths)
            ties = [Tie(one.groups, one.parts, one.allowed) for one in self._says.found]
            with raw_outputs(model):
                self.pruning.begin(model, example, self._steps - 1, channels=self._says.channels, ties=ties)
        elif self.pruning.due:
            assert self._says is not None
            with raw_outputs(model):
                self.pruning.contract(model, [trainer.optimizer])
            self._says.finish(model, _pictures(self._first))
            _start_again(trainer)

    def on_train_end(self, trainer: Any) -> None:
        """UsageError: the training ended before the removal."""
        self.pruning.check_over()


@dataclass(eq=False)
class UltralyticsBypass(BypassingCallback):
    """Takes the model that Ultralytics trains out of a plateau: extended, trained and brought back, in one training.

        >>> from ultralytics import YOLO
        >>> from extcon_cli.integrations import UltralyticsBypass
        >>> model = YOLO("yolov8n.pt")
        >>> bypass = UltralyticsBypass(opt_1=100, opt_2=100).attach(model)
        >>> model.train(data="coco8.yaml", epochs=50)

    Args:
        method: `radius`, `proximal`, `widen` or `revive`; the graph of these models does not tell what `mirror` needs.
        start: optimizer step at which it begins, 1 at the least.
        opt_1, opt_2: steps in the larger space, and on the way back.
        layers, share, seed: as in `Bypass`.
    """

    _: KW_ONLY
    start: int = 1
    _first: FirstInputs | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.start = max(1, self.start)
        super().__post_init__()

    def attach(self, model: Any) -> UltralyticsBypass:
        """Listen to the training of a `YOLO`, or of one of its trainers."""
        return _attached(self, model)

    def on_train_start(self, trainer: Any) -> None:
        """Begin to listen. UsageError: the training is too short, is resumed, compiled or distributed."""
        _check(trainer)
        self.bypassing.check(_steps(trainer))
        self._first = FirstInputs(trainer.model)
        trainer.optimizer.register_step_post_hook(self.bypassing.after_step)

    def on_train_batch_end(self, trainer: Any) -> None:
        """Extend the model, where it is time; after opt_2: contract it."""
        if self.bypassing.wanted:
            _own_activations(trainer.model)

            def inputs() -> Iterator[Inputs]:
                for batch in trainer.train_loader:
                    yield (trainer.preprocess_batch(batch)["img"],)

            example = _pictures(self._first)
            self.bypassing.begin(trainer.model, example, trainer.optimizer, data=inputs, view=_raw_outputs)
            if self.bypassing.bypass is not None:
                plain_outputs(self.bypassing.bypass.model)
        elif self.bypassing.due:
            self.bypassing.contract(trainer.optimizer)
            _start_again(trainer)

    def on_train_end(self, trainer: Any) -> None:
        """UsageError: the training ended before the contraction."""
        self.bypassing.check_over()


def _attached(callback: Listener, model: Any) -> Listener:
    for event in ("on_train_start", "on_train_batch_end", "on_train_end"):
        model.add_callback(event, getattr(callback, event))
    return callback


def _check(trainer: Any) -> None:
    if trainer.world_size > 1:
        raise UsageError("the callback works in one process on one device")
    if trainer.args.compile:
        raise UsageError("a compiled model cannot be changed while it is trained: set compile to False")
    if trainer.args.resume or trainer.start_epoch:
        raise UsageError("a training that goes on from a checkpoint cannot be changed from its middle")


def _steps(trainer: Any) -> int:
    """Optimizer steps of a training, at the least; asked before it warms up, when it accumulates over fewer batches."""
    return int(len(trainer.train_loader) * trainer.epochs // max(1, trainer.accumulate))


def _pictures(first: FirstInputs | None) -> tuple[Tensor]:
    """Two pictures of the first batch."""
    if first is None or not isinstance(first.inputs, tuple):
        raise UsageError("the model was not called in the first training step")
    return (first.inputs[0]["img"][:2],)


def _raw_outputs(module: nn.Module) -> AbstractContextManager[None]:
    """Of a model of Ultralytics; an extended one is compared as it is."""
    return raw_outputs(module) if hasattr(module, "yaml") else nullcontext()


def _own_activations(model: nn.Module) -> None:
    """Give each layer an activation of its own: Ultralytics' share one, and none of them could be extended alone."""
    for module in model.modules():
        shared = getattr(module, "act", None)
        if isinstance(shared, nn.Module) and not any(True for _ in shared.parameters()):
            module.act = copy.deepcopy(shared)


def _start_again(trainer: Any) -> None:
    """The averaged model, and the search for the best one, begin anew: what was before is another model."""
    trainer.ema = type(trainer.ema)(trainer.model, updates=trainer.ema.updates)
    trainer.best_fitness, trainer.stopper.best_fitness, trainer.stopper.best_epoch = None, 0.0, trainer.epoch
    trainer.best.unlink(missing_ok=True)

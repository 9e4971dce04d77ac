"""Catalyst and Bypass in the Trainer of Lightning, while it trains and without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import UsageError
from extcon_cli.integrations.bypassing import BypassingCallback
from extcon_cli.integrations.pruning import FirstInputs, PruningCallback


@dataclass(eq=False)
class LightningCatalyst(PruningCallback, Callback):
    """Prunes the network that a `LightningModule` trains: the decided filters reach zero, go, and training goes on.

        >>> import lightning
        >>> from extcon_cli.integrations import LightningCatalyst
        >>> pruning = LightningCatalyst(ratio=0.5)
        >>> lightning.Trainer(max_epochs=10, callbacks=[pruning]).fit(module, loader)
        >>> pruning.report.filters, pruning.report.certificate.exact

    The network is traced on what it is given in the first step.

    Args:
        network: name of the module in the `LightningModule`; "": its only part with parameters.
        ratio, score_steps, shrink_steps, chi, floor, keep: as in `CatalystCallback`.
    """

    _: KW_ONLY
    network: str = ""
    _first: FirstInputs | None = field(default=None, init=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen. UsageError: the training is too short, is resumed or distributed."""
        _check(trainer)
        self.pruning.steps(trainer.estimated_stepping_batches - 1)
        self._first = FirstInputs(_network(pl_module, self.network))
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self.pruning.after_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the first batch: trace; after the last of the flow: remove."""
        network = _network(pl_module, self.network)
        if self.pruning.catalyst is None:
            left = trainer.estimated_stepping_batches - trainer.global_step
            self.pruning.begin(network, _seen(self._first, network), left)
        elif self.pruning.due:
            self.pruning.contract(network, trainer.optimizers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """UsageError: the training ended before the removal."""
        self.pruning.check_over()


@dataclass(eq=False)
class LightningBypass(BypassingCallback, Callback):
    """Takes the network of a `LightningModule` out of a plateau: extended, trained and brought back, in one training.

        >>> import lightning
        >>> from extcon_cli.integrations import LightningBypass
        >>> bypass = LightningBypass("mirror", opt_1=100, opt_2=100)
        >>> lightning.Trainer(max_epochs=10, callbacks=[bypass]).fit(module, loader)
        >>> bypass.report.relative

    Args:
        method: `radius`, `proximal`, `mirror`, `widen` or `revive`.
        network: as in `LightningCatalyst`.
        start: optimizer step at which it begins, 1 at the least.
        opt_1, opt_2: steps in the larger space, and on the way back.
        layers, share, seed: as in `Bypass`.
        data: all training inputs (revive). None: the first part of each batch that the trainer loads.
    """

    _: KW_ONLY
    start: int = 1
    network: str = ""
    _first: FirstInputs | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.start = max(1, self.start)
        super().__post_init__()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen. UsageError: the training is too short, is resumed or distributed."""
        _check(trainer)
        if len(trainer.optimizers) != 1:
            raise UsageError(f"the training has {len(trainer.optimizers)} optimizers; a bypass needs a single one")
        self.bypassing.check(trainer.estimated_stepping_batches)
        self._first = FirstInputs(_network(pl_module, self.network))
        trainer.optimizers[0].register_step_post_hook(self.bypassing.after_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Extend the network, where it is time; after opt_2: contract it."""
        network, optimizer = _network(pl_module, self.network), trainer.optimizers[0]
        if self.bypassing.wanted:

            def inputs() -> Iterator[Inputs]:
                for one in trainer.train_dataloader or ():
                    first = one[0] if isinstance(one, list | tuple) else one
                    yield (first.to(pl_module.device) if isinstance(first, Tensor) else first,)

            self.bypassing.begin(network, _seen(self._first, network), optimizer, data=inputs)
        elif self.bypassing.due:
            self.bypassing.contract(optimizer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """UsageError: the training ended before the contraction."""
        self.bypassing.check_over()


def _check(trainer: Trainer) -> None:
    if trainer.world_size > 1:
        raise UsageError("the callback works in one process on one device")
    if trainer.global_step:
        raise UsageError("a training that goes on from a checkpoint cannot be changed from its middle")


def _network(module: LightningModule, name: str) -> nn.Module:
    """The part of a LightningModule that is changed. UsageError: nothing tells which."""
    if name:
        return module.get_submodule(name)
    parts = [part for part, child in module.named_children() if any(True for _ in child.parameters())]
    if len(parts) != 1:
        raise UsageError(f"name the network: network= one of {', '.join(parts) or 'the parts of the LightningModule'}")
    return module.get_submodule(parts[0])


def _seen(first: FirstInputs | None, network: nn.Module) -> Inputs:
    if first is None or first.inputs is None:
        raise UsageError(f"{type(network).__name__} was not called in the first training step")
    return first.inputs

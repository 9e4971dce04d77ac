"""What the phases of pruning share. It runs none of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters
from extcon_cli.channels import Channels, channel_groups
from extcon_cli.errors import GateError
from extcon_cli.events import Emit
from extcon_cli.pipelines.measure import measured
from extcon_cli.pipelines.phase import Metrics, interruptible
from extcon_cli.pipelines.prepare import Prepared
from extcon_cli.recipe.schema import PruneSpec
from extcon_cli.report.measure import measure
from extcon_cli.training.device import Accelerator
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import objective
from extcon_cli.training.run_directory import RunDirectory


@dataclass
class Job:
    """What the phases share: the model on its way, the original that teaches, and where to tell and keep."""

    prepared: Prepared
    accelerator: Accelerator
    run: RunDirectory
    emit: Emit
    stop: Stop = field(default_factory=Stop)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = self.prepared.module.to(self.accelerator.device)
        self.original = copy.deepcopy(self.module).requires_grad_(False)
        self.example: tuple[Tensor, ...] = (
            next(iter(self.prepared.data.eval_loader("train", device=self.device)))[0][:2],
        )
        self.channels: Channels = channel_groups(self.module, self.example)
        self.filters = Filters.of(self.channels.groups)
        if not len(self.filters):
            reasons = sorted({group.reason for group in self.channels.groups})
            raise GateError(f"no filter of this model can be pruned: {'; '.join(reasons) or 'it has no linear map'}")

    @property
    def spec(self) -> PruneSpec:
        return self.prepared.recipe.prune

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.example[0].shape[1:])

    def batches(self, phase: int, count: int, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """`count` training batches of a phase's own order."""
        loader = self.prepared.data.train_loader(device=self.device, seed=self.seed(phase), batch_size=batch_size)
        return interruptible((loader.batch(step) for step in range(count)), self.stop)

    def seed(self, phase: int) -> int:
        """A seed of its own for each phase, whether the phases before ran or were resumed."""
        return (self.prepared.recipe.seed * 1000 + phase) % 2**32

    def trainer(self, phase: int, spec: Any, module: nn.Module, **more: Any) -> Trainer:
        """The training loop of a phase; the original teaches where the phase distils."""
        torch.manual_seed(self.seed(phase))
        return Trainer(
            module,
            self.prepared.data.train_loader(device=self.device, seed=self.seed(phase)),
            spec,
            objective=objective(
                self.prepared.recipe.task, label_smoothing=getattr(spec, "label_smoothing", 0.0), distill=spec.distill
            ),
            accelerator=self.accelerator,
            teacher=self.original,
            **more,
        )

    def metrics(self, module: nn.Module) -> Metrics:
        """Figures on the test data."""
        return measured(module, self.prepared.data, "test", self.accelerator, self.stop) or {}

    def figures(self, module: nn.Module) -> dict[str, Any]:
        """Test metrics and sizes of a module."""
        size = measure(module, self.input_shape)
        return {"metrics": self.metrics(module), "params": size.params, "macs": size.macs, "bytes": size.bytes}

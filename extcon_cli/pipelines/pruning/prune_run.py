"""What the phases of pruning share, and what a pruning that was interrupted has kept. It runs none of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters
from extcon_cli.channels import Channels, channel_groups
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.errors import GateError, UsageError
from extcon_cli.pipelines.pruning.folders import FolderWidths, folder_widths
from extcon_cli.pipelines.running.phase import interruptible
from extcon_cli.pipelines.running.run import Run
from extcon_cli.processes import WHOLE, Share
from extcon_cli.recipe.schema import BifurcateSpec, FinetuneSpec, PruneSpec
from extcon_cli.report.results.prune import BifurcationTrace, RemovalFigures
from extcon_cli.report.results.records import CertificateRecord, ModelStats, PhaseRecord
from extcon_cli.report.serialise import from_json
from extcon_cli.tasks import Batch
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import objective
from extcon_cli.training.run_directory import ResumeState


@dataclass(frozen=True)
class PruneRun:
    """A run with the model on its way, the original that teaches, and the filters that may go."""

    run: Run
    module: nn.Module
    """On the device; the phases up to the removal change its parameters in place."""
    original: nn.Module
    examples: list[Inputs]
    channels: Channels
    filters: Filters
    widths: FolderWidths | None = None
    """Of a folder of transformers: what its configuration can say."""

    @property
    def spec(self) -> PruneSpec:
        return self.run.recipe.prune

    @property
    def ties(self) -> list[Tie]:
        """Groups that keep the same share of their filters."""
        return self.widths.ties if self.widths is not None else []

    def batches(self, phase: int, count: int, batch_size: int | None = None, share: Share = WHOLE) -> Iterator[Batch]:
        """`count` training batches of a phase's own order; of each, this share."""
        data = self.run.prepared.data
        loader = data.train_loader(device=self.run.device, seed=self.seed(phase), batch_size=batch_size, share=share)
        return interruptible((loader.batch(step) for step in range(count)), self.run.stop)

    def seed(self, phase: int) -> int:
        """A seed of its own for each phase, whether the phases before ran or were resumed."""
        return (self.run.recipe.seed * 1000 + phase) % 2**32

    def trainer(
        self,
        phase: int,
        spec: BifurcateSpec | FinetuneSpec,
        module: nn.Module,
        penalty: Callable[[], Tensor | None] | None = None,
    ) -> Trainer:
        """The training loop of a phase; the original teaches where the phase distils."""
        torch.manual_seed(self.seed(phase))
        processes = self.run.processes
        smoothing = spec.label_smoothing if isinstance(spec, FinetuneSpec) else 0.0
        return self.run.trainer(
            module,
            self.run.prepared.data.train_loader(device=self.run.device, seed=self.seed(phase), share=processes.share),
            spec,
            objective=objective(self.run.prepared.task, label_smoothing=smoothing, distill=spec.distill),
            teacher=self.original,
            penalty=penalty,
        )


def analyse(run: Run) -> PruneRun:
    """Trace the model of a run and find its filters (GateError: none of them can go)."""
    module = run.prepared.module
    if not is_deferred(module):
        module = module.to(run.device)
    original = copy.deepcopy(module).requires_grad_(False)
    spec = run.recipe.model
    examples = run.examples
    channels = channel_groups(module, examples, ignore_unreached=spec.ignore_unreached)
    opened, widths = run.prepared.opened, None
    if opened is not None and opened.folder is not None:
        kind = run.recipe.prune.widths
        channels, widths = folder_widths(opened.folder, module, channels, examples, kind, run.emit)
    filters = Filters.of(channels.groups)
    if not len(filters):
        reasons = sorted({group.reason for group in channels.groups})
        raise GateError(f"no filter of this model can be pruned: {'; '.join(reasons) or 'it has no linear map'}")
    return PruneRun(run, module, original, examples, channels, filters, widths)


@dataclass(frozen=True)
class RemovalRecord:
    """What is known once the filters are gone; plain values, kept with the state of the fine-tuning."""

    before: ModelStats
    figures: RemovalFigures
    certificate: CertificateRecord
    plan: Mapping[str, object]
    phases: tuple[PhaseRecord, ...]
    trace: BifurcationTrace


@dataclass(frozen=True)
class PruneState:
    """Where an interrupted pruning goes on. All None: from the beginning."""

    selected: Tensor | None = None  # (n,) mask of the filters that go
    bifurcation: Mapping[str, Any] | None = None  # what `run_phase` kept of this phase
    removal: RemovalRecord | None = None
    finetuning: Mapping[str, Any] | None = None  # what `run_phase` kept of this phase

    @classmethod
    def of(cls, kept: ResumeState | None) -> PruneState:
        """The state out of what the run directory holds."""
        if kept is None:
            return cls()
        more = kept.payload["more"]
        if kept.phase == "finetune":
            return cls(removal=from_json(RemovalRecord, more["removal"]), finetuning=kept.payload)
        return cls(selected=more["selected"], bifurcation=kept.payload)

    def check(self, planned: Tensor | None) -> None:
        """UsageError where the run that goes on took other filters than a plan (n,) does. None: there is no plan."""
        taken = torch.tensor(self.removal.trace.decided) if self.removal is not None else self.selected
        if planned is not None and taken is not None and not torch.equal(planned, taken.cpu()):
            raise UsageError("the run to go on with takes other filters than --plan: start anew without --resume")

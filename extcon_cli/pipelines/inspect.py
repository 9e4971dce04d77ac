"""`extcon inspect`: what a checkpoint holds, and for every channel group what could go and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from extcon_cli.channels import ChannelGroup, channel_groups, classify, coverage
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.events import Emit, ignore
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import size_and_layers
from extcon_cli.report.results.bypass import Diagnosis
from extcon_cli.report.results.inspect import GroupSummary, InspectResult

if TYPE_CHECKING:  # imported where there is data: a short command would wait for it
    from extcon_cli.pipelines.running.prepare import Prepared


def inspect(
    checkpoint: Path,
    recipe: Recipe,
    *,
    data: bool = False,
    device: str | None = None,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> InspectResult:
    """Layers, channel groups and sizes; with `data` also whether training is stalled (the recipe's `bypass`).

    Errors: of the checkpoint and the data; TraceError where no graph can be had.
    """
    prepared = _prepared(recipe, checkpoint, trust, emit) if data else None
    opened = (prepared and prepared.opened) or open_model(checkpoint, recipe, trust=trust, emit=emit)
    size, layers = size_and_layers(opened.module, opened.example, opened.precision)
    channels = channel_groups(opened.module, opened.examples, ignore_unreached=recipe.model.ignore_unreached)
    statuses = {status.group: status for status in classify(opened.module, channels)}
    sizes = {name: tuple(tensor.shape) for name, tensor in opened.module.named_parameters(remove_duplicate=False)}
    metadata = opened.checkpoint.metadata
    return InspectResult(
        checkpoint=str(checkpoint),
        arch=opened.arch.arch,
        input_shape=opened.arch.input_shape or (),
        inputs=opened.arch.inputs,
        size=size,
        file_bytes=_bytes(checkpoint),
        removable_share=coverage(opened.module, channels),
        layers=tuple(layers),
        groups=tuple(
            GroupSummary(
                name=group.name,
                channels=group.size,
                dead=int(statuses[group].dead.sum()),
                removable=int(statuses[group].removable.sum()),
                prunable=group.prunable,
                params_per_channel=_saved(group, sizes),
                reason=group.reason or None,
            )
            for group in channels.groups
        ),
        unreached=channels.unreached,
        diagnosis=_diagnosis(prepared, device) if prepared is not None else None,
        metadata=metadata.model_dump(mode="json", exclude={"plan"}) if metadata is not None else None,
    )


def _prepared(recipe: Recipe, checkpoint: Path, trust: Trust, emit: Emit) -> Prepared:
    from extcon_cli.pipelines.running.prepare import prepare

    return prepare(recipe, checkpoint, trust=trust, emit=emit)


def _diagnosis(prepared: Prepared, device: str | None) -> Diagnosis:
    """Whether the model is stalled, and what an extension would gain, as `bypass` finds it."""
    from extcon_cli.pipelines.bypassing.diagnosis import diagnose
    from extcon_cli.pipelines.bypassing.stalled import stalled_model
    from extcon_cli.training.device import create_accelerator

    torch.manual_seed(prepared.recipe.seed)
    return diagnose(stalled_model(prepared, create_accelerator(device, "no")))


def _bytes(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    return (
        sum(file.stat().st_size for file in path.iterdir() if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def _saved(group: ChannelGroup, sizes: dict[str, tuple[int, ...]]) -> int:
    """Parameters that go with one channel of a group, as long as nothing else has gone."""
    total = 0
    for part in group.slices:
        if part.parameter in sizes:
            shape = sizes[part.parameter]
            total += part.index.shape[1] * torch.Size(shape).numel() // shape[part.dim]
    return total

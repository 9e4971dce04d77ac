"""`extcon inspect`: what a checkpoint holds, and for every channel group what could go and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from extcon_cli import __version__
from extcon_cli.channels import ChannelGroup, channel_groups, classify, coverage
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.pipelines.comparison import diagnosis
from extcon_cli.pipelines.open import open_model
from extcon_cli.pipelines.output import SCHEMA
from extcon_cli.pipelines.prepare import prepare
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import layers, measure


def inspect(
    checkpoint: Path,
    recipe: Recipe,
    *,
    data: bool = False,
    device: str | None = None,
    trust: Trust = UNTRUSTED,
) -> dict[str, Any]:
    """The result document of the command; with `data` also whether training is stalled (the recipe's `bypass`).

    Errors: of the checkpoint and the data; TraceError where no graph can be had.
    """
    opened = open_model(checkpoint, recipe, trust=trust)
    shape = opened.arch.input_shape or ()
    size = measure(opened.module, shape)
    channels = channel_groups(opened.module, (torch.zeros(2, *shape),))
    verdicts = {id(verdict.group): verdict for verdict in classify(opened.module, channels)}
    sizes = {name: tuple(tensor.shape) for name, tensor in opened.module.named_parameters(remove_duplicate=False)}
    metadata = opened.checkpoint.metadata
    return {
        "schema": SCHEMA,
        "command": "inspect",
        "version": __version__,
        "checkpoint": str(checkpoint),
        "arch": opened.arch.arch,
        "input_shape": list(shape),
        "params": size.params,
        "macs": size.macs,
        "bytes": size.bytes,
        "file_bytes": checkpoint.stat().st_size,
        "removable_share": coverage(opened.module, channels),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "in": layer.inputs,
                "out": layer.outputs,
                "params": layer.params,
                "macs": layer.macs,
            }
            for layer in layers(opened.module, shape)
        ],
        "groups": [
            {
                "name": group.name,
                "channels": group.size,
                "dead": int(verdicts[id(group)].dead.sum()),
                "removable": int(verdicts[id(group)].removable.sum()),
                "prunable": group.prunable,
                "params_per_channel": _saved(group, sizes),
                "reason": group.reason or None,
            }
            for group in channels.groups
        ],
        **({"diagnosis": diagnosis(prepare(recipe, checkpoint, trust=trust), device=device)} if data else {}),
        "metadata": metadata.model_dump(mode="json", exclude={"plan"}) if metadata is not None else None,
    }


def _saved(group: ChannelGroup, sizes: dict[str, tuple[int, ...]]) -> int:
    """Parameters that go with one channel of a group, as long as nothing else has gone."""
    total = 0
    for part in group.slices:
        if part.parameter in sizes:
            shape = sizes[part.parameter]
            total += part.index.shape[1] * torch.Size(shape).numel() // shape[part.dim]
    return total

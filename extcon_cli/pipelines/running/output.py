"""Where a trained model goes: a safetensors file that says all, or a plain PyTorch state dict (.pt, .pth)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from extcon_cli import __version__
from extcon_cli.channels import Channels
from extcon_cli.checkpoint.precision import Precision, lossless
from extcon_cli.checkpoint.write import Metadata, check_place, check_writable, write
from extcon_cli.errors import UsageError
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import NormalizeSpec, Recipe
from extcon_cli.report.measure import layers
from extcon_cli.report.results.prune import FrozenGroup
from extcon_cli.report.results.records import LayerWidth, Record
from extcon_cli.report.serialise import to_json
from extcon_cli.training.whole import write_whole

PLAIN = (".pt", ".pth")


def check_output(path: Path, *, force: bool) -> None:
    """UsageError where the output could not be written; called before long work, leaves nothing behind."""
    if path.suffix not in PLAIN:
        check_writable(path, force)
        return
    check_place(path, force)
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied; choose another --out")


def write_output(
    path: Path,
    module: nn.Module,
    metadata: Metadata,
    *,
    force: bool,
    precision: Precision | None = None,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Write the module as `path` asks; a plain state dict leaves the metadata out. Same module, same bytes.

    `announce` is told the SHA-256 of the file before it gets its name.
    """
    if path.suffix not in PLAIN:
        write(path, module, metadata, force=force, precision=precision, announce=announce)
        return
    check_output(path, force=force)
    state = module.state_dict()  # with the versions of its modules
    for name, tensor in state.items():
        state[name] = lossless(name, tensor.detach().cpu().contiguous(), precision or {})
    try:
        write_whole(path, lambda file: torch.save(state, file), announce=announce)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --out") from error


def metadata(
    recipe: Recipe,
    before: Metadata | None,
    record: Record,
    *,
    plan: Mapping[str, object] | None = None,
    classes: int | Sequence[str] | None = None,
    normalize: NormalizeSpec | None = None,
) -> Metadata:
    """All that a checkpoint says about itself; no times, so that the same run gives the same bytes.

    Args:
        before: what the checkpoint that the run began with says.
        record: what this run did, with its figures; added to the history.
        plan: a removal that this run made, to be replayed after those before.
    """
    plans = (*(before.plans if before else ()), *([dict(plan)] if plan is not None else []))
    return Metadata(
        arch=recipe.model.arch,
        kwargs=recipe.model.kwargs,
        input_shape=recipe.model.input_shape,
        inputs=recipe.model.inputs,
        recipe=to_dict(recipe),
        plan=plans or None,
        history=(*(before.history if before else ()), to_json(record)),
        classes=classes if classes is None or isinstance(classes, int) else tuple(classes),
        normalize=normalize,
        version=__version__,
    )


def data_metadata(prepared: Prepared, record: Record, plan: Mapping[str, object] | None = None) -> Metadata:
    """`metadata` of a run that had data: with its classes and normalisation."""
    data = prepared.data
    before = prepared.opened.checkpoint.metadata if prepared.opened else None
    classes = data.class_names or data.classes
    return metadata(prepared.recipe, before, record, plan=plan, classes=classes, normalize=data.normalize)


def widths(before: nn.Module, after: nn.Module) -> tuple[LayerWidth, ...]:
    """Output widths of every layer, before and after."""
    smaller = {layer.name: layer for layer in layers(after)}
    return tuple(
        LayerWidth(layer.name, layer.kind, before=layer.outputs, after=smaller[layer.name].outputs)
        for layer in layers(before)
    )


def frozen(channels: Channels) -> tuple[FrozenGroup, ...]:
    """The channel groups that stay whole, and why."""
    return tuple(FrozenGroup(group.name, group.reason) for group in channels.groups if not group.prunable)

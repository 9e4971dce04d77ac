"""Where a trained model goes: a safetensors file that says all, or a plain PyTorch state dict (.pt, .pth)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from extcon_cli import __version__
from extcon_cli.checkpoint.write import Metadata, check_writable, write
from extcon_cli.errors import UsageError
from extcon_cli.pipelines.prepare import Prepared
from extcon_cli.recipe.load import to_dict
from extcon_cli.training.run_directory import write_whole

SCHEMA = "extcon/1"
"""Version of the result documents of all commands."""
PLAIN = (".pt", ".pth")


def check_output(path: Path, *, force: bool) -> None:
    """UsageError where the output could not be written; called before long work, leaves nothing behind."""
    if path.suffix not in PLAIN:
        check_writable(path, force)
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder; choose another --out")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; overwrite it with --force or choose another --out")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; make it or choose another --out")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied; choose another --out")


def write_output(path: Path, module: nn.Module, metadata: Metadata, *, force: bool) -> None:
    """Write the module as `path` asks; a plain state dict leaves the metadata out. Same module, same bytes."""
    if path.suffix not in PLAIN:
        write(path, module, metadata, force=force)
        return
    check_output(path, force=force)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    try:
        write_whole(path, lambda file: torch.save(state, file))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --out") from error


def metadata(prepared: Prepared, done: Mapping[str, Any], *, plan: Mapping[str, Any] | None = None) -> Metadata:
    """All that a checkpoint says about itself; no times, so that the same run gives the same bytes.

    Args:
        done: what this run did, with its figures; added to the history of the checkpoint before.
        plan: a removal that this run made, to be replayed after those of the checkpoint before.
    """
    data, recipe = prepared.data, prepared.recipe
    before = prepared.opened.checkpoint.metadata if prepared.opened else None
    plans = (*(before.plans if before else ()), *([dict(plan)] if plan is not None else []))
    return Metadata(
        arch=recipe.model.arch,
        kwargs=recipe.model.kwargs,
        input_shape=recipe.model.input_shape,
        recipe=to_dict(recipe),
        plan=plans or None,
        history=(*(before.history if before else ()), dict(done)),
        classes=data.class_names or data.classes,
        normalize=data.normalize,
        version=__version__,
    )

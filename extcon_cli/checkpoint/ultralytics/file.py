"""Read a checkpoint of Ultralytics, and make one that its `val`, `train`, `predict` and `export` take unchanged.

The file is a dictionary with a pickled module: opening it may run any code in it, so the user has to trust it. What is
written holds modules of Ultralytics and of PyTorch alone, in the precision of what was read, and needs no extcon.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from extcon_cli.checkpoint.contents import kind
from extcon_cli.checkpoint.metadata import Metadata, to_header
from extcon_cli.checkpoint.precision import Precision, lossless, stored_precision
from extcon_cli.checkpoint.ultralytics.library import library, quiet
from extcon_cli.errors import CheckpointError, UsageError, first_line

STATES = ("optimizer", "ema", "updates", "scaler", "best_fitness", "stopper", "train_metrics", "train_results")
"""What of a checkpoint is of a training that is over."""


@dataclass(frozen=True)
class Yolo:
    """What a checkpoint of Ultralytics held."""

    path: Path
    module: Any
    """A `BaseModel` in eval mode, in float32, on the CPU."""
    content: Mapping[str, Any]
    """The dictionary, with everything beside the module."""
    precision: Precision
    """Which tensors were stored in half precision."""
    sha256: str
    """Of the file."""

    @property
    def task(self) -> str:
        return str(self.module.task)

    @property
    def image_size(self) -> int:
        """Pixels of a side, as it was trained with."""
        size = dict(self.module.args).get("imgsz") or 640
        return int(max(size) if isinstance(size, list | tuple) else size)

    @property
    def note(self) -> Mapping[str, str]:
        """What extcon has noted of an earlier pruning; empty: there was none."""
        held = self.content.get("extcon")
        return held if isinstance(held, Mapping) else {}


def read_yolo(path: str | Path, *, trust_pickle: bool) -> Yolo:
    """Open a checkpoint of Ultralytics with its own loader.

    Raises:
        CheckpointError: it is not trusted, cannot be read, or holds what its loader does not take.
        UsageError: the library is not installed.
    """
    path = Path(path)
    kind(path)
    if not trust_pickle:
        raise CheckpointError(
            f"{path} holds a pickled model of Ultralytics; opening it may run any code in it. Only if you trust its "
            "source, pass --trust-pickle."
        )
    try:
        with quiet():
            content, _ = library("nn.tasks").torch_safe_load(str(path))
            held = content.get("ema") or content.get("model")
            precision = stored_precision(held.state_dict()) if isinstance(held, torch.nn.Module) else {}
            module, content = library("nn.tasks").load_checkpoint(str(path))
    except UsageError:
        raise
    except Exception as error:  # the library's, on a file from anywhere
        raise CheckpointError(f"{path} cannot be opened by Ultralytics: {first_line(error)}") from error
    if not isinstance(module, library("nn.tasks").BaseModel) or not getattr(module, "yaml", None):
        raise CheckpointError(f"{path} holds a {type(module).__name__}, which no YAML of Ultralytics builds")
    if module.is_fused():
        raise CheckpointError(f"{path} is fused for inference, without batch norms: take the file that training left")
    if content.get("modelopt"):
        raise CheckpointError(f"{path} is quantised: take the model before its quantisation")
    return Yolo(path, module.requires_grad_(True), content, precision, hashlib.sha256(path.read_bytes()).hexdigest())


def content_like(like: Yolo, module: Any, metadata: Metadata) -> dict[str, Any]:
    """What `torch.save` is to write for a model that came from `like`: of the same kind, for the same uses.

    Args:
        metadata: kept as text beside the model.
    """
    stored = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    stored.criterion = None
    stored.args = dict(like.content.get("train_args") or {})
    kinds = {lossless(name, tensor, like.precision).dtype for name, tensor in stored.state_dict().items()
             if tensor.is_floating_point()}  # fmt: skip
    if len(kinds) == 1:
        stored.to(kinds.pop())
    return {**like.content, **dict.fromkeys(STATES), "epoch": -1, "model": stored, "extcon": to_header(metadata)}

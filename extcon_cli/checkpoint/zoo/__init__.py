"""The bundled architectures, by name, each with its natural input. Nothing trained, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from extcon_cli.checkpoint.zoo.cifar_resnet import cifar_resnet20, cifar_resnet56
from extcon_cli.checkpoint.zoo.convnet import ConvNet
from extcon_cli.checkpoint.zoo.digits_resnet import DigitsResNet
from extcon_cli.checkpoint.zoo.mlp import MLP

__all__ = ["MLP", "ZOO", "ConvNet", "DigitsResNet", "Entry", "cifar_resnet20", "cifar_resnet56"]


@dataclass(frozen=True)
class Entry:
    """One architecture of the zoo."""

    build: Callable[..., nn.Module]
    input_shape: tuple[int, ...] | None
    """Of one input without the batch, with default arguments; None: it follows from the arguments."""
    identifiable: bool = True
    """Its tensors tell all of its function; false where an argument leaves no trace in names and shapes."""


ZOO: dict[str, Entry] = {
    "digits_resnet": Entry(DigitsResNet, (1, 8, 8)),
    "cifar_resnet20": Entry(cifar_resnet20, (3, 32, 32)),
    "cifar_resnet56": Entry(cifar_resnet56, (3, 32, 32)),
    "convnet": Entry(ConvNet, (3, 32, 32)),
    "mlp": Entry(MLP, None, identifiable=False),
}

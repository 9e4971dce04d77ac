"""The bundled architectures, by name, each with its natural input. Nothing trained, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from extcon_cli.checkpoint.zoo.cifar_resnet import cifar_resnet20, cifar_resnet56
from extcon_cli.checkpoint.zoo.convnet import ConvNet
from extcon_cli.checkpoint.zoo.deepobs import TwoConvTwoDense
from extcon_cli.checkpoint.zoo.digits_resnet import DigitsResNet
from extcon_cli.checkpoint.zoo.mlp import MLP

__all__ = ["MLP", "ZOO", "ConvNet", "DigitsResNet", "Entry", "TwoConvTwoDense", "cifar_resnet20", "cifar_resnet56"]


@dataclass(frozen=True)
class Entry:
    """One architecture of the zoo."""

    build: Callable[..., nn.Module]
    input_shape: Callable[..., tuple[int, ...]]
    """Shape of one input without the batch, from the same arguments as `build`."""
    identifiable: bool = True
    """Its tensors tell all of its function; false where an argument leaves no trace in names and shapes."""


def _image(size: int, default: int) -> Callable[..., tuple[int, ...]]:
    def shape(channels: int = default, **_: Any) -> tuple[int, ...]:
        return channels, size, size

    return shape


def _sized(channels: int = 3, size: int = 32, **_: Any) -> tuple[int, ...]:
    return channels, size, size


def _flat(in_features: int = 64, **_: Any) -> tuple[int, ...]:
    return (in_features,)


ZOO: dict[str, Entry] = {
    "digits_resnet": Entry(DigitsResNet, _image(8, default=1)),
    "cifar_resnet20": Entry(cifar_resnet20, _image(32, default=3)),
    "cifar_resnet56": Entry(cifar_resnet56, _image(32, default=3)),
    "convnet": Entry(ConvNet, _image(32, default=3)),
    "deepobs_2c2d": Entry(TwoConvTwoDense, _sized),
    "mlp": Entry(MLP, _flat, identifiable=False),
}

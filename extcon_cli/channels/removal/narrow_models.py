"""Narrow forms of modules of other libraries: Ultralytics' attention, the response norm of ConvNeXt V2.

As in narrow.py an instance becomes one of these by its class alone. The libraries themselves are not needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from extcon_cli.channels.modules import is_response_norm


class NarrowMapAttention(nn.Module):
    """Ultralytics' Attention (YOLO11) with num_heads * head_dim under the width of its input."""

    num_heads: int
    key_dim: int
    head_dim: int
    scale: float
    qkv: nn.Module
    proj: nn.Module
    pe: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W), as the original."""
        batch, _, high, wide = x.shape
        parts = [self.key_dim, self.key_dim, self.head_dim]
        mixed = self.qkv(x).view(batch, self.num_heads, sum(parts), high * wide)
        q, k, v = torch.split(mixed, parts, dim=2)
        shares = ((q * self.scale).transpose(-2, -1) @ k).softmax(-1)
        y = (v @ shares.transpose(-2, -1)).reshape(batch, -1, high, wide)
        out: Tensor = self.proj(y + self.pe(v.reshape(batch, -1, high, wide)))
        return out

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"


class NarrowResponseNorm(nn.Module):
    """ConvNeXt V2's global response norm, of transformers or timm, over channels of which `missing` zeros are gone."""

    weight: nn.Parameter
    bias: nn.Parameter
    missing: int

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, H, W, C), or (N, C, H, W) where timm's module was made for it."""
        dim, size = self._size(x)
        return self._scaled(x, size, size.sum(dim, keepdim=True) / (x.shape[dim] + self.missing))

    def shown_forward(self, x: Tensor) -> Tensor:
        """What the tracer sees: the norm as it is with no channel missing."""
        dim, size = self._size(x)
        return self._scaled(x, size, size.mean(dim, keepdim=True))

    def _size(self, x: Tensor) -> tuple[int, Tensor]:
        """The dimension of the channels, and how large the map of each is."""
        dim = int(vars(self).get("channel_dim", -1))
        return dim, torch.linalg.vector_norm(x, dim=(2, 3) if dim == 1 else (1, 2), keepdim=True)

    def _scaled(self, x: Tensor, size: Tensor, mean: Tensor) -> Tensor:
        shape = [1] * x.dim()
        shape[int(vars(self).get("channel_dim", -1))] = -1
        share = size / (mean + vars(self).get("eps", 1e-6))
        return self.weight.view(shape) * (x * share) + self.bias.view(shape) + x

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, missing={self.missing}"


def response_norms(module: nn.Module) -> dict[nn.Module, int]:
    """The response norms in a module, each with its width."""
    found = (child for child in module.modules() if is_response_norm(child))
    return {child: child.get_parameter("weight").numel() for child in found}


def narrow_response_norms(before: dict[nn.Module, int]) -> None:
    """Let response norms count what has been removed since they had these widths."""
    for module, width in before.items():
        gone = width - module.get_parameter("weight").numel()
        if gone:
            vars(module)["missing"] = vars(module).get("missing", 0) + gone
            module.__class__ = NarrowResponseNorm

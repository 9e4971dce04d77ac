"""Modules for what the original class cannot express: fewer heads than width / head size, norms over what is left.

A removal turns an instance into one of these by its class alone, so that parameters keep their names and places and
the state dict its keys. Each is an ordinary module: it trains, compiles and exports.

The tracer sees `shown_forward` (analysis/shown.py): the one operator that a norm stands for, through which it can
follow channels. So what was removed once can be removed further.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extcon_cli.channels.modules import Norm, named_modules, norm_dim
from extcon_cli.channels.removal.narrow_models import NarrowMapAttention, NarrowResponseNorm
from extcon_cli.errors import CheckpointError


class NarrowLayerNorm(nn.LayerNorm):
    """Layer norm over channels of which `missing` have been removed; they were zero, and still count in the mean.

    `dim` is that of the channels: the last, or 1 for maps (`LayerNorm2d`).
    """

    missing: int
    dim: int

    def forward(self, input: Tensor) -> Tensor:
        x = _wide(input.movedim(self.dim, -1))
        width = x.shape[-1] + self.missing
        mean = x.sum(-1, keepdim=True) / width
        centred = x - mean
        variance = (centred.square().sum(-1, keepdim=True) + self.missing * mean.square()) / width
        y = centred * torch.rsqrt(variance + self.eps) * self.weight
        return (y if self.bias is None else y + self.bias).movedim(-1, self.dim).to(input.dtype)

    def shown_forward(self, input: Tensor) -> Tensor:
        x = input.movedim(self.dim, -1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, self.dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, missing={self.missing}"


class NarrowRMSNorm(nn.RMSNorm):
    """RMS norm over channels of which `missing` zeros have been removed and still count in the mean."""

    missing: int

    def forward(self, x: Tensor) -> Tensor:
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        wide = _wide(x)
        power = wide.square().sum(-1, keepdim=True) / (x.shape[-1] + self.missing)
        return (wide * torch.rsqrt(power + eps) * self.weight).to(x.dtype)

    def shown_forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, missing={self.missing}"


class NarrowGroupNorm(nn.GroupNorm):
    """Group norm of a single group, over maps of which `missing` zeros have been removed and still count."""

    missing: int

    def forward(self, input: Tensor) -> Tensor:
        x = _wide(input)
        rest = list(range(1, x.dim()))
        width = (x.shape[1] + self.missing) * (x[0, 0].numel())
        mean = x.sum(rest, keepdim=True) / width
        zeros = self.missing * x[0, 0].numel()
        variance = ((x - mean).square().sum(rest, keepdim=True) + zeros * mean.square()) / width
        scale, offset = (v.view(-1, *(1,) * (x.dim() - 2)) for v in (self.weight, self.bias))
        return ((x - mean) * torch.rsqrt(variance + self.eps) * scale + offset).to(input.dtype)

    def shown_forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, missing={self.missing}"


class NarrowMultiheadAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention with num_heads * head_dim under embed_dim."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention; the weights returned are those of the heads that are left."""
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value)]
        inputs = [x if self.batch_first else x.transpose(0, 1) for x in inputs]
        weights = self._projections()
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None, None, None)
        q, k, v = (
            _split(F.linear(x, w, b), self.num_heads, self.head_dim).transpose(1, 2)  # (N, heads, L, size)
            for x, w, b in zip(inputs, weights, biases, strict=True)
        )
        mask = self._mask(key_padding_mask, attn_mask, q)
        dropout = self.dropout if self.training else 0.0
        shares = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            shares = F.softmax(scores if mask is None else scores + mask, dim=-1)
            mixed = F.dropout(shares, dropout) @ v
            shares = shares.mean(1) if average_attn_weights else shares
            shares = shares if batched else shares.squeeze(0)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = self.out_proj(mixed.transpose(1, 2).flatten(2))
        y = y if self.batch_first else y.transpose(0, 1)
        return (y if batched else y.squeeze(0 if self.batch_first else 1)), shares

    def _projections(self) -> tuple[Tensor, ...]:
        if self.in_proj_weight is not None:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _mask(self, padding: Tensor | None, mask: Tensor | None, like: Tensor) -> Tensor | None:
        """What is added to the scores: (N or 1, heads or 1, L, S)."""
        added = [_added(m, like) for m in (mask, padding) if m is not None]
        if mask is not None:
            added[0] = added[0].view(-1, self.num_heads, *mask.shape[1:]) if mask.dim() == 3 else added[0]
        if padding is not None:
            added[-1] = added[-1].reshape(-1, 1, 1, padding.shape[-1])
        return sum(added[1:], added[0]) if added else None

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"


class NarrowWindowAttention(nn.Module):
    """torchvision's ShiftedWindowAttention (Swin, V2 too) with num_heads * head_dim under the width of its input."""

    window_size: list[int]
    shift_size: list[int]
    num_heads: int
    head_dim: int
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    relative_position_index: Tensor
    relative_position_bias_table: Tensor
    relative_coords_table: Tensor
    cpb_mlp: nn.Module
    logit_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, H, W, C), as the original."""
        batch, height, width, channels = x.shape
        rows, columns = self.window_size
        below, right = -height % rows, -width % columns
        x = F.pad(x, (0, 0, 0, right, 0, below))
        high, wide = height + below, width + right
        shift = [0 if w >= n else s for s, w, n in zip(self.shift_size, self.window_size, (high, wide), strict=True)]
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2)) if any(shift) else x
        x = x.view(batch, high // rows, rows, wide // columns, columns, channels).transpose(2, 3)
        x = x.reshape(-1, rows * columns, channels)  # (N windows, tokens, C)
        q, k, v = _split(self._project(x), 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if hasattr(self, "logit_scale"):
            q = F.normalize(q, dim=-1) * self.logit_scale.clamp(max=4.605170185988092).exp()  # log 100
            scores = q @ F.normalize(k, dim=-1).transpose(-2, -1)
        else:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        scores = scores + self._position_bias()
        if any(shift):
            windows = _shifted_mask(high, wide, rows, columns, shift, x)
            scores = (scores.view(-1, len(windows), *scores.shape[1:]) + windows[:, None]).flatten(0, 1)
        shares = F.dropout(F.softmax(scores, -1), self.attention_dropout, self.training)
        y = self.proj((shares @ v).transpose(1, 2).flatten(2))
        y = F.dropout(y, self.dropout, self.training)
        y = y.view(batch, high // rows, wide // columns, rows, columns, channels).transpose(2, 3)
        y = y.reshape(batch, high, wide, channels)
        y = torch.roll(y, shift, (1, 2)) if any(shift) else y
        return y[:, :height, :width].contiguous()

    def _project(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.qkv.bias
        if bias is not None and hasattr(self, "logit_scale"):  # V2 has no bias on the keys
            query, key, value = bias.chunk(3)
            bias = torch.cat([query, torch.zeros_like(key), value])
        return F.linear(x, self.qkv.weight, bias)

    def _position_bias(self) -> Tensor:
        if hasattr(self, "cpb_mlp"):
            table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).flatten(0, -2))
        else:
            table = self.relative_position_bias_table
        tokens = self.window_size[0] * self.window_size[1]
        return table[self.relative_position_index].view(tokens, tokens, -1).permute(2, 0, 1)  # (heads, tokens, tokens)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"


class NarrowRelativeAttention(nn.Module):
    """torchvision's RelativePositionalMultiHeadAttention (MaxViT) with n_heads * head_dim under its width."""

    n_heads: int
    head_dim: int
    max_seq_len: int
    scale_factor: float
    to_qkv: nn.Linear
    merge: nn.Linear
    relative_position_index: Tensor
    relative_position_bias_table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, G, P, D), as the original."""
        q, k, v = (_split(part, self.n_heads, self.head_dim).transpose(2, 3) for part in self.to_qkv(x).chunk(3, -1))
        table = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = table.view(self.max_seq_len, self.max_seq_len, -1).permute(2, 0, 1)
        shares = F.softmax(q @ (k * self.scale_factor).transpose(-2, -1) + bias, -1)
        return self.merge((shares @ v).transpose(2, 3).flatten(3))

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, head_dim={self.head_dim}"


ATTENTION: dict[str, type[nn.Module]] = {
    "torch.nn.modules.activation.MultiheadAttention": NarrowMultiheadAttention,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": NarrowWindowAttention,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": NarrowWindowAttention,
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": NarrowRelativeAttention,
    "ultralytics.nn.modules.block.Attention": NarrowMapAttention,
}
"""By the full name of the original class: what takes its place when heads are removed."""


NARROW = (NarrowLayerNorm, NarrowRMSNorm, NarrowGroupNorm, NarrowResponseNorm, *set(ATTENTION.values()))


def exchanged(module: nn.Module) -> frozenset[str]:
    """The paths of the modules that a removal has turned into one of these."""
    return frozenset(path for path, child in named_modules(module) if isinstance(child, NARROW))


def narrow_attention(module: nn.Module) -> None:
    """Let the class be one that does not take its heads' size from the width, where weights have been cut.

    Raises: CheckpointError (extra keys of its own, which the narrow one does not know).
    """
    kind = ATTENTION.get(f"{type(module).__module__}.{type(module).__qualname__}")
    if kind is None:
        return
    if isinstance(module, nn.MultiheadAttention):
        if module.out_proj.weight.shape == (module.embed_dim, module.embed_dim):
            return
        if module.bias_k is not None or module.add_zero_attn:
            raise CheckpointError("an attention with bias_k or add_zero_attn cannot lose heads")
        module._qkv_same_embed_dim = False  # keeps TransformerEncoderLayer's fused path off
        module.embed_dim = module.out_proj.weight.shape[0]
    elif kind is NarrowMapAttention:
        maps = module.get_submodule("proj.conv")
        assert isinstance(maps, nn.Conv2d)
        if maps.weight.shape[:2] == (maps.out_channels, maps.in_channels):
            return
    else:
        output = module.get_submodule("merge" if kind is NarrowRelativeAttention else "proj")
        assert isinstance(output, nn.Linear)
        if output.weight.shape == (output.out_features, output.in_features):  # not yet told of the cuts
            return
        heads = int(vars(module).get("num_heads") or vars(module)["n_heads"])
        vars(module)["head_dim"] = output.in_features // heads
    module.__class__ = kind


def narrow_norm(module: Norm) -> None:
    """Let a norm count the zeros that have been removed from its weight, if any."""
    before = module.num_channels if isinstance(module, nn.GroupNorm) else module.normalized_shape[0]
    after = module.weight.shape[0]
    if after == before:
        return
    held = vars(module)
    channels = norm_dim(module)
    held["missing"] = held.get("missing", 0) + before - after
    if isinstance(module, nn.GroupNorm):
        module.__class__ = NarrowGroupNorm
        held["num_channels"] = after
        return
    module.__class__ = NarrowLayerNorm if isinstance(module, nn.LayerNorm) else NarrowRMSNorm
    held.update(normalized_shape=(after,), dim=channels)


def _wide(x: Tensor) -> Tensor:
    """Half precision as float32, in which torch's own norms square and add up as well."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _split(x: Tensor, *sizes: int) -> Tensor:
    """The last dimension laid out over `sizes`."""
    return x.reshape(*x.shape[:-1], *sizes)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def _shifted_mask(high: int, wide: int, rows: int, columns: int, shift: Any, like: Tensor) -> Tensor:
    """-100 between tokens of one window that the cyclic shift has brought together: (windows, tokens, tokens)."""

    def region(length: int, window: int, moved: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        return (place >= length - window).long() + (place >= length - moved).long()

    regions = region(high, rows, shift[0])[:, None] * 3 + region(wide, columns, shift[1])
    tokens = regions.view(high // rows, rows, wide // columns, columns).transpose(1, 2).reshape(-1, rows * columns)
    return torch.where(tokens[:, None] != tokens[:, :, None], -100.0, 0.0).to(like.dtype)

"""Nets of a few layers for benchmarks/removal.py, each with one thing that is easily got wrong or given up on.

`trap:` widths that leak into the forward pass, outputs that hide a difference, norms and attributes of a model's own.
`gap:` channels that could go exactly, through operators that are seldom met.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from removal_models import Builder, Built, image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torchvision.ops import deform_conv2d, roi_align

from extcon_cli.channels.compare import Inputs


class Net(nn.Module):
    """Layers and tensors by name, and a forward pass over them."""

    def __init__(self, forward: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.run = forward
        for name, value in held.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


class Clamped(nn.LayerNorm):
    """A norm with a forward pass of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input.clamp(-1, 1), self.normalized_shape, self.weight, self.bias, self.eps)


def conv(forward: Callable[..., Any], **held: Any) -> Callable[[], Net]:
    """conv, ReLU, `forward` on (N, 8, 10, 10) to any number of outputs; c: another convolution of 8 channels."""
    return lambda: Net(
        lambda net, x: forward(net, net.a(x).relu()),
        a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 4, 3), c=nn.Conv2d(8, 8, 1), o=nn.Linear(8, 4), **_fresh(held),
    )  # fmt: skip


def rows(forward: Callable[..., Any], **held: Any) -> Callable[[], Net]:
    """linear, ReLU, `forward` on (N, 5, 16); g: another linear map of the input, c: to 3 outputs."""
    return lambda: Net(
        lambda net, x: forward(net, net.f(x).relu(), x),
        f=nn.Linear(10, 16), g=nn.Linear(10, 16), c=nn.Linear(16, 3), **_fresh(held),
    )  # fmt: skip


def _fresh(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value() if callable(value) and not isinstance(value, nn.Module) else value
            for name, value in held.items()}  # fmt: skip


def weight(*sizes: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(sizes) / math.sqrt(sizes[-1]))


def cached(net: Any, y: Tensor) -> Tensor:
    net.features = net.c(y).relu()
    return net.b(net.features)


def by_value(net: Any, y: Tensor) -> Tensor:
    return net.b(net.c(y * y.max().item()).relu())


def chosen_rows(net: Any, y: Tensor, _: Tensor) -> Tensor:
    places = torch.where(y[:, 0, 0] > 0)[0]
    return net.c(y.index_add(0, places, net.m(y[places]).relu()))


def unused(net: Any, y: Tensor, _: Tensor) -> Tensor:
    net.m(y)  # computed, and thrown away
    return net.c(y)


def equal_shares(net: Any, y: Tensor) -> Tensor:
    z = net.q(y).relu()
    return net.o(z.reshape(len(y), y.shape[1], -1).transpose(1, 2).contiguous().mean(1))


def masked(net: Any, y: Tensor) -> Tensor:
    logits = net.o(net.c(y / y.shape[1]).relu().mean((2, 3)))
    return logits.masked_fill(~net.ok, torch.finfo(torch.float32).min)


def mixed(net: Any, y: Tensor, _: Tensor) -> Tensor:
    """Expert weights stacked in one tensor, shares from a gate."""
    shares = net.gate(y).softmax(-1)
    inner = F.silu(torch.einsum("nlc,ech->nleh", y, net.up))
    return net.c(torch.einsum("nleh,ehc,nle->nlc", inner, net.down, shares))


def batched(net: Any, y: Tensor, _: Tensor) -> Tensor:
    """The same by bmm, every expert on every token."""
    shares = net.gate(y).softmax(-1).flatten(0, 1).t()[..., None]
    inner = F.silu(torch.bmm(y.flatten(0, 1).expand(4, -1, -1), net.up))
    return net.c((torch.bmm(inner, net.down) * shares).sum(0).unflatten(0, (-1, 5)))


def cell(net: Any, y: Tensor, _: Tensor) -> Tensor:
    state = y.new_zeros(len(y), 12), y.new_zeros(len(y), 12)
    for step in y.unbind(1):
        state = net.lstm(step, state)
    return net.h(state[0])


def gru(net: Any, y: Tensor, _: Tensor) -> Tensor:
    state = y.new_zeros(len(y), 12)
    for step in y.unbind(1):
        state = net.gru(step, state)
    return net.h(state)


def shortcut(net: Any, y: Tensor) -> Tensor:
    """Option A of a residual network: every other pixel, zeros as the new channels."""
    wide = net.wide(y)
    missing = (wide.shape[1] - y.shape[1]) // 2
    return net.last((F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, missing, missing)) + wide).relu())


def shortcut_by_number(net: Any, y: Tensor) -> Tensor:
    return net.last((F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + net.wide(y)).relu())


def shortcut_by_cat(net: Any, y: Tensor) -> Tensor:
    small = y[:, :, ::2, ::2]
    zeros = small.new_zeros(len(y), 4, *small.shape[2:])
    return net.last((torch.cat([zeros, small, zeros], 1) + net.wide(y)).relu())


def boxes(net: Any, y: Tensor) -> Tensor:
    return net.b(roi_align(y, net.boxes.repeat(len(y), 1), 5))


def deformed(net: Any, y: Tensor) -> Tensor:
    return net.b(deform_conv2d(y, net.offset(y), net.w, padding=1).relu())


def yolo_attention(net: Any, y: Tensor) -> Tensor:
    """YOLO11's: one map for q, k and v of different widths, a depthwise convolution of v beside them."""
    n, _, h, w = y.shape
    q, k, v = net.qkv(y).view(n, 2, 16, h * w).split([4, 4, 8], dim=2)
    shares = (q.transpose(-2, -1) @ k * 0.5).softmax(-1)
    z = (v @ shares.transpose(-2, -1)).view(n, 16, h, w) + net.pe(v.reshape(n, 16, h, w))
    return net.b(y + net.proj(z))


def globally(net: Any, y: Tensor) -> Tensor:
    """ConvNeXt V2's response norm, by an L2 norm over space and a mean over channels."""
    size = torch.linalg.vector_norm(y, ord=2, dim=(2, 3), keepdim=True)
    return net.b(net.gamma * (y * (size / (size.mean(1, keepdim=True) + 1e-6))) + y)


IMAGE: dict[str, Callable[[], nn.Module]] = {
    "trap:labels only": conv(lambda m, y: m.b(m.c(y) / math.sqrt(y.shape[1])).argmax(1)),
    "trap:masked logits": conv(masked, ok=lambda: torch.tensor([True, True, True, False])),
    "trap:share of the width": conv(lambda m, y: m.b(m.c(y) / y.shape[1])),
    "trap:bound by the width": conv(lambda m, y: m.b(y.clamp(max=10.0 * y.shape[1]))),
    "trap:a way by the width": conv(lambda m, y: m.b(2 * y if y.shape[1] > 1 else y)),
    "trap:rounded constants": conv(lambda m, y: m.b((10 * m.n(m.c(y))).round() / 10), n=lambda: nn.BatchNorm2d(8)),
    "trap:steps": conv(lambda m, y: m.b(F.threshold((m.n(m.c(y)) - 0.3).sign(), 0.3, 7.0)),
                       n=lambda: nn.BatchNorm2d(8)),
    "trap:whole numbers": conv(lambda m, y: m.b((10 * m.c(y)).int().float())),
    "trap:features kept": conv(cached),
    "trap:squeezed": conv(lambda m, y: m.o(F.adaptive_avg_pool2d(y, 1).squeeze())),
    "trap:equal shares": conv(equal_shares, q=lambda: nn.Conv2d(8, 8, 2, 2)),
    "trap:a number read": conv(by_value),
    "trap:mean of the input": lambda: Net(lambda m, x: m.b(m.a(x - x.mean((2, 3), keepdim=True)).relu()),
                                          a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 4, 3)),
    "trap:another way": conv(lambda m, y: m.b(m.c(y) if y.shape[-1] > 14 else y)),
    "trap:live masks": conv(lambda m, y: m.b(m.p(y).relu()),
                            p=lambda: prune.ln_structured(nn.Conv2d(8, 8, 3), "weight", 0.5, 2, 0)),
    "gap:option A by pad": conv(shortcut, wide=lambda: nn.Conv2d(8, 16, 3, 2, 1), last=lambda: nn.Conv2d(16, 4, 1)),
    "trap:option A by numbers": conv(shortcut_by_number, wide=lambda: nn.Conv2d(8, 16, 3, 2, 1),
                                     last=lambda: nn.Conv2d(16, 4, 1)),
    "gap:option A by cat": conv(shortcut_by_cat, wide=lambda: nn.Conv2d(8, 16, 3, 2, 1),
                                last=lambda: nn.Conv2d(16, 4, 1)),
    "gap:divided by a buffer": conv(lambda m, y: m.b(y / m.std), std=lambda: torch.rand(8, 1, 1) + 0.5),
    "gap:divided by its mean": conv(lambda m, y: m.b(y / (1 + y.mean((2, 3), keepdim=True)))),
    "gap:unfold": conv(lambda m, y: m.h(F.unfold(y, 3).transpose(1, 2)), h=lambda: nn.Linear(72, 4)),
    "gap:fold": conv(lambda m, y: m.b(F.fold(F.unfold(y, 2, stride=2), (10, 10), 2, stride=2))),
    "gap:nan to num": conv(lambda m, y: m.b(torch.nan_to_num(y))),
    "gap:antialiased": conv(lambda m, y: m.b(F.interpolate(y, (6, 6), mode="bilinear", antialias=True))),
    "gap:roi_align": conv(boxes, boxes=lambda: torch.tensor([[0.0, 1.0, 2.0, 7.0, 8.0]])),
    "gap:deformed": conv(deformed, offset=lambda: nn.Conv2d(8, 18, 3, padding=1), w=weight(8, 8, 3, 3)),
    "gap:YOLO11's attention": conv(yolo_attention, qkv=lambda: nn.Conv2d(8, 32, 1), proj=lambda: nn.Conv2d(16, 8, 1),
                                   pe=lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16)),
    "gap:response norm": conv(globally, gamma=weight(8, 1, 1)),
}  # fmt: skip
ROWS: dict[str, Callable[[], nn.Module]] = {
    "trap:a norm of its own": rows(lambda m, y, _: m.c(m.n(20 * y)), n=lambda: Clamped(16)),
    "trap:rows by value": rows(chosen_rows, m=lambda: nn.Linear(16, 16)),
    "trap:a mask later": rows(lambda m, y, _: m.c(m.t(y)),
                              t=lambda: nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)),
    "gap:tied W and W^T": rows(lambda m, y, _: m.c(F.linear(F.relu(F.linear(y, m.w)), m.w.t())), w=weight(12, 16)),
    "gap:view, transposed": rows(lambda m, y, _: m.t(m.u(y[:, 0]).relu().view(len(y), -1, 3, 3)),
                                 u=lambda: nn.Linear(16, 108), t=lambda: nn.ConvTranspose2d(12, 3, 4, 2, 1)),
    "gap:normalised": rows(lambda m, y, _: m.c(F.normalize(y, dim=-1))),
    "gap:cosine head": rows(lambda m, y, _: F.linear(F.normalize(y, dim=-1), F.normalize(m.w, dim=-1)),
                            w=weight(3, 16)),
    "gap:similarity": rows(lambda m, y, x: F.cosine_similarity(y, m.g(x).relu(), dim=-1)),
    "gap:sum of channels": rows(lambda m, y, _: y.sum(-1)),
    "gap:L2 norm of channels": rows(lambda m, y, _: y.norm(dim=-1)),
    "gap:unused": rows(unused, m=lambda: nn.Linear(16, 16)),
    "gap:divided by a vector": rows(lambda m, y, _: m.c(y / m.std), std=lambda: torch.rand(16) + 0.5),
    "gap:cross attention": rows(lambda m, y, x: m.c(m.m(y, m.g(x), m.g(x))[0]),
                                m=lambda: nn.MultiheadAttention(16, 4, batch_first=True)),
    "gap:masked attention": rows(
        lambda m, y, _: m.c(m.m(y, y, y, key_padding_mask=m.mask.expand(len(y), -1), need_weights=False)[0]),
        m=lambda: nn.MultiheadAttention(16, 4, batch_first=True),
        mask=lambda: torch.tensor([[False, False, False, True, True]]),
    ),
    "gap:nn.Transformer": rows(lambda m, y, x: m.c(m.t(y, m.g(x), tgt_mask=m.mask)),
                               t=lambda: nn.Transformer(16, 4, 1, 1, 24, batch_first=True),
                               mask=lambda: nn.Transformer.generate_square_subsequent_mask(5)),
    "gap:the larger": rows(lambda m, y, _: m.h(torch.max(*m.f2(y).chunk(2, -1))), f2=lambda: nn.Linear(16, 24),
                           h=lambda: nn.Linear(12, 3)),
    "gap:weight norm": rows(lambda m, y, _: m.c(m.h(y).relu()),
                            h=lambda: parametrizations.weight_norm(nn.Linear(16, 16))),
    "gap:spectral norm": rows(lambda m, y, _: m.c(m.h(y).relu()),
                              h=lambda: parametrizations.spectral_norm(nn.Linear(16, 16))),
    "gap:experts by einsum": rows(mixed, gate=lambda: nn.Linear(16, 4), up=weight(4, 16, 12), down=weight(4, 12, 16)),
    "gap:experts by bmm": rows(batched, gate=lambda: nn.Linear(16, 4), up=weight(4, 16, 12), down=weight(4, 12, 16)),
    "gap:index_add": rows(lambda m, y, x: m.c(y.index_add(1, m.at, m.g(x)[:, :2])), at=lambda: torch.tensor([3, 1])),
    "gap:scatter_reduce": rows(
        lambda m, y, x: m.c(y.scatter_reduce(1, m.at.expand(len(y), 5, y.shape[-1]), m.g(x).relu(), "amax")),
        at=lambda: torch.tensor([3, 1, 0, 0, 2])[:, None],
    ),
    "gap:LSTM cell": rows(cell, lstm=lambda: nn.LSTMCell(16, 12), h=lambda: nn.Linear(12, 3)),
    "gap:GRU cell": rows(gru, gru=lambda: nn.GRUCell(16, 12), h=lambda: nn.Linear(12, 3)),
    "gap:projected LSTM": rows(lambda m, y, _: m.h(m.r(y)[0]), h=lambda: nn.Linear(6, 3),
                               r=lambda: nn.LSTM(16, 12, proj_size=6, batch_first=True)),
    "gap:distances": rows(lambda m, y, _: torch.cdist(y, m.w), w=weight(7, 16)),
}  # fmt: skip


def models() -> dict[str, Builder]:
    """Every net by 'trap:name' or 'gap:name'."""
    found: dict[str, Builder] = {name: partial(_built, build, lambda: image(12)) for name, build in IMAGE.items()}
    return found | {name: partial(_built, build, lambda: (torch.randn(2, 5, 10),)) for name, build in ROWS.items()}


def _built(build: Callable[[], nn.Module], example: Callable[[], Inputs]) -> Built:
    return build(), example()

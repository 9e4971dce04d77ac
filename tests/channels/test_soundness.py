"""What is not understood is not pruned, and never pruned wrongly: constants, hard-coded sizes, traps in the forward.

Most cases stand between two convolutions: `Trap(middle)` computes conv, batch norm, ReLU, `middle`, conv, linear.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.channels import channel_groups, classify, plan_removal, remove, zero_channels
from extcon_cli.channels.compare import EXACT, compare
from extcon_cli.errors import TraceError

Remove = Callable[..., Any]
Kill = Callable[[nn.Module, Any], None]
C = 8
EXAMPLE = (2, 3, 10, 10)
HALF = (3 * 9 + 1) * C // 2 + 6 * C // 2 * 9  # parameters that halving conv and reader removes


class Trap(nn.Module):
    """(N, 3, H, W) -> (N, 4), with `middle(model, y)` on the C channels (N, C, H - 2, W - 2) in between."""

    def __init__(
        self,
        middle: Callable[..., Tensor],
        norm: nn.Module | None = None,
        reader: nn.Module | None = None,
        **extra: Any,
    ) -> None:
        super().__init__()
        self.middle = middle
        self.conv = nn.Conv2d(3, C, 3)
        self.norm = nn.BatchNorm2d(C) if norm is None else norm
        self.reader = nn.Conv2d(C, 6, 3) if reader is None else reader
        self.head = nn.Linear(6, 4)
        for name, value in extra.items():
            if name.startswith("buffer"):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        if isinstance(self.norm, nn.BatchNorm2d) and self.norm.running_mean is not None:
            nn.init.normal_(self.norm.running_mean)
            nn.init.uniform_(self.norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self, F.relu(self.norm(self.conv(x))))
        return self.head(F.relu(self.reader(y)).mean((2, 3)))


def shuffled(model: Trap, y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def in_place(view: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    def middle(model: Trap, y: Tensor) -> Tensor:
        z = y - 0.3
        view(z)
        return z

    return middle


def on_a_copy(view: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    def middle(model: Trap, y: Tensor) -> Tensor:
        z = y.clone()
        view(z)
        return z

    return middle


def shift(z: Tensor) -> None:
    half = z.shape[1] // 2
    z[:, :half, 1:] = z[:, :half, :-1].clone()


def vector() -> nn.Parameter:
    return nn.Parameter(torch.rand(C, 1, 1) + 0.5)


def gate() -> nn.Module:
    layers = nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 4, 1), nn.ReLU(), nn.Conv2d(4, C, 1), nn.Sigmoid()
    return nn.Sequential(*layers)


class Careless(nn.Conv2d):
    """A convolution that would not use a bias if it had one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


def point(bias: bool = True, kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    return kind(C, C, 1, bias=bias)


def per_channel() -> nn.Parameter:
    return nn.Parameter(torch.rand(C, 1, 1) + 0.5)


# name: middle, what else the model holds. All of these lose half of the channels, or more.
FOLLOWED: dict[str, tuple[Callable[..., Tensor], dict[str, Callable[[], Any]]]] = {
    "nothing": (lambda m, y: y, {}),
    "no norm": (lambda m, y: y, {"norm": nn.Identity}),
    "batch norm without affine": (lambda m, y: y, {"norm": lambda: nn.BatchNorm2d(C, affine=False)}),
    "batch norm without statistics": (lambda m, y: y, {"norm": lambda: nn.BatchNorm2d(C, track_running_stats=False)}),
    "batch statistics": (lambda m, y: F.batch_norm(y, None, None, training=True), {}),
    "stored statistics, unused": (
        lambda m, y: F.batch_norm(y, m.n.running_mean + 0, m.n.running_var, m.n.weight, m.n.bias, training=True),
        {"n": lambda: nn.BatchNorm2d(C)},
    ),
    "layer norm": (
        lambda m, y: m.a(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        {"a": lambda: nn.LayerNorm(C)},
    ),
    "rms norm": (lambda m, y: m.a(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), {"a": lambda: nn.RMSNorm(C)}),
    "group norm of one group": (lambda m, y: m.a(y), {"a": lambda: nn.GroupNorm(1, C)}),
    "pixel unshuffle": (lambda m, y: m.a(F.pixel_unshuffle(y, 2)), {"a": lambda: nn.Conv2d(4 * C, C, 1)}),
    "pixel shuffle": (lambda m, y: F.pixel_shuffle(m.a(y), 2), {"a": lambda: nn.Conv2d(C, 4 * C, 3)}),
    "transposed": (lambda m, y: m.a(y), {"a": lambda: nn.ConvTranspose2d(C, C, 2, stride=2, padding=1)}),
    "transposed in groups": (lambda m, y: m.a(y), {"a": lambda: nn.ConvTranspose2d(C, C, 3, groups=2)}),
    "transposed depthwise": (lambda m, y: m.a(y), {"a": lambda: nn.ConvTranspose2d(C, C, 3, groups=C)}),
    "reflected borders": (lambda m, y: m.a(y), {"a": lambda: nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect")}),
    "circular borders": (lambda m, y: m.a(y), {"a": lambda: nn.Conv2d(C, C, 3, padding=1, padding_mode="circular")}),
    "zeros beside channels": (
        lambda m, y: F.pad(y, (0, 0, 0, 0, 2, 1))[:, :, 1:],
        {"reader": lambda: nn.Conv2d(C + 3, 6, 3)},
    ),
    "a gate that is easier to zero_channels, and not zero then": (
        lambda m, y: F.relu(m.b(y) + m.c(y)) * torch.sigmoid(m.a(y)),
        {"a": lambda: nn.Conv2d(C, C, 1, bias=False), "b": lambda: nn.Conv2d(C, C, 1), "c": lambda: nn.Conv2d(C, C, 1)},
    ),
    "glu": (lambda m, y: F.glu(m.a(y), 1), {"a": lambda: nn.Conv2d(C, 2 * C, 1)}),
    "stacked": (lambda m, y: torch.stack([y, 2 * y], 2).flatten(2, 3), {}),
    "a choice": (lambda m, y: torch.where(y > 0.5, y, 0.1 * y), {}),
    "a mask": (lambda m, y: y.masked_fill(y > 1.0, 0.0), {}),
    "a table by place": (lambda m, y: y[:, :, [0, 2, 1]], {}),
    "a stored matrix": (
        lambda m, y: (y.permute(0, 2, 3, 1) @ m.a).permute(0, 3, 1, 2),
        {"a": lambda: nn.Parameter(torch.randn(C, C))},
    ),
    "its transpose": (
        lambda m, y: (y.permute(0, 2, 3, 1) @ m.a.t()).permute(0, 3, 1, 2),
        {"a": lambda: nn.Parameter(torch.randn(C, C))},
    ),
    "lstm": (
        lambda m, y: m.a(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).unflatten(2, (8, 8)),
        {"a": lambda: nn.LSTM(C, C, batch_first=True)},
    ),
    "gru, both ways, no bias": (
        lambda m, y: m.a(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).unflatten(2, (8, 8)),
        {"a": lambda: nn.GRU(C, C // 2, 2, bias=False, bidirectional=True, batch_first=True)},
    ),
    "sampled": (
        lambda m, y: F.grid_sample(
            y,
            F.affine_grid(torch.eye(2, 3).repeat(len(y), 1, 1).to(y), list(y.shape), align_corners=False),
            align_corners=False,
        ),
        {},
    ),
    "attention": (
        lambda m, y: m.a(*[y.flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2).unflatten(2, (8, 8)),
        {"a": lambda: nn.MultiheadAttention(C, 2, batch_first=True)},
    ),
    "instance norm": (lambda m, y: y, {"norm": lambda: nn.InstanceNorm2d(C, affine=True)}),
    "instance norm with statistics": (
        lambda m, y: y,
        {"norm": lambda: nn.InstanceNorm2d(C, affine=True, track_running_stats=True)},
    ),
    "parameters (C, 1, 1)": (lambda m, y: y * m.a + m.b, {"a": per_channel, "b": per_channel}),
    "a buffer": (lambda m, y: y * m.buffer, {"buffer": lambda: torch.rand(C, 1, 1)}),
    "a scalar": (lambda m, y: y * m.a, {"a": lambda: nn.Parameter(torch.tensor(0.7))}),
    "a map": (lambda m, y: F.relu(y + m.a), {"a": lambda: nn.Parameter(torch.randn(1, C, 8, 8))}),
    "clamp by parameters": (lambda m, y: torch.clamp(y, min=m.a), {"a": per_channel}),
    "prelu": (lambda m, y: m.a(y - 0.3), {"a": lambda: nn.PReLU(C)}),
    "one prelu": (lambda m, y: m.a(y - 0.3), {"a": nn.PReLU}),
    "powers": (lambda m, y: y**2 + 2**y, {}),
    "pow in place": (lambda m, y: (y + 0.1).pow_(2), {}),
    "to integers": (lambda m, y: (3 * y).to(torch.int32).to(y.dtype), {}),
    "to half precision": (lambda m, y: y.to(torch.float16).to(y.dtype), {}),
    "one over": (lambda m, y: 1 / (y + 1), {}),
    "average with ceil_mode": (lambda m, y: F.avg_pool2d(y, 3, 2, ceil_mode=True), {}),
    "average with padding": (lambda m, y: F.avg_pool2d(y, 3, 2, 1), {}),
    "average with its own divisor": (lambda m, y: F.avg_pool2d(y, 2, divisor_override=1), {}),
    "maximum with padding": (lambda m, y: F.max_pool2d(y, 3, 2, 1, ceil_mode=True), {}),
    "adaptive maximum": (lambda m, y: F.adaptive_max_pool2d(y, 4), {}),
    "sum over space": (lambda m, y: y + 0.01 * y.sum((2, 3), keepdim=True), {}),
    "interpolation": (lambda m, y: F.interpolate(y, scale_factor=2, mode="bilinear"), {}),
    "dropout": (lambda m, y: m.a(y), {"a": nn.Dropout2d}),
    "flip": (lambda m, y: y + y.flip(1), {}),
    "slice of everything": (lambda m, y: y[:, :C], {}),
    "two chunks": (lambda m, y: torch.cat([y.chunk(2, 1)[1] * 2, y.chunk(2, 1)[0]], 1), {}),
    "four chunks": (lambda m, y: torch.cat([part * i for i, part in enumerate(y.chunk(4, 1))], 1), {}),
    "channel shuffle": (shuffled, {}),
    "squeeze and excite": (lambda m, y: y * m.a(y), {"a": gate}),
    "gate from one map": (lambda m, y: y * torch.sigmoid(m.a(y)), {"a": lambda: nn.Conv2d(C, 1, 1)}),
    "relu in place on a view": (in_place(lambda z: z.flatten(2).relu_()), {}),
    "in place on a view of everything": (in_place(lambda z: z[:, :C].add_(1)), {}),
    "grouped": (lambda m, y: F.relu(m.a(y)), {"a": lambda: nn.Conv2d(C, C, 3, groups=2)}),
    "depthwise with padding": (lambda m, y: F.relu(m.a(y)), {"a": lambda: nn.Conv2d(C, C, 3, padding=1, groups=C)}),
    "depthwise, two filters each": (
        lambda m, y: m.b(F.relu(m.a(y))),
        {"a": lambda: nn.Conv2d(C, 2 * C, 3, groups=C), "b": lambda: nn.Conv2d(2 * C, C, 1)},
    ),
    "zero padding": (lambda m, y: F.relu(m.a(y)), {"a": lambda: nn.Conv2d(C, C, 3, padding=1)}),
    "no bias": (lambda m, y: F.relu(m.a(y)), {"a": lambda: point(bias=False)}),
    "the same layer twice": (lambda m, y: m.a(F.relu(m.a(y))), {"a": point}),
    "a weight used directly": (lambda m, y: F.conv2d(y, m.a.weight), {"a": lambda: point(bias=False)}),
    "a weight used without its bias": (lambda m, y: F.conv2d(y, m.a.weight), {"a": point}),
    "a subclass that ignores biases": (lambda m, y: m.a(y), {"a": lambda: point(bias=False, kind=Careless)}),
    "a weight that is a buffer": (
        lambda m, y: F.conv2d(y, m.buffer, m.buffer_2),
        {"buffer": lambda: torch.randn(C, C, 1, 1), "buffer_2": lambda: torch.randn(C)},
    ),
    "a bias used elsewhere": (lambda m, y: m.a(y) + m.a.bias.sum(), {"a": point}),
    "a computed bias": (lambda m, y: F.conv2d(y, m.a.weight, 2 * m.a.bias), {"a": point}),
    "a copy in place": (in_place(lambda z: z.copy_(2 * z)), {}),
    "a copy into new memory": (lambda m, y: torch.empty_like(y).copy_(m.a(y)), {"a": point}),
    "rows changed in place": (on_a_copy(lambda z: z[:, :, 2:4].mul_(2)), {}),
    "rows written over": (on_a_copy(lambda z: z[:, :, 2:4].copy_(z[:, :, 4:6])), {}),
    "rows of another map": (
        lambda m, y: on_a_copy(lambda z: z[:, :, 2:4].copy_(m.a(y)[:, :, 4:6]))(m, y),
        {"a": point},
    ),
    "a row written over": (on_a_copy(lambda z: z[:, :, 0].copy_(z[:, :, 1])), {}),
    "half the channels written over": (in_place(lambda z: z[:, : z.shape[1] // 2].copy_(z[:, z.shape[1] // 2 :])), {}),
    "half the channels shifted": (on_a_copy(shift), {}),
    "rows of zeros": (on_a_copy(lambda z: z[:, :, 2:4].fill_(0.0)), {}),
    "a row of zeros": (on_a_copy(lambda z: z[:, :, 0].zero_()), {}),
    "rows of zeros, looked up": (
        on_a_copy(lambda z: z.__setitem__((slice(None), slice(None), torch.tensor([0, 2])), 0.0)),
        {},
    ),
    "rows filled with zeros": (on_a_copy(lambda z: z.index_fill_(2, torch.tensor([0, 2]), 0.0)), {}),
    "addcmul": (lambda m, y: torch.addcmul(y, m.a(y), m.b, value=0.5), {"a": point, "b": vector}),
    "addcdiv": (lambda m, y: torch.addcdiv(y, m.a(y), m.b + 1, value=0.5), {"a": point, "b": vector}),
    "lerp": (lambda m, y: torch.lerp(y, m.a(y), 0.3), {"a": point}),
    "lerp by channel": (lambda m, y: torch.lerp(y, m.a(y), m.b), {"a": point, "b": vector}),
}

# name: middle, what else the model holds, what the reason says. Here the first convolution keeps its channels.
FROZEN: dict[str, tuple[Callable[..., Tensor], dict[str, Callable[[], Any]], str]] = {
    "an unknown operator": (lambda m, y: y.cumsum(1), {}, "no rule for operator cumsum in cumsum (test_soundness.py"),
    "softmax": (lambda m, y: F.softmax(y, 1), {}, "softmax"),
    "mean over channels": (lambda m, y: y * y.mean(1, keepdim=True), {}, "mean runs over these channels"),
    "maximum over channels": (
        lambda m, y: y + F.adaptive_max_pool2d(y, 1).amax(1, keepdim=True),
        {},
        "amax runs over these channels",
    ),
    "rms over channels": (lambda m, y: y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1), {}, "mean runs over"),
    "divided by the largest": (lambda m, y: y / (1 + y.amax(1, keepdim=True)), {}, "amax runs over"),
    "response norm": (lambda m, y: F.local_response_norm(y, 3), {}, "avg_pool3d runs along it"),
    "group norm": (lambda m, y: m.a(y), {"a": lambda: nn.GroupNorm(2, C)}, "group_norm averages over"),
    "statistics of channels": (
        lambda m, y: F.instance_norm(y.permute(0, 2, 1, 3)).permute(0, 2, 1, 3),
        {},
        "instance_norm averages over",
    ),
    "channels as the batch": (
        lambda m, y: F.batch_norm(y.transpose(0, 1), None, None, training=True).transpose(0, 1),
        {},
        "batch_norm averages over",
    ),
    "a pool over channels": (
        lambda m, y: F.avg_pool2d(y.permute(0, 2, 1, 3), 3, 1, 1).permute(0, 2, 1, 3),
        {},
        "avg_pool2d runs along it",
    ),
    "attention over channels": (
        lambda m, y: y * torch.sigmoid(m.a(y.mean((2, 3)).unsqueeze(1))).transpose(1, 2).unsqueeze(-1),
        {"a": lambda: nn.Conv1d(1, 1, 3, padding=1)},
        "a convolution slides along it",
    ),
    "a hard-coded view": (lambda m, y: y.view(-1, 2, 4, 8, 8).flatten(1, 2), {}, "fails on the smaller width"),
    "a hard-coded shuffle": (
        lambda m, y: y.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, C, 8, 8),
        {},
        "fails on the smaller width",
    ),
    "a hard-coded expand": (
        lambda m, y: y + y.mean((2, 3), keepdim=True).expand(-1, C, 8, 8),
        {},
        "fails on the smaller width",
    ),
    "a hard-coded slice": (lambda m, y: torch.cat([y[:, :4], 2 * y[:, 4:]], 1), {}, "depends on the width"),
    "every second channel": (lambda m, y: torch.cat([y[:, ::2], y[:, 1::2]], 1), {}, "slice picks positions"),
    "the last channel": (lambda m, y: y * y[:, -1:], {}, "slice picks positions by number"),
    "one channel": (lambda m, y: y * y[:, 0].unsqueeze(1), {}, "select picks positions by number"),
    "a hard-coded split": (lambda m, y: torch.cat([p * i for i, p in enumerate(y.split(4, 1))], 1), {}, "the forward"),
    "an unequal split": (
        lambda m, y: torch.cat([p * i for i, p in enumerate(y.split([5, 3], 1))], 1),
        {},
        "cuts into unequal parts",
    ),
    "three chunks of eight": (lambda m, y: torch.cat(y.chunk(3, 1)[::-1], 1), {}, "cuts into unequal parts"),
    "unbind": (lambda m, y: torch.stack(y.unbind(1)[::-1], 1), {}, "unbind takes single positions"),
    "bits of another type": (lambda m, y: y.float().view(torch.int16).to(y.dtype)[..., ::2], {}, "is read as another"),
    "an index": (lambda m, y: y[:, [1, 0, 3, 2, 4, 5, 6, 7]], {}, "index picks positions by number"),
    "an index in a buffer": (
        lambda m, y: y.index_select(1, m.buffer),
        {"buffer": lambda: torch.arange(C).flip(0)},
        "index_select picks positions by number",
    ),
    "roll": (lambda m, y: y.roll(1, 1), {}, "roll picks positions by number"),
    "repeat": (lambda m, y: y.repeat(1, 2, 1, 1)[:, :C], {}, "fails on the smaller width"),
    "indices of maxima": (lambda m, y: F.max_pool2d(y, 2, return_indices=True)[0], {}, "max_pool2d_with_indices"),
    "the width as a number": (lambda m, y: y / y.shape[1], {}, "the forward pass depends on the width"),
    "the number of elements": (lambda m, y: y * (y.numel() / 1024), {}, "the forward pass depends on the width"),
    "a branch on the width": (lambda m, y: 2 * y if y.shape[1] == C else y, {}, "depends on the width"),
    "a plain tensor": (
        lambda m, y: y * m.a,
        {"a": lambda: torch.rand(C, 1, 1)},
        "meets a value without channels of its own",
    ),
    "slopes that are no parameter": (
        lambda m, y: F.prelu(y - 0.3, torch.full((C,), 0.1, dtype=y.dtype)),
        {},
        "meets a value without channels of its own",
    ),
    "dropout that never stops": (lambda m, y: F.dropout(y, 0.5, True), {}, "draws a random number"),
    "in place on a slice": (in_place(lambda z: z[:, :3].add_(1)), {}, "slice picks positions by number"),
    "zero in place on a channel": (in_place(lambda z: z[:, 0].zero_()), {}, "select picks positions by number"),
    "assignment by a mask": (in_place(lambda z: z.__setitem__(z > 1, 1.0)), {}, "does not become constant"),
    "half the channels written over, by number": (on_a_copy(lambda z: z[:, :4].copy_(z[:, 4:])), {}, "forward pass"),
    "some channels written over": (on_a_copy(lambda z: z[:, :3].copy_(z[:, 5:])), {}, "slice picks positions"),
    "channels written over with a number": (
        on_a_copy(lambda z: z.index_fill_(1, torch.tensor([0, 2]), 0.0)),
        {},
        "is written over by number",
    ),
    "written into what has no channels": (
        lambda m, y: y.new_zeros(y.shape).copy_(y),
        {},
        "meets a value without channels of its own",
    ),
    "a row of another number": (on_a_copy(lambda z: z[:, :, 0].fill_(1.0)), {}, "does not become constant"),
    "rows of another number": (
        on_a_copy(lambda z: z.__setitem__((slice(None), slice(None), torch.tensor([0, 2])), 1.0)),
        {},
        "does not become constant",
    ),
    "rows of several numbers": (
        on_a_copy(lambda z: z.__setitem__((slice(None), slice(None), torch.tensor([0, 2])), z[:, :, 1:2] * 2)),
        {},
        "is written over by number",
    ),
    "a number added here and there": (
        on_a_copy(lambda z: torch.ops.aten.index_put_(z, [None, None, torch.tensor([0, 2])], z.new_zeros(()), True)),
        {},
        "does not become constant",
    ),
    "a weight of no channels": (
        lambda m, y: F.conv2d(y, m.a.weight.sort(1)[0], m.a.bias),
        {"a": point},
        "the weight is computed, not stored,",
    ),
    "weight norm": (
        lambda m, y: m.a(y),
        {"a": lambda: nn.utils.parametrizations.weight_norm(point())},
        "a weight is normalised over it",
    ),
    "einsum": (
        lambda m, y: y * torch.einsum("nchw,nchw->nhw", y, y).unsqueeze(1),
        {},
        "einsum sums over these channels",
    ),
    "complex numbers": (lambda m, y: torch.view_as_real(torch.complex(y, y))[..., 1], {}, "no rule"),
    "fourier": (lambda m, y: torch.fft.rfft2(y).abs()[..., :4], {}, "no rule for operator fft_rfft2"),
    "the state of an lstm": (
        lambda m, y: (
            y
            * torch.lstm(
                m.a(y.mean(3).transpose(1, 2)),
                (y.mean((2, 3))[None], y.mean((2, 3))[None]),
                list(m.b.parameters()),
                True,
                1,
                0.0,
                False,
                False,
                True,
            )[0][:, -1, :, None, None]
        ),
        {"a": lambda: nn.Linear(C, C), "b": lambda: nn.LSTM(C, C, batch_first=True)},
        "holds a state of this width",
    ),
}


def trap(middle: Callable[..., Tensor], extra: dict[str, Callable[[], Any]]) -> Trap:
    torch.manual_seed(0)
    return Trap(middle, **{name: make() for name, make in extra.items()})


@pytest.mark.parametrize("name", FOLLOWED)
def test_zeros_go(name: str, remove_exactly: Remove) -> None:
    removal = remove_exactly(trap(*FOLLOWED[name]), (torch.randn(EXAMPLE),))
    assert removal.gone >= HALF


@pytest.mark.parametrize("name", FOLLOWED)
def test_other_constants_go_exactly_or_stay(name: str, remove_exactly: Remove, kill_to_constants: Kill) -> None:
    removal = remove_exactly(trap(*FOLLOWED[name]), (torch.randn(EXAMPLE),), kill_to_constants)
    assert removal.gone > 0  # the neurons before the head, whatever stands in between


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_not_understood_stays_and_says_why(name: str, remove_exactly: Remove, kill_to_constants: Kill) -> None:
    middle, extra, reason = FROZEN[name]
    for kill in ({}, {"kill": kill_to_constants}):
        removal = remove_exactly(trap(middle, extra), (torch.randn(EXAMPLE),), sizes=(2,), **kill)
        assert reason in removal.group("conv").reason
        assert removal.after.conv.out_channels == C
        assert removal.gone > 0, "the neurons before the head go all the same"


def test_a_frozen_group_names_the_line_of_the_model() -> None:
    module = trap(lambda m, y: y.cumsum(1), {})
    line = (
        Path(__file__).read_text().splitlines().index("        y = self.middle(self, F.relu(self.norm(self.conv(x))))")
    )
    reason = channel_groups(module, (torch.randn(EXAMPLE),)).groups[0].reason
    assert reason.startswith(f"no rule for operator cumsum in cumsum (test_soundness.py:{line + 1}: y = self.middle(")


def test_autocast_inside_the_forward_is_not_seen_through() -> None:
    def middle(model: Trap, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = model.a(y)
        return z.float()

    module = trap(middle, {"a": point})
    assert not channel_groups(module, (torch.randn(EXAMPLE),)).groups[0].prunable


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_buffer_that_the_forward_changes_is_no_constant(kill_to_constants: Kill, start: float) -> None:
    def middle(model: Trap, y: Tensor) -> Tensor:
        z = y * model.buffer
        model.buffer[:4].add_(1.0)
        return z

    before = trap(middle, {"buffer": lambda: torch.full((C, 1, 1), start)}).eval()
    channels = channel_groups(before, (torch.randn(EXAMPLE),))
    kill_to_constants(before, channels)
    after = copy.deepcopy(before)
    remove(after, plan_removal(before, channels))
    x = torch.randn(EXAMPLE)
    for _ in range(3):  # it counts its calls
        assert compare([([before(x)], [after(x)], len(x))]).relative <= EXACT


def test_tied_weights_and_biases(remove_exactly: Remove, kill_to_constants: Kill) -> None:
    for tie in ("weight", "bias"):
        for bias in (True, False) if tie == "weight" else (True,):
            module = trap(
                lambda m, y: m.b(F.relu(m.a(y))), {"a": lambda b=bias: point(b), "b": lambda b=bias: point(b)}
            )
            setattr(module.b, tie, getattr(module.a, tie))
            for kill in ({}, {"kill": kill_to_constants}):
                after = remove_exactly(module, (torch.randn(EXAMPLE),), **kill).after
                assert getattr(after.b, tie) is getattr(after.a, tie)


def test_a_tied_weight_gets_its_bias_where_it_is_called(remove_exactly: Remove, kill_to_constants: Kill) -> None:
    module = trap(lambda m, y: m.b(y), {"a": lambda: point(False), "b": lambda: point(False)})
    module.b.weight = module.a.weight  # known under the name of a, which is never called
    remove_exactly(module, (torch.randn(EXAMPLE),), kill_to_constants)


# --- constants -------------------------------------------------------------------------------------------------


def dead(module: nn.Module, conv: str, beta: float, *, norm: str | None = None) -> None:
    """The first two filters of a convolution emit `beta` everywhere."""
    with torch.no_grad():
        layer = module.get_submodule(norm or conv)
        layer.weight[:2] = 0.0  # type: ignore[index]
        layer.bias[:2] = beta  # type: ignore[index]


def chain(**reader: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, **reader), nn.ReLU(), nn.Conv2d(5, 2, 1))


def test_before_zero_padding_one_constant_carries_the_others(remove_exactly: Remove) -> None:
    module = chain(padding=1)
    removal = remove_exactly(module, (torch.randn(EXAMPLE),), lambda m, c: dead(m, "0", 0.7))
    assert removal.after[0].out_channels == 5
    assert removal.plan.folds == ()
    assert [(merge.weight, merge.channels, merge.into) for merge in removal.plan.merges] == [("2.weight", (1,), (0,))]
    first = classify(removal.before, removal.channels)[0]
    assert first.dead.tolist() == [True, True, False, False, False, False]
    assert (first.carrier, first.removable.sum()) == (0, 1)


def test_a_single_constant_stays_before_zero_padding(remove_exactly: Remove) -> None:
    def kill(module: nn.Module, channels: Any) -> None:
        module[0].weight.data[0], module[0].bias.data[0] = 0.0, 0.7  # type: ignore[index]

    removal = remove_exactly(chain(padding=1), (torch.randn(EXAMPLE),), kill)
    assert removal.after[0].out_channels == 6
    assert removal.plan.cuts == removal.plan.merges == ()


def test_a_constant_that_the_activation_makes_zero_goes_before_padding_too(remove_exactly: Remove) -> None:
    removal = remove_exactly(chain(padding=1), (torch.randn(EXAMPLE),), lambda m, c: dead(m, "0", -0.7))
    assert removal.after[0].out_channels == 4


@pytest.mark.parametrize("bias", [True, False])
def test_a_constant_is_folded_into_the_next_bias(bias: bool, remove_exactly: Remove) -> None:
    module = chain(bias=bias)
    module[2].requires_grad_(False)
    removal = remove_exactly(module, (torch.randn(EXAMPLE),), lambda m, c: dead(m, "0", 0.7))
    assert removal.after[0].out_channels == removal.after[2].in_channels == 4
    assert removal.after[2].bias.shape == (5,)
    assert not removal.after[2].bias.requires_grad
    assert repr(removal.after[2]) == repr(nn.Conv2d(4, 5, 3))
    assert len(removal.plan.folds) == 1


def test_a_bias_that_is_made_loses_the_filters_that_go_with_it(remove_exactly: Remove) -> None:
    def kill(module: nn.Module, channels: Any) -> None:
        dead(module, "0", 0.7)
        module[2].weight.data[1:3] = 0.0  # type: ignore[index]

    after = remove_exactly(chain(bias=False), (torch.randn(EXAMPLE),), kill).after
    assert after[2].bias.shape == (3,)


def test_a_constant_is_folded_into_a_linear_layer_that_reads_a_map(remove_exactly: Remove) -> None:
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 64, 5, bias=False)
    module = nn.Sequential(*layers, nn.Linear(5, 2))
    removal = remove_exactly(module, (torch.randn(EXAMPLE),), lambda m, c: dead(m, "0", -0.4, norm="1"))
    assert removal.after[4].in_features == 4 * 64
    assert f"in_features={4 * 64}, out_features=5, bias=True" in repr(removal.after[4])


@pytest.mark.parametrize("depthwise", [True, False])
def test_a_constant_read_through_zero_padding_gives_none(depthwise: bool, remove_exactly: Remove) -> None:
    """Its sum of taps is smaller at the borders, though every filter reads that one constant alone."""
    middle = nn.Conv2d(6, 6, 3, padding=1, groups=6 if depthwise else 1)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU())
    module.append(nn.Conv2d(4, 2, 1))

    def kill(module: nn.Module, channels: Any) -> None:
        dead(module, "0", 0.7)
        nn.init.uniform_(middle.weight, 0.1, 0.5)  # type: ignore[arg-type]
        if not depthwise:
            module[2].weight.data[:2, 2:] = 0.0  # type: ignore[index]

    removal = remove_exactly(module, (torch.randn(EXAMPLE),), kill)
    assert removal.after[2].out_channels == 6  # it writes no constant: its borders differ
    assert removal.after[0].out_channels == (6 if depthwise else 5)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6, track_running_stats=False), nn.InstanceNorm2d(6, affine=True)])
def test_a_constant_normalised_by_its_own_statistics_is_beta(norm: nn.Module, remove_exactly: Remove) -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1))

    def kill(module: nn.Module, channels: Any) -> None:
        dead(module, "0", 0.7)
        nn.init.uniform_(module[1].weight, 0.5, 1.5)  # type: ignore[index]
        nn.init.uniform_(module[1].bias, 0.5, 1.5)  # type: ignore[index]

    assert remove_exactly(module, (torch.randn(EXAMPLE),), kill).after[3].in_channels == 4


def test_never_all_channels_of_a_group(remove_exactly: Remove) -> None:
    module = chain(bias=True)

    def kill(module: nn.Module, channels: Any) -> None:
        for group in channels.groups:
            if group.prunable:
                zero_channels(module, group, np.arange(group.size))

    after = remove_exactly(module, (torch.randn(EXAMPLE),), kill).after
    assert (after[0].out_channels, after[2].out_channels, after[4].in_channels) == (1, 1, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["conv.weight", "norm.bias", "norm.running_mean", "reader.weight"])
def test_a_channel_with_a_weight_that_is_no_number_is_never_dead(where: str, value: float) -> None:
    module = trap(lambda m, y: y, {}).eval()
    channels = channel_groups(module, (torch.randn(EXAMPLE),))
    zero_channels(module, channels.groups[0], np.arange(4))
    tensor = module.state_dict()[where]
    (tensor[:, 1] if where == "reader.weight" else tensor[1]).fill_(value)
    assert classify(module, channels)[0].dead.tolist() == [True, False, True, True, False, False, False, False]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_zero_times_a_weight_that_is_no_number_is_no_constant(value: float) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    channels = channel_groups(module, (torch.randn(2, 3),))
    zero_channels(module, channels.groups[0], np.array([1]))
    state = module.state_dict()
    state["1.weight"][2] = torch.tensor([0.0, value, 0.0, 0.0])
    state["2.weight"][0] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert not classify(module, channels)[2].dead[0]
    state["1.weight"][2] = 0.0
    assert classify(module, channels)[2].dead[0]


def test_a_filter_whose_weights_sum_to_zero_is_alive(remove_exactly: Remove) -> None:
    def kill(module: nn.Module, channels: Any) -> None:
        laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        module[0].weight.data[0], module[0].bias.data[0] = laplacian, 0.0  # type: ignore[index]
        module[0].weight.data[1], module[0].bias.data[1] = 0.0, 0.0  # type: ignore[index]

    removal = remove_exactly(chain(padding=1), (torch.randn(EXAMPLE),), kill)
    assert removal.plan.cuts[0].removed == ((1, 2),)


# --- inputs, outputs, and the user's module --------------------------------------------------------------------


class Several(nn.Module):
    """Two inputs, a dictionary of outputs with an intermediate map in it, a residual on the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 4, 1)
        self.e = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        hidden = F.relu(self.a(x) + self.b(y))
        summed = x + self.c(hidden)
        features = self.d(summed)
        return {"features": features, "logits": [self.e(F.relu(features))]}


def test_several_inputs_and_outputs(remove_exactly: Remove) -> None:
    removal = remove_exactly(Several(), (torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)))
    assert removal.after.a.out_channels == removal.after.b.out_channels == removal.after.c.in_channels == 3
    assert removal.group("d").reason == "is an output of the model"
    assert removal.group("c").reason.startswith("meets a value without channels of its own in add")


def test_no_batch(remove_exactly: Remove) -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.Flatten(0))
    assert remove_exactly(module, (torch.randn(3, 12, 12),), sizes=(3,)).after[0].out_channels == 3


def test_one_and_three_dimensions(remove_exactly: Remove) -> None:
    one = nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(6, 4, 3))
    three = nn.Sequential(nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 4, 1))
    assert remove_exactly(one, (torch.randn(2, 3, 16),)).after[0].out_channels == 3
    assert remove_exactly(three, (torch.randn(2, 3, 8, 8, 8),)).after[0].out_channels == 3


def test_columns_of_an_embedding_go_and_stay_tied(remove_exactly: Remove) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.up, self.down = nn.Embedding(11, 6), nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.words(tokens)
            return F.linear(x + self.down(F.gelu(self.up(x))), self.words.weight)

    after = remove_exactly(Words(), (torch.randint(11, (2, 5)),)).after
    assert after.up.out_features == after.down.in_features == 4
    assert after.words.weight.shape == (11, 3)
    assert after.words.embedding_dim == after.up.in_features == after.down.out_features == 3


def test_a_model_of_complex_numbers_changes_nothing(remove_exactly: Remove) -> None:
    module = nn.Sequential(nn.Linear(3, 6, dtype=torch.cfloat), nn.Tanh(), nn.Linear(6, 2, dtype=torch.cfloat)).eval()
    x = torch.randn(4, 3, dtype=torch.cfloat)
    channels = channel_groups(module, (x,))
    expected = module(x)
    remove(module, plan_removal(module, channels))
    torch.testing.assert_close(module(x), expected)


def test_planning_leaves_the_module_alone() -> None:
    module = trap(lambda m, y: F.dropout(y, 0.5, True), {})
    module.train()
    module.norm.eval()
    module.reader.weight.requires_grad_(False)
    modes = [child.training for child in module.modules()]
    state, generator = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    held = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    plan_removal(module, channel_groups(module, (torch.randn(EXAMPLE, generator=torch.Generator()),)))
    assert [child.training for child in module.modules()] == modes
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == held
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_removal_keeps_the_mode_and_what_is_not_trained(kill_halves: Any) -> None:
    module = trap(lambda m, y: y, {}).train()
    module.conv.weight.requires_grad_(False)
    channels = channel_groups(module, (torch.randn(EXAMPLE),))
    kill_halves(module, channels)
    remove(module, plan_removal(module, channels))
    assert all(child.training for child in module.modules())
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    assert frozen == ["conv.weight"]
    assert all(isinstance(child.weight, nn.Parameter) for child in (module.conv, module.norm, module.reader))


def test_data_dependent_control_flow_names_the_line() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if y.sum() > 0:  # the line
                return y
            return 2 * y

    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.endswith("# the line"))
    with pytest.raises(TraceError, match=f"in test_soundness.py, line {number}") as caught:
        channel_groups(Branches(), (torch.randn(EXAMPLE),))
    assert "\n" not in str(caught.value)
    assert "data-dependent control flow" in str(caught.value)

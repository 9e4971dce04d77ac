"""Networks that no zoo holds: every way of wiring channels that people write, each shrunk without moving an output.

Each entry says which share of the parameters goes at least when every prunable group loses half; 0 where all stays.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.channels import RemovalPlan, channel_groups, remove, remove_zeros, zero_channels
from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import TraceError

Remove = Callable[..., Any]


class Net(nn.Module):
    """Layers by name and a forward pass over them, so that each network is one entry of the table."""

    def __init__(self, forward: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


class Blocks(nn.Module):
    """The channels as (groups, width), by sizes written in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x)).view(-1, 4, 8)
        return self.last((y * torch.arange(1.0, 5.0)[:, None]).reshape(-1, 32))


class Bare(nn.Module):
    """Parameters that belong to no layer: a matrix, a scale, a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 16))
        self.scale, self.shift = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.randn(16))
        self.out = nn.Parameter(torch.randn(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu((x @ self.matrix) * self.scale + self.shift) @ self.out


class Recurrent(nn.Module):
    """A convolution in front of a recurrent layer whose last state a linear map reads."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv, self.cell, self.head = nn.Conv1d(4, 12, 3), kind(12, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cell(F.relu(self.conv(x)).transpose(1, 2))
        return self.head(states[:, -1])


class Unet(nn.Module):
    """Down twice, up twice by transposed convolutions, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_unit(read, wide) for read, wide in ((3, 8), (8, 12), (12, 16)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(read, wide, 2, 2) for read, wide in ((16, 12), (12, 8)))
        self.merge = nn.ModuleList(_unit(read, wide) for read, wide in ((24, 12), (16, 8)))
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        y = self.down[2](F.max_pool2d(second, 2))
        for up, merge, skip in zip(self.up, self.merge, (second, first), strict=True):
            y = merge(torch.cat([up(y), skip], 1))
        return self.out(y)


class Gated(nn.Module):
    """A gated linear unit over channels, then squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.conv(x), 1)
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(y.mean((2, 3)))


class Shuffled(nn.Module):
    """ShuffleNet's unit: half of the channels pass, all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.tail = _unit(3, 16), _unit(8, 8), _unit(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        y = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.tail(y).mean((2, 3)))


class Chains(nn.Module):
    """Cut in three, treat the parts apart, join in another order, cut again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.parts = nn.Conv2d(3, 24, 3), nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.mix, self.head = nn.Conv2d(24, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = F.relu(self.stem(x)).chunk(3, 1)
        first, second, third = (F.relu(layer(part)) for layer, part in zip(self.parts, parts, strict=True))
        y = torch.cat([third, first + second, torch.cat([second, first], 1).chunk(2, 1)[0]], 1)
        return self.head(F.relu(self.mix(y)).mean((2, 3)))


class Shared(nn.Module):
    """One layer used at two places, and two layers that hold the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.other = nn.Linear(16, 16)
        self.other.weight = self.twice.weight

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        return self.head(F.relu(self.other(F.relu(self.twice(F.relu(self.twice(y)))))))


class Sentence(nn.Module):
    """Embedding with positions, masked attention by hand, a tied table as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(20, 16), nn.Embedding(9, 16)
        self.qkv, self.proj, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)
        self.heads, self.width = 2, 8
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        n, length = tokens.shape
        y = self.table(tokens) + self.places(torch.arange(length))
        q, k, v = self.qkv(self.norm(y)).view(n, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) / 2.0).masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        y = y + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, -1))
        return F.linear(y + self.down(F.gelu(self.up(y))), self.table.weight)


def _unit(read: int, written: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(read, written, 3, padding=1), nn.BatchNorm2d(written), nn.ReLU())


def layers(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


def image() -> tuple[Tensor]:
    return (torch.randn(2, 3, 12, 12),)


def vector() -> tuple[Tensor]:
    return (torch.randn(2, 6),)


def two_headed(net: Any, x: Tensor) -> dict[str, Any]:
    y = F.relu(net.stem(x))
    return {"class": net.first(y), "more": [net.second(y.tanh()), {"row": net.second(y * y)}]}


def by_name(net: Any, batch: dict[str, Tensor], scale: Tensor) -> Tensor:
    left, right = F.relu(net.left(batch["left"])), F.relu(net.right(batch["right"]))
    return net.head(torch.cat([left * scale, right], -1))


def two_inputs(net: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    both = F.relu(net.left(x)) + F.relu(net.right(y))
    return net.head(both), net.other(both * both)


def unflattened(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.first(x)).unflatten(1, (8, 2, 2))
    return net.head(F.relu(net.conv(y)).flatten(1))


def padded_shortcut(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.stem(x))
    wide = net.wide(y)
    missing = (wide.shape[1] - y.shape[1]) // 2
    return net.head(F.relu(wide + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, missing, missing))))


def padded_by_number(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.stem(x))
    return net.head(F.relu(net.wide(y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))


def stacked_experts(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.stem(x))
    inner = F.silu(torch.einsum("nc,ech->neh", y, net.up))
    return net.head(torch.einsum("neh,ehc,ne->nc", inner, net.down, net.gate(y).softmax(-1)))


def stepwise(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.conv(x)).transpose(1, 2)
    state = net.head.weight.new_zeros(len(x), 10), net.head.weight.new_zeros(len(x), 10)
    for step in range(y.shape[1]):
        state = net.cell(y[:, step], state)
    return net.head(state[0])


def decoded(net: Any, x: Tensor) -> Tensor:
    return net.up(F.relu(net.first(x)).view(len(x), -1, 3, 3))


def cross_attended(net: Any, x: Tensor, y: Tensor) -> Tensor:
    a, b = F.relu(net.left(x)), F.relu(net.right(y))
    return net.head(net.attention(a, b, b, need_weights=False)[0])


def thrown_away(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.stem(x))
    net.unused(y)
    return net.head(y)


def unit_cosine(net: Any, x: Tensor) -> Tensor:
    return F.linear(F.normalize(F.relu(net.stem(x)), dim=-1), F.normalize(net.w, dim=-1))


Table = dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs], float]]
NETWORKS: Table = {
    "grouped": (
        lambda: layers(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1)),
        image,
        0.4,
    ),
    "depthwise, two filters a channel": (
        lambda: layers(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8), nn.ReLU(), nn.Conv2d(16, 2, 1)),
        image,
        0.4,
    ),
    "transposed": (
        lambda: layers(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 12, 3, 2), nn.ELU(), nn.Conv2d(12, 2, 1)),
        image,
        0.5,
    ),
    "transposed and grouped": (
        lambda: layers(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1)),
        image,
        0.0,
    ),
    "transposed and depthwise": (
        lambda: layers(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1)),
        image,
        0.4,
    ),
    "1d": (
        lambda: layers(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.GELU(), nn.Conv1d(8, 6, 3), nn.Flatten(),
                       nn.Linear(48, 2)),
        lambda: (torch.randn(2, 4, 12),),
        0.4,
    ),
    "3d": (
        lambda: layers(nn.Conv3d(2, 8, 3), nn.BatchNorm3d(8), nn.SiLU(), nn.MaxPool3d(2), nn.Conv3d(8, 6, 2), nn.ReLU(),
                       nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 2)),
        lambda: (torch.randn(2, 2, 8, 8, 8),),
        0.5,
    ),
    "group norm": (
        lambda: layers(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(),
                       nn.Conv2d(8, 2, 1)),
        image,
        0.2,
    ),
    "instance norm": (
        lambda: layers(nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16, affine=True), nn.ReLU(), nn.Conv2d(16, 2, 1)),
        image,
        0.4,
    ),
    "split and concat": (Chains, image, 0.4),
    "U-Net": (Unet, image, 0.5),
    "channel shuffle": (Shuffled, image, 0.4),
    "pixel shuffle": (
        lambda: layers(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.PixelShuffle(2), nn.ReLU(),
                       nn.Conv2d(8, 2, 1)),
        image,
        0.5,
    ),
    "pixel unshuffle": (
        lambda: layers(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(32, 8, 1), nn.ReLU(),
                       nn.Conv2d(8, 2, 1)),
        image,
        0.4,
    ),
    "squeeze, excite, gate": (Gated, image, 0.0),
    "PReLU": (
        lambda: layers(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU(), nn.Conv2d(8, 2, 1)), image, 0.4,
    ),
    "several inputs and outputs": (
        lambda: Net(two_inputs, left=nn.Linear(6, 16), right=nn.Linear(6, 16), head=nn.Linear(16, 3),
                    other=nn.Linear(16, 2)),
        lambda: (torch.randn(2, 6), torch.randn(2, 6)),
        0.4,
    ),
    "a dict and a keyword in": (
        lambda: Net(by_name, left=nn.Linear(6, 16), right=nn.Linear(4, 12), head=nn.Linear(28, 3)),
        lambda: {"batch": {"left": torch.randn(2, 6), "right": torch.randn(2, 4)}, "scale": torch.tensor(0.7)},
        0.4,
    ),
    "a dict and a list out": (
        lambda: Net(two_headed, stem=nn.Linear(6, 16), first=nn.Linear(16, 3), second=nn.Linear(16, 2)), vector, 0.4,
    ),
    "weight sharing": (Shared, vector, 0.4),
    "bare parameters": (Bare, vector, 0.4),
    "LSTM head": (lambda: Recurrent(nn.LSTM), lambda: (torch.randn(2, 4, 9),), 0.2),
    "GRU head": (lambda: Recurrent(nn.GRU), lambda: (torch.randn(2, 4, 9),), 0.2),
    "embedding, attention by hand, tied output": (Sentence, lambda: (torch.randint(20, (2, 7)),), 0.2),
    "unflatten to fixed sizes": (
        lambda: Net(unflattened, first=nn.Linear(6, 32), conv=nn.Conv2d(8, 12, 1), head=nn.Linear(48, 2)), vector, 0.15,
    ),
    "sizes in the code": (Blocks, vector, 0.0),
    "a shortcut padded to the width": (
        lambda: Net(padded_shortcut, stem=nn.Conv2d(3, 8, 3), wide=nn.Conv2d(8, 16, 3, 2, 1), head=nn.Conv2d(16, 2, 1)),
        image,
        0.5,
    ),
    "a shortcut padded by a number": (
        lambda: Net(padded_by_number, stem=nn.Conv2d(3, 8, 3), wide=nn.Conv2d(8, 16, 3, 2, 1),
                    head=nn.Conv2d(16, 2, 1)),
        image,
        0.2,
    ),
    "tied W and its transpose": (
        lambda: Net(lambda net, x: F.linear(F.relu(F.linear(x, net.w)), net.w.t()), w=nn.Parameter(torch.randn(16, 6))),
        vector,
        0.5,
    ),
    "linear, view, transposed": (
        lambda: Net(decoded, first=nn.Linear(6, 108), up=nn.ConvTranspose2d(12, 3, 4, 2, 1)), vector, 0.4,
    ),
    "cross attention": (
        lambda: Net(cross_attended, left=nn.Linear(6, 16), right=nn.Linear(6, 16), head=nn.Linear(16, 3),
                    attention=nn.MultiheadAttention(16, 4, batch_first=True)),
        lambda: (torch.randn(2, 5, 6), torch.randn(2, 7, 6)),
        0.5,
    ),
    "stacked experts": (
        lambda: Net(stacked_experts, stem=nn.Linear(6, 16), gate=nn.Linear(16, 3), head=nn.Linear(16, 3),
                    up=nn.Parameter(torch.randn(3, 16, 12)), down=nn.Parameter(torch.randn(3, 12, 16))),
        vector,
        0.5,
    ),
    "computed and thrown away": (
        lambda: Net(thrown_away, stem=nn.Linear(6, 16), unused=nn.Linear(16, 5), head=nn.Linear(16, 3)), vector, 0.3,
    ),
    "unit length, cosine head": (
        lambda: Net(unit_cosine, stem=nn.Linear(6, 16), w=nn.Parameter(torch.randn(3, 16))), vector, 0.4,
    ),
    "weight norm": (
        lambda: layers(nn.Linear(6, 16), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.ReLU(),
                       nn.Linear(16, 3)),
        vector,
        0.2,
    ),
    "divided by a buffer": (
        lambda: Net(lambda net, x: net.head(F.relu(net.stem(x)) / net.std), stem=nn.Linear(6, 16),
                    std=nn.Buffer(torch.rand(16) + 0.5), head=nn.Linear(16, 3)),
        vector,
        0.4,
    ),
    "steps of an LSTM cell": (
        lambda: Net(stepwise, conv=nn.Conv1d(4, 12, 3), cell=nn.LSTMCell(12, 10), head=nn.Linear(10, 3)),
        lambda: (torch.randn(2, 4, 9),),
        0.2,
    ),
    "patches by a linear map": (
        lambda: Net(lambda net, x: net.head(F.unfold(F.relu(net.stem(x)), 3).transpose(1, 2)), stem=nn.Conv2d(3, 8, 3),
                    head=nn.Linear(72, 3)),
        image,
        0.4,
    ),
    "upsampling": (
        lambda: layers(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"),
                       nn.Conv2d(8, 2, 3)),
        image,
        0.4,
    ),
}  # fmt: skip


def kill_unequal_shares(module: nn.Module, channels: Any) -> None:
    """A sixth, a third, a half ... of the groups, so that no two sizes stay equal by accident."""
    generator = np.random.default_rng(1)
    for group in channels.groups:
        if group.prunable:
            some = int(group.size * generator.choice([1 / 6, 1 / 4, 1 / 3, 1 / 2, 3 / 4]))
            zero_channels(module, group, np.sort(generator.permutation(group.size)[:some]))


def ready(name: str) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    build, example, _ = NETWORKS[name]
    module = build().eval()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.running_mean.normal_(0.0, 0.3)
            child.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(child.bias, 0.0, 0.3)
    return module, example()


@pytest.mark.parametrize("name", NETWORKS)
def test_zeros_go_and_the_rest_works_as_before(name: str, remove_exactly: Remove) -> None:
    module, example = ready(name)
    removal = remove_exactly(module, example)
    assert removal.gone >= NETWORKS[name][2] * sum(parameter.numel() for parameter in module.parameters())
    fresh = copy.deepcopy(module)
    remove(fresh, RemovalPlan.from_json(json.loads(json.dumps(removal.plan.to_json()))))
    fresh.load_state_dict(removal.after.state_dict())
    assert repr(fresh) == repr(removal.after)
    channel_groups(removal.after, example)  # it exports, and can be shrunk again


@pytest.mark.parametrize("name", NETWORKS)
def test_constants_go_or_stay_and_no_output_moves(
    name: str, remove_exactly: Remove, kill_to_constants: Callable[..., None]
) -> None:
    module, example = ready(name)
    remove_exactly(module, example, kill_to_constants)


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_may_lose_different_shares(name: str, remove_exactly: Remove) -> None:
    module, example = ready(name)
    remove_exactly(module, example, kill_unequal_shares)


def test_channels_that_a_padded_shortcut_adds_go_alone() -> None:
    """Nothing is known of what the padding lies beside: the zeros that it adds are known all the same."""
    net, example = NETWORKS["a shortcut padded to the width"][0](), image()
    channels = channel_groups(net, example)
    wide = next(group for group in channels.groups if group.name == "wide")
    zero_channels(net, wide, np.array([1]))
    removal = remove_zeros(net, example, channels=channels, decided={wide: np.arange(wide.size) == 1})
    assert removal.certificate.relative < 1e-5
    assert removal.module.wide.out_channels == 14


class Laid(nn.Module):
    """Heads laid side by side by the width of the stream, which is the same by accident."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Linear(6, 16), nn.Linear(16, 48)
        self.proj, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        n, length, width = y.shape
        q, k, v = self.qkv(y).reshape(n, length, 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
        z = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)
        return self.head(torch.relu(y + self.proj(z)))


def test_widths_that_agree_by_accident_are_found_out() -> None:
    groups = {group.name: group for group in channel_groups(Laid(), (torch.randn(2, 5, 6),)).groups}
    assert "fails on the smaller width" in groups["stem"].reason
    assert "fails on the smaller width" in groups["qkv"].reason


class Deciding(nn.Module):
    """A forward pass whose way depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if y.sum() > 0:
            y = -y
        return self.last(y)


def test_control_flow_by_values_is_refused_in_one_line_that_names_the_place() -> None:
    with pytest.raises(TraceError) as caught:
        channel_groups(Deciding(), vector())
    message = str(caught.value)
    assert "Deciding" in message
    assert "test_odd_networks.py, line" in message
    assert "data-dependent control flow" in message
    assert "\n" not in message

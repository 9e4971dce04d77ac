"""Is every rule held by something? Each one is broken in several ways, and small networks have to notice.

The networks are shrunk without the trial on a copy, which would freeze what a broken rule gets wrong. A mutation is
noticed where an output moves, the smaller network does not run, or less is removed than with the rule intact.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision.ops import deform_conv2d, roi_align

from extcon_cli.channels import classify, difference, plan_removal, remove, zero_channels
from extcon_cli.channels.analysis.axes import Axis, axes_in
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator
from extcon_cli.channels.analysis.rules import registry
from extcon_cli.channels.analysis.trace import Graph, trace
from extcon_cli.channels.compare import random_batches
from extcon_cli.channels.modules import named_tensors

C = 8
Rule = Callable[..., Any]


class Image(nn.Module):
    """conv, batch norm, ReLU, `middle` on (N, C, 9, 9), conv, ReLU, mean, linear; a second head before `middle`."""

    def __init__(self, middle: Callable[..., Tensor], wide: int = C, **extra: Any) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, C, 3), nn.BatchNorm2d(C)
        self.reader, self.head, self.side = nn.Conv2d(wide, 6, 3), nn.Linear(6, 4), nn.Linear(C, 4)
        self.middle = middle
        _hold(self, extra)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        return self.side(y.mean((2, 3))) + self.head(F.relu(self.reader(self.middle(self, y))).mean((2, 3)))


class Rows(nn.Module):
    """linear, GELU, `middle` on (N, 5, C), linear; a second head before `middle`."""

    def __init__(self, middle: Callable[..., Tensor], wide: int = C, **extra: Any) -> None:
        super().__init__()
        self.first, self.head, self.side = nn.Linear(6, C), nn.Linear(wide, 4), nn.Linear(C, 4)
        self.middle = middle
        _hold(self, extra)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.first(x))
        return self.side(y).mean(1) + self.head(self.middle(self, y)).mean(-2)


class Words(nn.Module):
    """A table, a linear map; another table beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(9, C), nn.Embedding(5, C)
        self.first, self.head = nn.Linear(C, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(self.table(x) + self.places(torch.arange(5)))))


class Written(nn.Module):
    """A norm in a model's own code, with an eps so large that a wrong one shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(C) + 0.5), 0.3

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def _hold(module: nn.Module, extra: dict[str, Any]) -> None:
    for name, value in extra.items():
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            module.register_buffer(name, value)
        else:
            setattr(module, name, value)


def attend(net: Any, y: Tensor, by: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    n, length, _ = y.shape
    q, k, v = net.qkv(y).view(n, length, 3, net.heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return net.out(by(q, k, v).transpose(1, 2).reshape(n, length, -1))


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / 2.0).softmax(-1) @ v


def added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, heads, length, _ = q.shape
    q, k, v = (part.reshape(n * heads, length, -1) for part in (q, k, v))
    scores = torch.baddbmm(q.new_zeros(1), q, k.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), v).view(n, heads, length, -1)


def shuffled(net: Any, y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def written_over(net: Any, y: Tensor) -> Tensor:
    return torch.slice_scatter(y, y[:, :, 4:6] * 2, 2, 2, 4)


def halves_written_over(net: Any, y: Tensor) -> Tensor:
    half = y.shape[1] // 2
    return torch.slice_scatter(y, net.a(y)[:, half:], 1, 0, half)


def padded_to(net: Any, y: Tensor) -> Tensor:
    other = net.a(y)
    missing = (other.shape[1] - y.shape[1]) // 2
    return other + F.pad(y, (0, 0, 0, 0, missing, missing))


def deformed(net: Any, y: Tensor) -> Tensor:
    return deform_conv2d(y, net.offset(y), net.w, net.v, padding=1).relu()


def experts(net: Any, y: Tensor) -> Tensor:
    inner = F.silu(torch.einsum("nlc,ech->nleh", y, net.up))
    return torch.einsum("nleh,ehc,nle->nlc", inner, net.down, net.gate(y).softmax(-1))


def heads() -> dict[str, Any]:
    return {"qkv": nn.Linear(C, 48), "out": nn.Linear(16, C), "heads": 4}


def last_state(net: Any, y: Tensor) -> Tensor:
    return net.cell(y)[0]


def vector() -> nn.Parameter:
    return nn.Parameter(torch.rand(C, 1, 1) + 0.5)


def runs(m: Any, y: Tensor) -> Tensor:
    """Two experts: the first half of the rows goes through the one, the rest through the other."""
    rows = y.flatten(0, 1)
    ends = torch.tensor([len(rows) // 2, len(rows)], dtype=torch.int32)
    inner = F.relu(F.grouped_mm(rows, m.up, offs=ends))
    return F.grouped_mm(inner, m.down, offs=ends).unflatten(0, y.shape[:2])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Image(lambda m, y: y),
    "flattened": lambda: nn.Sequential(nn.Conv2d(3, C, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(C * 81, 3)),
    "unary": lambda: Image(lambda m, y: torch.sigmoid(y).clone()),
    "cast": lambda: Image(lambda m, y: y.to(torch.float64).float()),
    "sum": lambda: Image(lambda m, y: F.relu(y + m.other(y)) * m.scale, other=nn.Conv2d(C, C, 1), scale=vector()),
    "gate": lambda: Image(lambda m, y: y * torch.sigmoid(m.g(y.mean((2, 3), keepdim=True))), g=nn.Conv2d(C, C, 1)),
    "glu": lambda: Image(lambda m, y: F.glu(m.a(y), 1), a=nn.Conv2d(C, 2 * C, 1)),
    "maxima": lambda: Image(lambda m, y: y * y.amax((2, 3), keepdim=True)),
    "where": lambda: Image(lambda m, y: torch.where(y > 0.5, m.a(y), m.b(y)), a=nn.Conv2d(C, C, 1),
                           b=nn.Conv2d(C, C, 1)),
    "filled": lambda: Image(lambda m, y: m.a(y).masked_fill(y > 1, 0.0), a=nn.Conv2d(C, C, 1)),
    "both": lambda: Image(lambda m, y: torch.where(m.mask, y, y.tanh()), mask=torch.rand(9, 9) > 0.5),
    "blank": lambda: Image(lambda m, y: y + torch.zeros_like(y)),
    "unrelated": lambda: Image(lambda m, y: y * y.new_ones(1)),
    "slopes": lambda: Image(lambda m, y: m.p(y - 0.5), p=nn.PReLU(C)),
    "one slope": lambda: Image(lambda m, y: m.p(y - 0.5), p=nn.PReLU()),
    "grouped": lambda: Image(lambda m, y: F.relu(m.g(y)), 12, g=nn.Conv2d(C, 12, 3, groups=2)),
    "depthwise": lambda: Image(lambda m, y: m.d(y), 16, d=nn.Conv2d(C, 16, 3, padding=1, groups=C)),
    "transposed": lambda: Image(lambda m, y: m.t(y), 6, t=nn.ConvTranspose2d(C, 6, 2, 2)),
    "affine norm": lambda: Image(lambda m, y: m.n(y), n=nn.BatchNorm2d(C, affine=False)),
    "instance norm": lambda: Image(lambda m, y: m.n(y), n=nn.InstanceNorm2d(C, affine=True)),
    "group norm": lambda: Image(lambda m, y: m.n(m.a(y)) , n=nn.GroupNorm(2, C), a=nn.Conv2d(C, C, 1)),
    "pools": lambda: Image(lambda m, y: F.max_pool2d(y, 2) + F.avg_pool2d(y, 2)),
    "upsampled": lambda: Image(lambda m, y: F.interpolate(y, scale_factor=2, mode="bilinear")),
    "shuffled": lambda: Image(shuffled),
    "flipped": lambda: Image(lambda m, y: y.flip(3).roll(1, 2).permute(0, 2, 3, 1).permute(0, 3, 1, 2)),
    "repeated": lambda: Image(lambda m, y: y.repeat(1, 2, 1, 1), 16),
    "halves": lambda: Image(lambda m, y: torch.cat([b := y.chunk(2, 1)[1], y.chunk(2, 1)[0] * 2, b.tanh()], 1), 12),
    "parts": lambda: Image(lambda m, y: (p := m.a(y).chunk(2, 1))[0] * p[1].sigmoid(), a=nn.Conv2d(C, 16, 1)),
    "parts apart": lambda: Image(lambda m, y: m.a((p := y.chunk(2, 1))[0]) + m.b(p[1]), 5,
                                 a=nn.Conv2d(4, 5, 1), b=nn.Conv2d(4, 5, 1)),
    "stacked": lambda: Image(lambda m, y: torch.stack([y, y.tanh()], 1).flatten(1, 2), 16),
    "padded": lambda: Image(lambda m, y: F.pad(y, (1, 1, 1, 1))),
    "more channels": lambda: Image(lambda m, y: F.pad(y, (0, 0, 0, 0, 1, 3)), 12),
    "half of what is missing on either side": lambda: Image(padded_to, 12, a=nn.Conv2d(C, 12, 1)),
    "divided": lambda: Image(lambda m, y: m.a(y) / m.std, a=nn.Conv2d(C, C, 1), std=torch.rand(C, 1, 1) + 0.5),
    "divided by its norm": lambda: Rows(lambda m, y: F.normalize(y, dim=-1)),
    "larger": lambda: Image(lambda m, y: torch.max(m.a(y), m.b(y)), a=nn.Conv2d(C, C, 1), b=nn.Conv2d(C, C, 1)),
    "largest": lambda: Image(lambda m, y: y * y.max(2, keepdim=True)[0].min(3, keepdim=True)[0]),
    "no NaN": lambda: Image(lambda m, y: torch.nan_to_num(y)),
    "patches": lambda: Image(lambda m, y: F.unfold(y, 2).unflatten(2, (8, 8)), 4 * C),
    "padded patches": lambda: Image(lambda m, y: F.unfold(y, 3, padding=1).unflatten(2, (9, 9)), 9 * C),
    "patches added": lambda: Image(lambda m, y: F.fold(F.unfold(y, 3, padding=1), (9, 9), 3, padding=1)),
    "windows": lambda: Image(lambda m, y: y.unfold(3, 3, 2).amax(-1)),
    "regions": lambda: Image(lambda m, y: roi_align(y, m.box, 5), box=torch.tensor([[0.0, 1.0, 1.0, 7.0, 8.0]])),
    "deformed": lambda: Image(deformed, 6, offset=nn.Conv2d(C, 18, 3, padding=1), v=nn.Parameter(torch.randn(6)),
                              w=nn.Parameter(torch.randn(6, C, 3, 3))),
    "antialiased": lambda: Image(lambda m, y: F.interpolate(y, (5, 5), mode="bicubic", antialias=True)),
    "written over": lambda: Image(written_over),
    "a row written over": lambda: Image(lambda m, y: y.select_scatter(m.a(y)[:, :, 4], 2, 2), a=nn.Conv2d(C, C, 1)),
    "halves written over": lambda: Image(halves_written_over, a=nn.Conv2d(C, C, 1)),
    "copied": lambda: Image(lambda m, y: torch.ops.aten.copy(torch.empty_like(m.b(y)), m.a(y).double() + 0.5),
                            a=nn.Conv2d(C, C, 1), b=nn.Conv2d(C, C, 1)),
    "zeros written": lambda: Image(lambda m, y: y.index_fill(2, m.places, 0.0), places=torch.tensor([3, 1])),
    "zeros put": lambda: Image(lambda m, y: torch.ops.aten.index_put(y, [None, None, m.places], y.new_zeros(())),
                               places=torch.tensor([3, 1])),
    "channels zeroed": lambda: Image(lambda m, y: y.index_fill(1, m.places, 0.0), places=torch.tensor([3, 1])),
    "filled with": lambda: Image(lambda m, y: y + torch.full_like(y, 0.7) + torch.ones_like(y)),
    "addcmul": lambda: Image(lambda m, y: torch.addcmul(m.a(y), m.b(y), m.scale, value=0.5),
                             a=nn.Conv2d(C, C, 1), b=nn.Conv2d(C, C, 1), scale=vector()),
    "lerp": lambda: Image(lambda m, y: torch.lerp(m.a(y), m.b(y), 0.3), a=nn.Conv2d(C, C, 1), b=nn.Conv2d(C, C, 1)),
    "pixels": lambda: Image(lambda m, y: F.relu(F.pixel_shuffle(m.a(y), 2)), 4, a=nn.Conv2d(C, 16, 1)),
    "fewer pixels": lambda: Image(lambda m, y: F.pixel_unshuffle(y[:, :, :8, :8], 2), 32),
    "looked up": lambda: Image(lambda m, y: y[:, :, m.places], places=torch.tensor([3, 1, 2])),
    "channels looked up": lambda: Image(lambda m, y: y[:, m.places], places=torch.tensor([3, 1, 2, 0, 4, 6, 5, 7])),
    "sampled": lambda: Image(lambda m, y: F.grid_sample(y, m.grid.expand(len(y), -1, -1, -1), align_corners=False),
                             grid=torch.rand(1, 6, 6, 2) * 2 - 1),
    "rows": lambda: Rows(lambda m, y: y),
    "layer norm": lambda: Rows(lambda m, y: m.n(y), n=nn.LayerNorm(C)),
    "rms norm": lambda: Rows(lambda m, y: m.n(y), n=nn.RMSNorm(C)),
    "written norm": lambda: Rows(lambda m, y: m.n(y), n=Written()),
    "matrix": lambda: Rows(lambda m, y: F.relu(y @ m.w), 6, w=nn.Parameter(torch.randn(C, 6))),
    "matrix and bias": lambda: Rows(lambda m, y: torch.addmm(m.b, y.flatten(0, 1), m.w).relu().unflatten(0, (-1, 5)), 6,
                                    w=nn.Parameter(torch.randn(C, 6)), b=nn.Parameter(torch.randn(6))),
    "einsum": lambda: Rows(lambda m, y: torch.einsum("nlc,nlc->nlc", y, m.a(y)), a=nn.Linear(C, C)),
    "mixed tokens": lambda: Rows(lambda m, y: m.a.softmax(-1) @ y, a=nn.Parameter(torch.randn(5, 5))),
    "softmax over channels": lambda: Rows(lambda m, y: m.a(y).softmax(-1), a=nn.Linear(C, C)),
    "attention": lambda: Rows(lambda m, y: attend(m, y, F.scaled_dot_product_attention), **heads()),
    "attention by hand": lambda: Rows(lambda m, y: attend(m, y, by_hand), **heads()),
    "attention, added": lambda: Rows(lambda m, y: attend(m, y, added), **heads()),
    "LSTM": lambda: Rows(last_state, 7, cell=nn.LSTM(C, 7, batch_first=True)),
    "projected LSTM": lambda: Rows(last_state, 4, cell=nn.LSTM(C, 7, proj_size=4, batch_first=True)),
    "LSTM cell": lambda: Rows(lambda m, y: m.cell(y[:, 0])[0][:, None], 7, cell=nn.LSTMCell(C, 7)),
    "GRU cell": lambda: Rows(lambda m, y: m.cell(y[:, 0])[:, None], 7, cell=nn.GRUCell(C, 7)),
    "W and its transpose": lambda: Rows(lambda m, y: F.linear(F.relu(F.linear(y, m.w)), m.w.t()),
                                        w=nn.Parameter(torch.randn(6, C))),
    "part of a weight": lambda: Rows(lambda m, y: F.linear(y, m.w.chunk(2)[1], m.b.chunk(2)[1]), 6,
                                     w=nn.Parameter(torch.randn(12, C)), b=nn.Parameter(torch.randn(12))),
    "weight norm": lambda: Rows(lambda m, y: m.a(y).relu(), 6, a=parametrizations.weight_norm(nn.Linear(C, 6))),
    "spectral norm": lambda: Rows(lambda m, y: m.a(y).relu(), 6, a=parametrizations.spectral_norm(nn.Linear(C, 6))),
    "experts": lambda: Rows(experts, gate=nn.Linear(C, 3), up=nn.Parameter(torch.randn(3, C, 6)),
                            down=nn.Parameter(torch.randn(3, 6, C))),
    "distances": lambda: Rows(lambda m, y: torch.cdist(y, m.w), 4, w=nn.Parameter(torch.randn(4, C))),
    "similar": lambda: Rows(lambda m, y: F.cosine_similarity(m.a(y)[:, :, None], m.w, dim=-1), 4, a=nn.Linear(C, C),
                            w=nn.Parameter(torch.randn(4, C))),
    "added at": lambda: Rows(lambda m, y: m.a(y).index_add(1, m.at, m.b(y)[:, :2]), a=nn.Linear(C, C),
                             b=nn.Linear(C, C), at=torch.tensor([3, 1])),
    "scattered": lambda: Rows(lambda m, y: m.a(y).scatter_reduce(1, m.at.expand_as(b := m.b(y)), b, "amax"),
                              a=nn.Linear(C, C), b=nn.Linear(C, C), at=torch.tensor([3, 1, 0, 0, 2])[:, None]),
    "gathered": lambda: Rows(lambda m, y: (a := m.a(y)).gather(1, m.at.expand_as(a)), a=nn.Linear(C, C),
                             at=torch.tensor([3, 1, 0, 0, 2])[:, None]),
    "runs": lambda: Rows(runs, up=nn.Parameter(torch.randn(2, C, 12) / 3),
                         down=nn.Parameter(torch.randn(2, 12, C) / 3)),
    "a number read, by torch.export": lambda: Image(lambda m, y: y.double().float() * m.at.sum().item(),
                                                    at=torch.tensor([3.0])),
    "words": Words,
}  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """A network, its graph, and inputs."""

    module: nn.Module
    graph: Graph
    example: tuple[Tensor, ...]

    @property
    def operators(self) -> set[str]:
        return {Operator(node).name for node in self.graph.nodes if node.op == "call_function"}


@cache
def network(name: str) -> Traced:
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    example = torch.randn(2, 5, 6) if isinstance(module, Rows) else torch.randn(2, 3, 11, 11)
    if isinstance(module, Words):
        example = torch.randint(9, (2, 5))
    return Traced(module, trace(module, (example,)), (example,))


def kill(module: nn.Module, channels: Any, constant: float) -> None:
    """A half or a third of every prunable group becomes zero, or, with biases left at a constant, something else."""
    generator, tensors = np.random.default_rng(0), named_tensors(module)
    for number, group in enumerate(channels.groups):
        if group.prunable and group.size > 1:
            dead = np.sort(generator.permutation(group.size)[: group.size // (2 + number % 2)])
            zero_channels(module, group, dead)
            for part in group.zeroing_slices if constant else ():
                if part.parameter.endswith("bias"):
                    tensors[part.parameter].data[part.index[dead].ravel()] = constant


def prunable(name: str) -> list[bool]:
    return [group.prunable for group in analyse(network(name).module, network(name).graph).groups]


@cache
def intact_prunable(name: str) -> list[bool]:
    return prunable(name)


def gone(traced: Traced, constant: float) -> int:
    """Parameters removed.

    Raises:
        AssertionError: an output moved, or zeros stay in a group that is said to be prunable.
    """
    before = copy.deepcopy(traced.module)
    channels = analyse(before, traced.graph)
    kill(before, channels, constant)
    for verdict in classify(before, channels) if constant == 0 else ():
        assert verdict.removable.sum() >= verdict.group.size // 3 or not verdict.group.prunable, verdict.group.name
    after = copy.deepcopy(before)
    remove(after, plan_removal(after, channels))
    found = difference(before, after, random_batches(traced.example))
    assert found.relative <= 1e-5, f"outputs differ by {found.relative:.1e}"
    return sum(p.numel() for p in before.parameters()) - sum(p.numel() for p in after.parameters())


@cache
def intact(name: str, constant: float) -> int:
    return gone(network(name), constant)


CONSTANTS = (0.0, 0.7)


@pytest.mark.parametrize("name", NETWORKS)
def test_with_every_rule_intact_no_output_moves(name: str) -> None:
    for constant in CONSTANTS:
        intact(name, constant)


def noticed(name: str) -> bool:
    """Whether the network shrinks wrongly, not as was said, or by less than with every rule intact."""
    for constant in CONSTANTS:
        expected = intact(name, constant)
        try:
            if gone(network(name), constant) < expected:
                return True
        except Exception:  # a broken rule may break anything
            return True
    return False


def rolled(value: Any) -> Any:
    """The same channels, each one position further."""
    if isinstance(value, Axis):
        return value.take(np.roll(np.arange(len(value.positions)), 1))
    return type(value)(rolled(entry) for entry in value) if isinstance(value, (tuple, list)) else value


def emptied(value: Any) -> Any:
    """No channels anywhere."""
    if isinstance(value, (tuple, list)):
        return type(value)(emptied(entry) for entry in value)
    return None


class Broken:
    """A rule with something wrong with it; `changed` says whether that made a difference to what it said."""

    def __init__(self, rule: Rule, how: str) -> None:
        self.rule, self.how, self.changed = rule, how, False

    def __call__(self, op: Operator) -> Any:
        return getattr(self, self.how)(op)

    def forgets_channels(self, op: FlowOperator) -> Any:
        value = self.rule(op)
        self.changed |= any(True for _ in axes_in(value))
        return emptied(value)

    def shifts_channels(self, op: FlowOperator) -> Any:
        value = self.rule(op)
        self.changed |= any(len(axis.positions) > 1 for axis in axes_in(value))
        return rolled(value)

    def ties_nothing(self, op: FlowOperator) -> Any:
        before = len(op.analysis.ties)
        value = self.rule(op)
        self.changed |= any(not np.array_equal(*pair) for pair in op.analysis.ties[before:])
        del op.analysis.ties[before:]
        return value

    def freezes_nothing(self, op: FlowOperator) -> Any:
        before = len(op.analysis.frozen)
        value = self.rule(op)
        del op.analysis.frozen[before:]
        return value

    def knows_nothing(self, op: KnownOperator) -> Any:
        value = self.rule(op)
        return _each(value, lambda tensor: self._changed(tensor, torch.full_like(tensor.double(), torch.nan)))

    def is_off_by_one(self, op: KnownOperator) -> Any:
        return _each(self.rule(op), lambda tensor: self._changed(tensor, tensor.double() + 1))

    def knows_too_much(self, op: KnownOperator) -> Any:
        value = self.rule(op)
        return _each(value, lambda tensor: self._changed(tensor, tensor.double().nan_to_num(nan=0.0)))

    def _changed(self, before: Tensor, after: Tensor) -> Tensor:
        self.changed |= not torch.equal(before.double().nan_to_num(nan=9e9), after.nan_to_num(nan=9e9))
        return after


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return [change(part) for part in value] if isinstance(value, list) else change(value)


def rules(table: dict[str, Rule]) -> dict[str, list[str]]:
    """Each rule by the name of its function, with the operators that it is registered for."""
    found: dict[str, list[str]] = {}
    for name, rule in table.items():
        found.setdefault(rule.__name__, []).append(name)
    return found


FLOW = ("forgets_channels", "shifts_channels", "ties_nothing", "freezes_nothing")
WITHOUT_CHANNELS = ("say", "unrelated")  # that they are there at all is held by the last test
KNOWN = ("knows_nothing", "is_off_by_one", "knows_too_much")


def cases() -> list[Any]:
    found = []
    for table, ways in ((registry._FLOWS, FLOW), (registry._CONSTANTS, KNOWN)):
        kind = "flow" if table is registry._FLOWS else "constants"
        for rule, operators in rules(table).items():
            found.append(pytest.param(table, operators, ways, id=f"{kind} {rule}"))
    return found


@pytest.mark.parametrize(("table", "operators", "ways"), cases())
def test_breaking_a_rule_is_noticed(
    table: dict[str, Rule], operators: list[str], ways: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    concerned = [name for name in NETWORKS if network(name).operators & set(operators)]
    assert concerned, f"no network has any of {', '.join(operators)}"
    for name in concerned:
        for constant in CONSTANTS:
            intact(name, constant)
        intact_prunable(name)
    rule, survived, changed = table[operators[0]], [], False
    for way in ways:
        broken = Broken(rule, way)
        for name in operators:
            monkeypatch.setitem(table, name, broken)
        red = any(noticed(name) for name in concerned)
        if way == "freezes_nothing":  # most of what is frozen would stay anyhow, or has another reason to
            broken.changed = any(prunable(name) != intact_prunable(name) for name in concerned)
        changed |= broken.changed
        if broken.changed and not red:
            survived.append(way)
        monkeypatch.undo()
    assert changed or rule.__name__ in WITHOUT_CHANNELS, "no network shows what this rule does"
    assert not survived, f"nobody notices that it {', '.join(survived)}"


@pytest.mark.parametrize("name", sorted(rules(registry._FLOWS)))
def test_taking_a_rule_away_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operators = rules(registry._FLOWS)[name]
    concerned = [other for other in NETWORKS if network(other).operators & set(operators)]
    for other in concerned:
        for constant in CONSTANTS:
            intact(other, constant)
    for taken in operators:
        monkeypatch.delitem(registry._FLOWS, taken)
    assert any(noticed(other) for other in concerned)

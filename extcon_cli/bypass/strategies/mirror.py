"""A contraction that keeps what D has learnt: each extended unit becomes two, and Catalyst takes as many away again.

Where sigma(x) - sigma(-x) = k x, as with ReLU, leaky ReLU, GELU, SiLU and softplus,

    D x + sigma(x) = (1 + D / k) sigma(x) - D / k sigma(-x)

so that an extended layer *is* an ordinary layer of twice the width: its units and their mirror images (for ReLU the
concatenated ReLU of Shang et al. 2016). A unit that is dead has all of its function in its image, one that is always
active in itself: of such a pair one goes for nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from extcon_cli.bypass.extension import TRANSPARENT, Extended, Site, called_once, extend
from extcon_cli.bypass.strategies.base import State, StrategyContext, check_exact, outputs_moved
from extcon_cli.bypass.strategies.diagonal import size
from extcon_cli.bypass.strategies.narrowed import Narrowed, NarrowedReport, Narrowing
from extcon_cli.bypass.units import Units, contractible, covers, taken, units
from extcon_cli.channels import ChannelGroup, Channels, sync_attributes
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.widening import append
from extcon_cli.errors import UsageError

MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LINEAR = (*TRANSPARENT, nn.Flatten, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
          nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)  # fmt: skip
LINEAR_NAMES = ("flatten", "mean", "contiguous", "dropout", "avg_pool2d", "adaptive_avg_pool2d")
"""What may stand between an activation and the maps that read it."""


@dataclass(frozen=True)
class Mirror:
    """A site whose units have mirror images: one map writes them, and only linear maps read them."""

    site: Site
    units: Units
    slope: float  # k


def extend_mirrored(
    module: nn.Module, channels: Channels, example: Inputs, *, layers: Sequence[str] = ("*",)
) -> tuple[Extended, list[Mirror]]:
    """The module extended wherever `mirror` can contract it. Raises: as `extend`; UsageError (nowhere)."""
    chosen = mirrors(module, channels, extend(module, example, layers=layers))
    if not chosen:
        raise UsageError(
            "no activation can be mirrored: of none is it known that sigma(x) - sigma(-x) = k x, "
            "that one map writes it, and that only linear maps read it"
        )
    return extend(module, example, layers=tuple(item.site.name for item in chosen)), chosen


def mirrors(module: nn.Module, channels: Channels, extended: Extended) -> list[Mirror]:
    """The sites of an extended module that `mirror` can contract."""
    graph = extended.infer
    if not isinstance(graph, fx.GraphModule):
        return []
    written = {
        part.parameter: group
        for group in contractible(module, channels, units(module, channels))
        for part in group.writers
    }
    nodes = {node.target: node for node in graph.graph.nodes if node.op == "call_module"}
    found = []
    for site in extended.sites:
        slope = odd_slope(extended.psi(site).activation)
        writer, readers = _writer(nodes[site.path], graph), _readers(nodes[site.path], graph)
        group = written.get(f"{writer[0]}.weight") if writer and readers else None
        if slope is not None and group is not None and _is(group, writer, readers) and covers(module, group):
            found.append(Mirror(site, group, slope))
    return found


@torch.no_grad()
def mirror(
    module: nn.Module, chosen: Sequence[Mirror], deltas: Mapping[Site, Tensor]
) -> tuple[nn.Module, dict[ChannelGroup, int]]:
    """A copy of the module, not extended, that gives what the extended one gives, and how many units it has more.

    Args:
        deltas: the diagonal of D of each site: (width,).
    """
    wide = copy.deepcopy(module)
    for item in chosen:
        image = -deltas[item.site] / item.slope  # weight of sigma(-x)
        for part, tensor in taken(wide, item.units.writers):
            append(wide, part.parameter, part.dim, -tensor)
        for part, tensor in taken(wide, item.units.others):
            turned = part.parameter.rpartition(".")[2] in ("bias", "running_mean")
            append(wide, part.parameter, 0, -tensor if turned else tensor)
        for part, tensor in taken(wide, item.units.readers):
            weight = image.to(tensor).repeat_interleave(part.index.shape[1])
            weight = weight.reshape([-1 if dim == part.dim else 1 for dim in range(tensor.dim())])
            images = tensor * weight
            tensor.mul_(1 - weight)
            append(wide, part.parameter, part.dim, images)
    sync_attributes(wide)
    return wide, images_of(chosen)


def images_of(chosen: Sequence[Mirror]) -> dict[ChannelGroup, int]:
    """How many images the units of each group have."""
    return {item.units.group: item.units.group.size for item in chosen}


@torch.no_grad()
def odd_slope(activation: nn.Module) -> float | None:
    """k where sigma(x) - sigma(-x) = k x, measured; None where it is not so."""
    x = torch.linspace(1 / 64, 16, 1024, dtype=torch.float64)
    slopes = (activation(x.clone()) - activation(-x)) / x
    k = float(slopes.mean())
    return k if k > 0 and float((slopes - k).abs().max()) < 1e-9 else None


def _is(group: Units, writer: Sequence[str], readers: Sequence[str]) -> bool:
    """Whether the group is written, normalised and read by these modules and no others."""
    tensors = [(group.writers, writer[:1]), (group.others, writer), (group.readers, readers)]
    return all({part.parameter.rpartition(".")[0] for part in parts} <= set(names) for parts, names in tensors)


def _writer(node: fx.Node, graph: fx.GraphModule) -> list[str]:
    """The map before an activation, and the batch norms between; empty: there is none, or others read it too."""
    path: list[str] = []
    while True:
        node = node.all_input_nodes[0]
        if node.op != "call_module" or len(node.users) > 1 or not called_once(node, graph):
            return []
        child = graph.get_submodule(str(node.target))
        path.insert(0, str(node.target))
        if isinstance(child, MAPS):
            return path
        if not isinstance(child, (*NORMS, *TRANSPARENT)):
            return []


def _readers(node: fx.Node, graph: fx.GraphModule) -> list[str]:
    """The maps that read an activation, through what is linear; empty: something else reads it too."""
    found: list[str] = []
    waiting = list(node.users)
    while waiting:
        node = waiting.pop()
        child = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if isinstance(child, MAPS) and called_once(node, graph):
            found.append(str(node.target))
        elif isinstance(child, LINEAR) or (child is None and name in LINEAR_NAMES):
            waiting.extend(node.users)
        else:
            return []
    return found


@dataclass(frozen=True)
class MirrorReport(NarrowedReport):
    """What mirroring did to the outputs as well."""

    mirroring: float

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "mirror_difference": self.mirroring}


class Mirrored(Narrowed):
    """The paper's D in opt_1; then every extended unit becomes itself and its mirror image, and half of these go."""

    title = "Mirroring"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        self.original = self.module  # shares its parameters with the extended model
        self.extended, self.chosen = extend_mirrored(
            self.original, context.channels(), context.example, layers=context.settings.layers
        )
        self.module = self.extended
        self.added = images_of(self.chosen)
        self.embedding = outputs_moved(self.original, self.extended, context.example)
        self.mirroring = 0.0

    @property
    def deltas(self) -> list[nn.Parameter]:
        return self.extended.deltas if self.module is self.extended else []

    def enter_opt_2(self) -> Narrowing:
        deltas = {site: self.extended.psi(site).delta.detach() for site in self.extended.sites}
        wide, _ = mirror(self.original, self.chosen, deltas)
        self.module = wide.train(self.extended.training)
        complaint = "mirroring changes the outputs by"
        self.mirroring = check_exact(self.extended, wide, self.context.example, complaint)
        return self.start_narrowing()

    def norms(self) -> tuple[float, float]:
        return size(self.extended) if self.module is self.extended else (0.0, 0.0)

    def origin(self) -> nn.Module:
        if self.module is self.extended:
            return self.extended
        still = {site: torch.zeros_like(self.extended.psi(site).delta) for site in self.extended.sites}
        return mirror(self.context.model(), self.chosen, still)[0]

    def contract(self) -> MirrorReport:
        return MirrorReport(**vars(super().contract()), mirroring=self.mirroring)

    def state_dict(self) -> State:
        return {**super().state_dict(), "mirroring": self.mirroring}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.mirroring = state["mirroring"]

"""What the example does not reach: another task's head, a branch taken at other sizes, a method beside `forward`.

No graph shows what these parameters would read or write, so widths have to tell: a group stays where an unreached
parameter is as wide, along any dimension that carries channels, as a dimension in which the group lies; or a group of
maps, where a matrix has room for several pixels of each. What reads a joined value is wider than the groups that feed
it, and is not seen by that. Reads shapes only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from extcon_cli.channels.analysis.axes import Index
from extcon_cli.channels.analysis.groups import ChannelGroup
from extcon_cli.channels.analysis.trace import Graph

KERNELS = (nn.modules.conv._ConvNd,)


def unreached_parameters(module: nn.Module, graphs: Iterable[Graph]) -> tuple[str, ...]:
    """The parameters that no operator of any graph reads, in the order of the module.

    The bias of a weight that is read is not among them: the map is reached, and does without it.
    """
    tensors = dict(module.named_parameters(remove_duplicate=False))
    nodes = ((graph, node) for graph in graphs for node in graph.nodes)
    names = {graph.stored[node.name] for graph, node in nodes if node.name in graph.stored and node.users}
    read = {id(tensors[name]) for name in names if name in tensors}
    beside = {f"{name.removesuffix('weight')}bias" for name in names if name.endswith("weight")}
    return tuple(name for name, tensor in module.named_parameters() if id(tensor) not in read and name not in beside)


def owners(parameters: Iterable[str]) -> tuple[str, ...]:
    """The modules that hold these parameters, each once; a bare parameter of the model by its own name."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))


def hold_what_may_feed(
    groups: Iterable[ChannelGroup], dims: Mapping[tuple[str, int], Index], module: nn.Module, unreached: Iterable[str]
) -> tuple[ChannelGroup, ...]:
    """The groups, frozen where a parameter that the example does not reach is as wide as they are.

    Args:
        groups: as the graph gives them.
        dims: the positions along each dimension of each parameter.
        module: what was traced.
        unreached: names of the parameters that its graph does not read.
    """
    wide: dict[int, str] = {}
    flattened: dict[int, str] = {}
    for name in unreached:
        path, parameter = name.rpartition(".")[0], module.get_parameter(name)
        for width in _widths(module.get_submodule(path), parameter):
            wide.setdefault(width, path or name)
        if parameter.dim() == 2:
            flattened.setdefault(parameter.shape[1], path or name)
    maps = {name for name, tensor in module.named_parameters() if tensor.dim() > 2}

    def reader(group: ChannelGroup) -> str | None:
        lies_in = sorted({len(dims[part.parameter, part.dim]) for part in group.slices})
        found = next((wide[width] for width in lies_in if width in wide), None)
        if found is None and any(part.parameter in maps for part in group.slices):
            found = next((flattened[width] for width in flattened if any(width % size == 0 for size in lies_in)), None)
        return found

    return tuple(_held(group, reader(group)) if group.prunable else group for group in groups)


def _widths(owner: nn.Module, parameter: Tensor) -> set[int]:
    """The lengths along which a parameter may carry channels: not the taps of a kernel, not a single number."""
    sizes = tuple(parameter.shape)
    if isinstance(owner, KERNELS):
        sizes = sizes[:2] if owner.groups == 1 else (owner.in_channels, owner.out_channels)
    return {size for size in sizes if size > 1}


def _held(group: ChannelGroup, reader: str | None) -> ChannelGroup:
    if reader is None:
        return group
    return replace(group, reason=f"may feed {reader}, which the example does not reach (give an example that does)")

"""Sequential hand-over: front to back, each linear map is fitted so that the smaller model's stream is the original's.

Both models run side by side, operator by operator, on the same inputs. Where what a linear map reads has changed, since
channels go or maps in front of it have changed, its weight on the channels K that stay moves by

    D, e = argmin  E ||r - D x_K - e||^2 + ridge mean(var x_K) ||D||^2

x is what the smaller model reads there, with the errors of all maps in front; r is what its outputs lack of the
original's, and what the other part of a sum behind them lacks, if that has been computed. The mean e goes into the
bias, or into the shift of the batch norm behind. Batch norms get the statistics of what comes now; behind a fitted map
they keep the gain that they had.

Weights of filters that go, and of dead ones, are not touched: what is zero stays zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.least_squares import NormalEquations, moments
from extcon_cli.channels import Channels, Operator
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.maps import StoredMap, sample_positions
from extcon_cli.channels.modules import evaluating
from extcon_cli.channels.preserving import preserving
from extcon_cli.channels.replay import SideBySide

POSITIONS = 1 << 15  # of one map that enter its normal equations, all batches together, where it has few columns
PER_COLUMN = 8  # positions at the least
SAME = ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias", "detach")  # in eval mode
TINY = 1e-6
LEAST_VARIANCE = 1e-3  # of the old one: a batch norm must not blow up what has become constant


@dataclass(frozen=True)
class HandOver:
    """What was fitted."""

    maps: tuple[str, ...]  # weights
    norms: tuple[str, ...]  # batch norms, by the names of their running means
    left: tuple[str, ...]  # weights that something else reads too, such as a tied embedding: as they were


@torch.no_grad()
def hand_over(
    model: nn.Module,
    original: nn.Module,
    channels: Channels,
    filters: Filters,
    decided: Tensor,  # (n,) mask of the filters that go
    batches: Iterable[Inputs],
    *,
    ridge: float = 1e-2,
    after_fit: Callable[[Tensor], None] = lambda _: None,
) -> HandOver:
    """Fit the linear maps of `model` behind its decided channels, and its batch norms, front to back.

    The cost is two forward passes over the batches, one of each fitted map again, and as much for the fits; twice that
    where maps share a weight. docs/results/selection.md has it in training steps. The activations of all batches are in
    memory together.

    Args:
        model: with the decided filters at zero, or on their way there; its other weights change in place.
        original: of the same architecture, with the weights whose outputs are the target.
        channels, filters: of either.
        batches: arguments of forward passes, a few hundred samples in all.
        after_fit: called with a weight of the model that has changed.
        ridge: pull towards the present weights, as a share of the mean variance of what a map reads.

    Raises:
        TraceError: the forward pass cannot be traced on these inputs, or runs other operators on another batch.
    """
    inputs = list(batches)
    with preserving(original), evaluating(model), evaluating(original):
        decisions = _Decisions(channels, filters, decided)
        walk = _Walk(SideBySide((original, model), inputs), decisions, ridge, after_fit)
        shared = {name for name, count in walk.calls.items() if count > 1}
        walk.fit(waiting=shared)
        maps = walk.maps
        if shared := shared & set(maps):  # now they are fitted for all their readers; the others once more with them
            walk = _Walk(SideBySide((original, model), inputs), decisions, ridge, after_fit)
            walk.fit(without=shared)
            maps = [*sorted(shared), *walk.maps]
    return HandOver(tuple(maps), tuple(walk.norms), tuple(sorted(walk.left)))


class _Decisions:
    """Which indices of a parameter's dimension are channels that go."""

    def __init__(self, channels: Channels, filters: Filters, decided: Tensor) -> None:
        self.channels = channels
        owners = filters.owners(channels)
        self.going = (owners >= 0) & decided.cpu()[owners.clamp_min(0)]

    def along(self, parameter: str, dim: int, size: int) -> Tensor:
        """(size,) mask; none where nothing is known of the parameter."""
        positions = self.channels.analysis.dims.get((parameter, dim))
        if positions is None:
            return torch.zeros(size, dtype=torch.bool)
        return self.going[torch.from_numpy(self.channels.channel_ids[positions])]


@dataclass
class _Behind:
    """What follows a map, as far as its least squares need to know."""

    takes_mean: bool = False  # a batch norm comes next, whose shift can take it
    gain: Tensor | float = 1.0  # (outputs,) or (): of the way to the sum, in the model
    ratio: Tensor | float = 1.0  # (outputs,) or (): the original's gain over the model's, of that batch norm
    offset: Tensor | float = 0.0  # (outputs,) or (): the original's shift less the model's, over the model's gain
    other: fx.Node | None = None  # the sum's other part, where it has been computed


class _Walk:
    """One pass through the graph."""

    def __init__(
        self, both: SideBySide, decisions: _Decisions, ridge: float, after_fit: Callable[[Tensor], None]
    ) -> None:
        self.both, self.decisions, self.ridge, self.after_fit = both, decisions, ridge, after_fit
        self.wanted, self.tensors = (replays[0].tensors for replays in both.replays)
        self.stored = both.graph.stored
        self.uses = {self.stored[node.name]: len(node.users) for node in both.graph.nodes if node.name in self.stored}
        self.readers = self._readers()
        self.calls = Counter(reader.weight for reader in self.readers.values())
        self.bound = {name for name, count in self.calls.items() if self.uses[name] != count}
        self.left: set[str] = set()
        self.maps: list[str] = []
        self.norms: list[str] = []
        self.equations: dict[str, NormalEquations] = {}
        self.means: dict[fx.Node, Tensor] = {}  # of what fitted maps should give: (outputs,)

    def _readers(self) -> dict[fx.Node, StoredMap]:
        """All linear maps of the forward pass that have a weight of their own."""
        calls = [node for node in self.both.graph.nodes if node.op == "call_function"]
        found = ((node, StoredMap.of(self.both.graph, node)) for node in calls)
        return {node: reader for node, reader in found if reader is not None}

    def _going(self, reader: StoredMap) -> Tensor:
        """Which columns of the map's matrix, in any group, read channels that go: (columns,)."""
        dim, weight = 1 - reader.output_dim, self.tensors[reader.weight]
        if reader.depthwise:  # a channel that goes takes its own group with it
            return torch.zeros(reader.taps, dtype=torch.bool)
        inputs = self.decisions.along(reader.weight, dim, weight.shape[dim])
        inputs = inputs.reshape(reader.groups, -1)[0] if dim == 0 else inputs
        return inputs.repeat_interleave(reader.taps)

    def fit(self, waiting: Collection[str] = (), without: Collection[str] = ()) -> None:
        """Fit each map when it has run; the waiting ones after the last of them; some not at all."""
        ran: set[fx.Node] = set()
        for node in self.both:
            ran.add(node)
            reader = self.readers.get(node)
            if reader is not None and reader.weight not in without and self._changed(reader.input):
                if reader.weight in self.bound:
                    self.left.add(reader.weight)
                    continue
                behind = self._behind(node, ran)
                self._add(reader, node, behind)
                if reader.weight not in waiting:
                    self._solve(reader, behind)
                    self.both.run(node, 1)
            elif node.op == "call_function" and Operator(node).name == "batch_norm":
                self._restate(node)
                self.both.run(node, 1)
        for reader in {reader.weight: reader for reader in self.readers.values()}.values():
            if reader.weight in waiting and reader.weight in self.equations:
                self._solve(reader, _Behind())

    def _changed(self, node: fx.Node) -> bool:
        """Whether the model differs from the original here."""
        return not all(torch.equal(first, second) for first, second in self.both.values(node))

    def _behind(self, node: fx.Node, ran: set[fx.Node]) -> _Behind:
        """Follow the only user of a map's outputs to a sum whose other part is there."""
        found, value = _Behind(), node
        while len(value.users) == 1:
            op = Operator(next(iter(value.users)))
            if op.name == "batch_norm" and op.value(0) is value and self._is_stored(op):
                gain, shift = self._affine(op, self.tensors)
                if value is node:
                    first_gain, first_shift = self._affine(op, self.wanted)
                    found.takes_mean = self._held(op, "bias") is not None
                    found.ratio = torch.where(gain.abs() > TINY, first_gain / gain, 1.0)
                    found.offset = (first_shift - shift) * inverse(gain)
                found.gain = found.gain * gain
            elif op.name == "add" and op.value("alpha", 1) == 1:
                other = next((read for read in op.tensors if read is not value), None)
                if other in ran and other.meta["val"].shape == value.meta["val"].shape == node.meta["val"].shape:
                    found.other = other
                return found
            elif op.name not in SAME:
                return found
            value = op.node
        return found

    def _affine(self, op: Operator, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Gain and shift of a batch norm in eval mode: (channels,) each."""
        names = (self._name(op, argument) for argument in ("weight", "bias", "running_mean", "running_var"))
        weight, bias, mean, variance = (None if name is None else tensors[name] for name in names)
        assert mean is not None
        assert variance is not None
        gain = (variance + op.value("eps")).rsqrt() * (1.0 if weight is None else weight)
        return gain, (0.0 if bias is None else bias) - gain * mean

    def _name(self, op: Operator, argument: str) -> str | None:
        """The parameter or buffer that an argument is."""
        value = op.value(argument)
        return self.stored.get(value.name) if isinstance(value, fx.Node) else None

    def _held(self, op: Operator, argument: str) -> Tensor | None:
        """The model's tensor that an argument is."""
        name = self._name(op, argument)
        return None if name is None else self.tensors[name]

    def _is_stored(self, op: Operator) -> bool:
        """Whether a batch norm has statistics of its own, and normalises with them."""
        names = [self._name(op, argument) for argument in ("running_mean", "running_var")]
        return not op.flag("training") and all(name is not None and self.uses[name] == 1 for name in names)

    def _add(self, reader: StoredMap, node: fx.Node, behind: _Behind) -> None:
        """Add what this call reads, and what its outputs lack."""
        equations = self.equations.setdefault(reader.weight, NormalEquations())
        kept, count = ~self._going(reader), 0
        given = torch.zeros(1, dtype=torch.float64, device=self.tensors[reader.weight].device)
        outputs, inputs = self.both.values(node), self.both.values(reader.input)
        others = self.both.values(behind.other) if behind.other is not None else [None] * len(outputs)
        share = max(POSITIONS, PER_COLUMN * len(kept)) / sum(reader.positions(now) for _, now in outputs)
        for (wanted, now), (_, read), sums in zip(outputs, inputs, others, strict=True):
            lack = wanted * reader.shaped(behind.ratio, now) + reader.shaped(behind.offset, now) - now
            if sums is not None:
                lack = lack + (sums[0] - sums[1]) * reader.shaped(inverse(behind.gain), now)
            for picked, x in reader.rows(read, sample_positions(reader.positions(now), share, now.device)):
                lacking = reader.outputs(lack, picked)
                equations.add(x * kept.to(x), lacking.reshape(len(picked), reader.groups, -1))
                given = given + (lacking + reader.outputs(now, picked)).sum(0).double()
                count += len(picked)
        self.means[node] = given / count

    def _solve(self, reader: StoredMap, behind: _Behind) -> None:
        """Move the columns that stay, and the bias, of the rows that live."""
        weight = self.tensors[reader.weight]
        bias = self.tensors[reader.bias] if reader.bias is not None else None
        own = bias is not None and self.uses[str(reader.bias)] == self.calls[reader.weight]
        equations = self.equations.pop(reader.weight)  # of wide maps they are larger than the weights
        change, shift = equations.solve(self.ridge, centred=own or behind.takes_mean)
        rows = reader.matrix(weight).ne(0).any(2)
        dim = 0 if reader.depthwise else reader.output_dim
        going = self.decisions.along(reader.weight, dim, weight.shape[dim]).to(rows.device)
        rows &= ~going.reshape(1 if going.numel() < rows.numel() else reader.groups, -1)
        reader.add_to(weight, change * rows[..., None])
        self.after_fit(weight)
        if own and bias is not None:
            bias.add_((shift * rows).flatten().to(bias))
        self.maps.append(reader.weight)

    def _restate(self, node: fx.Node) -> None:
        """A batch norm with the statistics of what comes now; behind a fitted map with the gain that it had.

        Elsewhere its statistics change as those of what it reads do from the original to the model, on the same
        samples: samples that vary less than those of training leave its gain alone.
        """
        op = Operator(node)
        mean, variance = self._held(op, "running_mean"), self._held(op, "running_var")
        source = op.input(0)
        if mean is None or variance is None or not self._is_stored(op) or not self._changed(source):
            return
        (old_mean, old_variance), (new_mean, new_variance) = map(moments, zip(*self.both.values(source), strict=True))
        if source not in self.means:
            kept = (self.wanted[str(self._name(op, which))] for which in ("running_mean", "running_var"))
            first_mean, first_variance = kept
            new_mean = first_mean + new_mean - old_mean
            new_variance = first_variance * (new_variance + op.value("eps")) / (old_variance + op.value("eps"))
        new_variance = torch.maximum(new_variance, LEAST_VARIANCE * variance)
        weight, bias = self._held(op, "weight"), self._held(op, "bias")
        name = self.stored[op.input("running_mean").name]
        alive = ~self.decisions.along(name, 0, len(mean)).to(mean.device)
        if weight is not None and bias is not None:
            alive &= (weight != 0) | (bias != 0)
            if source in self.means:
                gain = weight / (variance + op.value("eps")).sqrt()
                given = bias + gain * (self.means[source].to(mean) - mean)
                wider = weight * ((new_variance + op.value("eps")) / (variance + op.value("eps"))).sqrt()
                weight.copy_(torch.where(alive, wider, weight))
                bias.copy_(torch.where(alive, given, bias))
        mean.copy_(torch.where(alive, new_mean.to(mean), mean))
        variance.copy_(torch.where(alive, new_variance.to(variance), variance))
        self.norms.append(name)


def inverse(gain: Tensor | float) -> Tensor | float:
    """1 / gain, and 0 where there is next to none."""
    return torch.where(gain.abs() > TINY, 1 / gain, 0.0) if isinstance(gain, Tensor) else 1 / gain

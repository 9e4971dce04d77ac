"""Remove, measure, refuse: the one way in which the commands, the public classes and the strategies shrink a module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from extcon_cli.channels.analysis.constants import ConsumerInput, consumer_inputs
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels, coverage
from extcon_cli.channels.compare import Difference, Examples, Inputs, each_example, outputs
from extcon_cli.channels.culprits import Failure, culprits
from extcon_cli.channels.dry_run import channel_groups
from extcon_cli.channels.removal.apply import removed_copy, shrunk
from extcon_cli.channels.removal.certificate import Certificate, certify
from extcon_cli.channels.removal.classify import GroupStatus, classify, holding_back
from extcon_cli.channels.removal.plan import plan_removal
from extcon_cli.channels.removal.retrace import failures_after
from extcon_cli.channels.removal.rewrites import RemovalPlan
from extcon_cli.errors import GateError, first_line

Masks = Mapping[ChannelGroup, np.ndarray[Any, np.dtype[np.bool_]]]
"""Which channels of each group are meant: (channels,)."""


@dataclass(frozen=True)
class Removal:
    """The smaller module, how it came to be, and what was measured."""

    module: nn.Module
    plan: RemovalPlan
    certificate: Certificate
    removed: Masks  # of every group with a channel that went
    prunable: int  # channels of which they could be chosen
    share: float  # of the parameters, in channels that could go

    @property
    def filters(self) -> int:
        """How many channels went."""
        return sum(int(mask.sum()) for mask in self.removed.values())

    def with_evaluation(self, measured: Difference) -> Removal:
        """The same with what was measured on real inputs after it. GateError where the outputs differ."""
        certificate = replace(self.certificate, evaluation=measured if measured.samples else None)
        _check_exact(certificate)
        return replace(self, certificate=certificate)


def remove_zeros(
    model: nn.Module,
    example_inputs: Examples,
    *,
    channels: Channels | None = None,
    decided: Masks | None = None,
    others: bool = True,
    evaluation: Iterable[Inputs] = (),
) -> Removal:
    """A copy without the channels that emit a constant whatever the input, certified to give the same outputs.

        >>> import torch, extcon_cli
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> with torch.no_grad():  # a mask of your own: rows of a weight and their biases
        ...     _ = model[0].weight[:3].zero_(), model[0].bias[:3].zero_()
        >>> removal = extcon_cli.remove_zeros(model, (torch.randn(2, 4),))
        >>> removal.module[0].out_features, removal.filters, removal.certificate.exact
        (5, 3, True)

    A channel is removed where all that reads it can do without: masks on one layer of a residual sum are not enough.
    `prunable_groups` names the slices that have to be zero together.

    Args:
        model: with zeros of any origin in it, in its weights themselves; it is not changed.
        example_inputs: the arguments of one forward pass, by position or by name, a batch of at least 2; a list of
            several where `channels` was made from one.
        channels: what `channel_groups` gave for this model. None: it is traced here.
        decided: channels that have to go. A carrier of constants may stay, where `others` may go.
        others: whether dead channels that were not decided go as well.
        evaluation: batches of real inputs to compare on, beside random ones.

    Raises:
        TraceError: the forward pass cannot be traced.
        GateError: nothing can go, a decided channel cannot, or the outputs differ beyond the tolerance.
    """
    channels = channel_groups(model, example_inputs) if channels is None else channels
    inputs = consumer_inputs(model, channels)
    statuses = classify(model, channels, inputs)
    if not others:
        statuses = [_limited(status, decided or {}) for status in statuses]
    statuses, reasons = _sound(model, channels, inputs, statuses, example_inputs)
    _check_decided(channels, statuses, decided, others, reasons)
    plan = plan_removal(model, channels, inputs, statuses)
    small = shrunk(model, plan)
    certificate = certify(model, small, plan, example_inputs, evaluation)
    _check_exact(certificate)
    removed = {status.group: status.removable for status in statuses if status.removable.any()}
    frozen = tuple(replace(group, reason=reasons.get(id(group), group.reason)) for group in channels.groups)
    prunable = sum(group.size for group in frozen if group.prunable)
    share = coverage(model, replace(channels, groups=frozen))
    return Removal(small, plan, certificate, removed, prunable, share)


def _check_exact(certificate: Certificate) -> None:
    if not certificate.exact:
        worst = certificate.relative
        raise GateError(f"the removal is not exact: outputs differ by {worst:.1e} of the largest; nothing was removed")


def _limited(status: GroupStatus, decided: Masks) -> GroupStatus:
    """The status with only the decided channels to be removed."""
    mask = decided.get(status.group, np.zeros(status.group.size, bool))
    return replace(status, removable=status.removable & mask)


def _sound(
    model: nn.Module,
    channels: Channels,
    inputs: Sequence[ConsumerInput],
    statuses: list[GroupStatus],
    examples: Examples,
) -> tuple[list[GroupStatus], dict[int, str]]:
    """The statuses with the groups held back whose removal, at the widths that are about to go, changes the graph.

    With them the reason of each, by the `id` of its group.
    """

    def attempt(groups: Sequence[ChannelGroup]) -> Sequence[Failure]:
        tried = {id(group) for group in groups}
        some = holding_back(statuses, lambda group: id(group) not in tried)
        plan = plan_removal(model, channels, inputs, some)
        small = removed_copy(model, plan)
        if failures := failures_after(small, channels, plan, examples):
            return failures
        try:
            for example in each_example(examples):
                outputs(small, example)
        except Exception as error:  # whatever the model's own code raises on other sizes
            return [Failure(f"the forward pass fails on the smaller width: {first_line(error)}")]
        return []

    reasons = culprits([status.group for status in statuses if status.removable.any()], attempt)
    return holding_back(statuses, lambda group: id(group) in reasons), reasons


def _check_decided(
    channels: Channels, statuses: list[GroupStatus], decided: Masks | None, others: bool, reasons: Mapping[int, str]
) -> None:
    """GateError where nothing goes, or a decided channel stays."""
    gone = sum(int(status.removable.sum()) for status in statuses)
    dead = sum(int(status.dead.sum()) for status in statuses)
    hint = "nothing was removed (`extcon inspect` says what stays and why)"
    for status in statuses:
        stays = (decided or {}).get(status.group, np.zeros(status.group.size, bool)) & ~status.removable
        if others and status.carrier >= 0:
            stays[status.carrier] = False
        if 1 < channels.least(status.group) == int((~status.removable).sum()) or stays.sum() < channels.step(
            status.group
        ):
            stays[:] = False  # all others go, and these have to stay
        if stays.any():
            why = f" ({reasons[id(status.group)]})" if id(status.group) in reasons else ""
            raise GateError(
                f"{int(stays.sum())} of the decided channels of {status.group.name} cannot go exactly{why}; {hint}"
            )
    if not gone:
        why = f" ({next(iter(reasons.values()))})" if reasons else ""
        none = f" and none of them can go exactly{why}" if dead else ""
        raise GateError(f"{dead} channels are dead{none}; {hint}")

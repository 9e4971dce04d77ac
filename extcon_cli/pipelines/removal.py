"""Cut what is dead and certify that no output changed: the step that every way of pruning ends with."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from extcon_cli.channels import (
    Certificate,
    Channels,
    Difference,
    RemovalPlan,
    certify,
    classify,
    coverage,
    plan_removal,
    remove,
)
from extcon_cli.errors import GateError


@dataclass(frozen=True)
class Removal:
    """The smaller module, how it came to be, and what was measured."""

    module: nn.Module
    plan: RemovalPlan
    certificate: Certificate
    filters: int  # that went
    prunable: int  # of which they were chosen
    share: float  # of the parameters, in channels that could go

    def figures(
        self,
        moved: Difference,  # outputs right before and right after, on what counts most
        *,
        requested: float | None = None,
        before: dict[str, float] | None = None,
        after: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """The section `removal` of the result document; `before` and `after` are metrics around the removal."""
        return {
            "requested_ratio": requested,
            "ratio": self.filters / self.prunable,
            "filters": self.filters,
            "prunable": self.prunable,
            "removable_share": self.share,
            "metrics_before_removal": before or {},
            "metrics_after_removal": after or {},
            "max_difference": moved.largest,
            "largest_output": moved.scale,
            "relative_difference": max(moved.relative, self.certificate.random.relative),
            "argmax_agreement": moved.agreement,
        }


def cut(
    module: nn.Module,
    channels: Channels,
    example: tuple[Any, ...],
    evaluation: Iterable[tuple[Any, ...]] = (),
    *,
    least: int = 1,
) -> Removal:
    """Remove every channel that can go exactly, on a copy, and certify it on random and on `evaluation` inputs.

    Raises:
        GateError: fewer than `least` channels can go, or outputs differ beyond the tolerance.
    """
    verdicts = classify(module, channels)
    gone = sum(int(verdict.removable.sum()) for verdict in verdicts)
    if gone + sum(verdict.carrier >= 0 for verdict in verdicts) < least:
        dead = sum(int(verdict.dead.sum()) for verdict in verdicts)
        raise GateError(
            f"{dead} channels are dead and {gone} of them can go exactly, {least} are needed; nothing was written "
            "(`extcon inspect` says what stays and why)"
        )
    removal = plan_removal(module, channels)
    small = copy.deepcopy(module)
    remove(small, removal)
    certificate = certify(module, small, removal, example, evaluation)
    if not certificate.exact:
        measured = (certificate.random, certificate.double, certificate.evaluation)
        worst = max(found.relative for found in measured if found is not None)
        raise GateError(f"the removal is not exact: outputs differ by {worst:.1e} of the largest; nothing was written")
    prunable = sum(verdict.group.size for verdict in verdicts if verdict.group.prunable)
    return Removal(small, removal, certificate, gone, prunable, coverage(module, channels))

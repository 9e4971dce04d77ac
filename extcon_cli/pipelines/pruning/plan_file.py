"""The file of a pruning plan: which channels of which group go. `extcon plan` writes it, anyone edits it.

It holds no weights and decides nothing. A plan that does not fit the model is refused with all that is wrong with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters
from extcon_cli.channels import ChannelGroup, Channels
from extcon_cli.errors import DataError, UsageError
from extcon_cli.json_text import parse_json
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.previews import PlanGroup, PlanResult
from extcon_cli.report.serialise import Json, to_json
from extcon_cli.training.whole import write_whole


def labels(groups: Sequence[ChannelGroup]) -> list[str]:
    """The name of each group; the second of the same name is `name#2`."""
    seen: Counter[str] = Counter()
    found = []
    for group in groups:
        seen[group.name] += 1
        found.append(group.name if seen[group.name] == 1 else f"{group.name}#{seen[group.name]}")
    return found


def planned_groups(
    channels: Channels, filters: Filters, selected: Tensor, sensitivities: Mapping[int, float] = MappingProxyType({})
) -> tuple[PlanGroup, ...]:
    """The rows of a plan that takes the selected filters (n,); `sensitivities` by the `id` of each group."""
    spans = dict(zip(map(id, filters.groups), filters.spans(), strict=True))
    return tuple(
        PlanGroup(
            name=name,
            channels=group.size,
            sensitivity=sensitivities.get(id(group)),
            reason=group.reason or None,
            remove=tuple(selected[spans[id(group)]].nonzero().flatten().tolist()) if group.prunable else (),
        )
        for name, group in zip(labels(channels.groups), channels.groups, strict=True)
    )


def asked(recipe: Recipe) -> str:
    """The target in words: `macs 0.5`."""
    if recipe.prune.target is None:
        return f"ratio {recipe.prune.ratio:g}"
    ((quantity, wanted),) = recipe.prune.target.model_dump(exclude_none=True).items()
    return f"{quantity} {wanted}"


def write_plan(path: Path, plan: PlanResult) -> None:
    """Write a plan, a line for each group (UsageError: it cannot be written)."""
    document = to_json(plan)
    groups = document.pop("groups")
    assert isinstance(groups, Sequence)
    rows = ",\n".join(f"    {json.dumps(group)}" for group in groups)
    head = json.dumps(document, indent=2).removesuffix("\n}")
    text = f'{head},\n  "groups": [\n{rows}\n  ]\n}}\n'
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --out") from error


def read_plan(path: Path) -> Mapping[str, Json]:
    """The document of a plan. DataError where there is none to read."""
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is no plan: {error}") from error
    if not isinstance(document, dict) or document.get("command") != "plan":
        raise DataError(f'{path} is no plan: make one with `extcon plan` (it says "command": "plan")')
    return document


def planned(
    document: Mapping[str, Json], channels: Channels, filters: Filters, source: str, ties: Sequence[Tie] = ()
) -> Tensor:
    """The filters that a plan takes, as a mask (n,).

    Raises:
        UsageError: groups that the model does not have or that cannot lose channels, channels that are not there, too
            many of them, or none at all; groups that should stay alike (`ties`) and do not. All problems together.
    """
    rows, mask, problems = document.get("groups"), torch.zeros(len(filters), dtype=torch.bool), list[str]()
    if not isinstance(rows, list):
        raise UsageError(f"{source}: `groups` should be a list of groups")
    named = dict(zip(labels(channels.groups), channels.groups, strict=True))
    spans = dict(zip(map(id, filters.groups), filters.spans(), strict=True))
    seen = set[str]()
    for number, row in enumerate(rows):
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(row, dict) or not isinstance(name, str):
            problems.append(f"groups.{number} should be a group with a `name`")
            continue
        group = named.get(name)
        if group is None:
            near = get_close_matches(name, named, n=3) or list(named)[:3]
            problems.append(f"{name!r} is no group of this model; the nearest are {', '.join(near)}")
        elif name in seen:
            problems.append(f"{name} is there twice")
        elif (wrong := _wrong(row, group, channels.least(group))) is not None:
            problems.append(f"{name}: {wrong}")
        elif row["remove"]:
            mask[spans[id(group)]] = _mask(row["remove"], group.size)
        seen.add(name)
    counts = {id(group): int(mask[spans[id(group)]].sum()) for group in filters.groups}
    problems += [_unlike(tie) for tie in ties if not problems and not _alike(tie, counts)]
    if not problems and not mask.any():
        problems.append("no group loses a channel")
    if problems:
        raise UsageError("\n".join(f"{source}: {problem}" for problem in problems))
    return mask


def _wrong(row: Mapping[str, Any], group: ChannelGroup, least: int) -> str | None:
    """What is wrong with the entry of a group. None: nothing."""
    remove = row.get("remove")
    if not isinstance(remove, list) or any(type(channel) is not int for channel in remove):
        return "`remove` should be a list of channel numbers"
    if row.get("channels", group.size) != group.size:
        return f"has {group.size} channels, not {row['channels']}: the plan is of another model"
    if outside := [channel for channel in remove if not 0 <= channel < group.size]:
        return f"has channels 0 to {group.size - 1}, so not {outside[0]}"
    if len(set(remove)) < len(remove):
        return "a channel is there twice"
    if remove and group.reason:
        return f"cannot lose channels: {group.reason}"
    if len(remove) > group.size - least:
        return f"{len(remove)} of {group.size} channels are too many: {least} should stay"
    return None


def _alike(tie: Tie, counts: Mapping[int, int]) -> bool:
    """Do all groups of a tie lose the same number of whole parts, one that may go?"""
    shares = {counts.get(id(group), 0) * tie.parts / group.size for group in tie.groups}
    return len(shares) == 1 and shares.pop() in (0, *tie.allowed)


def _unlike(tie: Tie) -> str:
    names = ", ".join(group.name for group in tie.groups[:3])
    return (
        f"{names} ... stay alike: each should lose the same share of its channels, one of "
        f"{', '.join(f'{gone}/{tie.parts}' for gone in tie.allowed[:8])}; or set prune.widths to free"
    )


def _mask(remove: Sequence[int], size: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.tensor(remove)] = True
    return mask

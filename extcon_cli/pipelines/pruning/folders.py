"""Folders of transformers in a pipeline: widths that their configuration says, and the folder that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from extcon_cli.catalyst.alike import Tie
from extcon_cli.channels import Channels, RemovalPlan, coverage
from extcon_cli.channels.compare import Examples
from extcon_cli.checkpoint.huggingface.config import changed, plain
from extcon_cli.checkpoint.huggingface.folder import Folder
from extcon_cli.checkpoint.huggingface.uniform import Role, roles, solved, uniform
from extcon_cli.checkpoint.huggingface.write import write_folder
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.errors import GateError
from extcon_cli.events import Emit, Noted
from extcon_cli.report.model_card import model_card
from extcon_cli.report.numbers import percent
from extcon_cli.report.results.prune import FolderFigures, PruneRecord, SizeChange


@dataclass(frozen=True)
class FolderWidths:
    """What of a folder's model its configuration can say, and what is asked of it."""

    folder: Folder
    kind: Literal["uniform", "free"]
    roles: tuple[Role, ...]
    uniform_share: float
    """Of the parameters, in channels that can go where all layers stay alike."""
    free_share: float
    """The same where they need not."""

    @property
    def ties(self) -> list[Tie]:
        """Groups that keep the same share; none where widths are free."""
        found = [Tie(role.groups, role.steps, role.allowed) for role in self.roles]
        return found if self.kind == "uniform" else []


def folder_widths(
    folder: Folder,
    module: nn.Module,  # of the folder
    channels: Channels,
    examples: Examples,
    kind: Literal["uniform", "free"],
    emit: Emit,
) -> tuple[Channels, FolderWidths]:
    """The channels that may go, with all others frozen, and what the configuration can say of them.

    Raises:
        GateError: widths should be uniform, and the configuration has no number for any of them.
    """
    if folder.metadata is not None and folder.metadata.plans:
        if kind == "uniform":
            raise GateError(f"{folder.path} has widths that no configuration says: set prune.widths to free")
        return channels, FolderWidths(folder, kind, (), 0.0, coverage(module, channels))
    found = roles(module, channels, examples)
    alike = uniform(channels, found)
    widths = FolderWidths(folder, kind, found, coverage(module, alike), coverage(module, channels))
    can_go = f"{percent(widths.uniform_share)} of the parameters can go where all layers stay alike, "
    emit(Noted(f"{can_go}{percent(widths.free_share)} where widths are free"))
    if kind == "free":
        return channels, widths
    if not found:
        raise GateError(
            f"the configuration of {type(module).__name__} has no number for any width that can go exactly: set "
            "prune.widths to free for a folder that extcon_cli.load opens"
        )
    return alike, widths


def write_pruned(
    output: Path,
    small: nn.Module,
    widths: FolderWidths,
    record: PruneRecord,
    metadata: Metadata,
    plan: Mapping[str, Any],
    examples: Examples,
    *,
    force: bool,
) -> FolderFigures:
    """Write the shrunk module of a folder as a folder (GateError: no configuration says it, or another one opens).

    Args:
        metadata: with all plans.
        plan: of this run's removal.
        examples: on the CPU, as `small` is.
    """
    folder = widths.folder
    if widths.kind == "free":
        config, changes = None, {}
        metadata = metadata.model_copy(update={"arch": folder.arch, "kwargs": plain(folder.config)})
    else:
        values = solved(small, widths.roles, RemovalPlan.from_json(plan), examples)
        config, before = changed(folder.config, values), plain(folder.config)
        changes = {".".join(place): SizeChange(_at(before, place), value) for place, value in values.items()}
    figures = FolderFigures(widths.kind, changes, None, widths.uniform_share, widths.free_share)
    card = model_card(folder.path.resolve().name, record, figures)
    found = write_folder(output, small, config, folder, metadata, examples, card=card, force=force)
    return FolderFigures(
        widths.kind, changes, None if found is None else found.relative, widths.uniform_share, widths.free_share
    )


def _at(content: Mapping[str, Any], place: tuple[str, ...]) -> float | None:
    found: Any = content
    for key in place:
        found = found[key]
    return None if found is None else float(found) if isinstance(found, float) else int(found)

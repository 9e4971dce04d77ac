"""What is found in checkpoints: by inspecting one, verifying two, and starting a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from extcon_cli.report.results.bypass import Diagnosis
from extcon_cli.report.results.records import Layer, OutputDifference, Result, Size
from extcon_cli.report.serialise import INLINE, OPTIONAL


@dataclass(frozen=True)
class GroupSummary:
    """A channel group: what of it could go and what it would save."""

    name: str
    channels: int
    dead: int
    removable: int
    prunable: bool
    params_per_channel: int
    reason: str | None  # why it stays


@dataclass(frozen=True, kw_only=True)
class InspectResult(Result):
    """The result of `extcon inspect`."""

    command: Literal["inspect"] = "inspect"
    checkpoint: str
    arch: str | None
    input_shape: tuple[int, ...]
    """Of one sample; empty where `inputs` say more."""
    inputs: Mapping[str, str] | None = field(default=None, metadata=OPTIONAL)
    """Where they are not one tensor of floats: what each is, by its argument."""
    size: Size = field(metadata=INLINE)
    file_bytes: int
    removable_share: float
    """Of the parameters, in channels that could go."""
    layers: tuple[Layer, ...]
    groups: tuple[GroupSummary, ...]
    unreached: tuple[str, ...] = ()
    """Modules with parameters that no input reaches: what may feed them stays."""
    diagnosis: Diagnosis | None = field(default=None, metadata=OPTIONAL)
    """With --data: is it stalled, and what would an extension gain?"""
    metadata: Mapping[str, object] | None
    """What the checkpoint says of itself."""


THESE_WEIGHTS, TRAINED_ON = "these weights", "trained on since the removal"
"""What a certificate may say of the weights that it is found with."""


@dataclass(frozen=True, kw_only=True)
class VerifyResult(Result):
    """The result of `extcon verify`."""

    command: Literal["verify"] = "verify"
    checkpoint: str
    other: str
    max_diff: float
    verdict: bool
    """Every difference is within `max_diff` of the largest output."""
    differences: Mapping[str, OutputDifference | None]
    """On random inputs in float32 and float64 (None: one does not run in it), and on real inputs where asked for."""
    certificate: str | None
    """What the second's own certificate says of its weights; None: it carries none."""
    task: str = "classification"
    """What the models are for, as the first's recipe says."""


@dataclass(frozen=True)
class RecipeKey:
    """A key of the recipe, its value as YAML, and how that is known (or what to put there)."""

    key: str
    value: str
    why: str


@dataclass(frozen=True, kw_only=True)
class InitResult(Result):
    """The result of `extcon init`."""

    command: Literal["init"] = "init"
    checkpoint: str
    output: str
    findings: tuple[RecipeKey, ...]
    missing: tuple[RecipeKey, ...]
    """What only the user knows, with examples; empty where the recipe is complete."""

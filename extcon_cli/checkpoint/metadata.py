"""What an extcon checkpoint says about itself: one frozen value, stored as JSON strings in the safetensors header.

Reading it runs no code and builds no module; values are checked, because a file may come from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, Strict, ValidationError, field_validator

from extcon_cli.errors import CheckpointError
from extcon_cli.json_text import parse_json
from extcon_cli.recipe.inputs import InputKinds
from extcon_cli.recipe.nesting import too_deep
from extcon_cli.recipe.schema import NormalizeSpec

PREFIX = "extcon."
LARGEST = 64 * 2**20  # characters of all values together; a plan for a large network takes about 1 M
LARGEST_INPUT = 2**26  # numbers in one input


class Metadata(BaseModel):
    """All that rebuilds the module beside its tensors, and where it came from."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    arch: str | None
    """As in a recipe (`zoo:digits_resnet`); None where it has no name, such as for a pickled module."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    input_shape: Annotated[tuple[PositiveInt, ...], Strict(False)] | None = None
    """Of one input without the batch."""
    inputs: InputKinds | None = None
    """Of inputs other than one tensor of floats: what each is, by its argument."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The resolved recipe."""
    plan: dict[str, Any] | Annotated[tuple[dict[str, Any], ...], Strict(False)] | None = None
    """The plan that shrank `arch` to the tensors stored here (channels.RemovalPlan), or that widened it
    (channels.widening.WideningPlan); several: in turn."""
    history: Annotated[tuple[dict[str, Any], ...], Strict(False)] = ()
    """What was done, oldest first, each with its figures."""
    classes: PositiveInt | Annotated[tuple[str, ...], Strict(False)] | None = None
    """Number of classes, or their names in the order of the outputs."""
    normalize: NormalizeSpec | None = None
    """How inputs, scaled to 0..1, are normalised."""
    version: str = ""
    """Of the extcon that wrote the file."""

    @property
    def plans(self) -> tuple[dict[str, Any], ...]:
        """The removal plans, in the order in which they are replayed."""
        return (self.plan,) if isinstance(self.plan, dict) else self.plan or ()

    @field_validator("input_shape")
    @classmethod
    def _fits_in_memory(cls, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if shape is not None and (not shape or len(shape) > 8 or prod(shape) > LARGEST_INPUT):
            raise ValueError("not a shape of one input")
        return shape


def to_header(metadata: Metadata) -> dict[str, str]:
    """The strings for the safetensors header: one JSON text a field, NaN and infinities as null."""
    fields = json.loads(metadata.model_dump_json())
    return {PREFIX + name: json.dumps(value) for name, value in fields.items()}


def from_header(header: Mapping[str, str], source: str) -> Metadata | None:
    """The metadata in a safetensors header, or None where extcon wrote none. CheckpointError if it is damaged."""
    texts = {key[len(PREFIX) :]: text for key, text in header.items() if key.startswith(PREFIX)}
    if not texts:
        return None
    if sum(map(len, texts.values())) > LARGEST:
        raise CheckpointError(f"{source}: its extcon metadata take more than {LARGEST >> 20} MiB; damaged?")
    name = ""
    try:
        values = {}
        for name, text in texts.items():
            values[name] = parse_json(text, parse_constant=_refuse)
            if too_deep(values[name]):
                raise ValueError("nested too deeply")
        return Metadata.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name, what = ".".join(map(str, first["loc"][:2])), first["msg"]
    except ValueError as error:
        what = f"not valid JSON ({str(error)[:80]})"
    raise CheckpointError(f"{source}: its metadata are damaged: extcon.{name[:60]!s}: {what}")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")

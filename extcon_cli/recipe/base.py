"""What the sections of a recipe are made of: a strict model, bounded types, a length in epochs or steps."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, Strict, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
ShareAboveZero = Annotated[float, Field(gt=0, le=1)]
ShareInside = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]

# a list in YAML, a tuple in the frozen recipe: hence not strict about the container, only about its items
Shape = Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1)]
Floats = Annotated[tuple[float, ...], Strict(False), Field(min_length=1)]
PositiveFloats = Annotated[tuple[PositiveFloat, ...], Strict(False), Field(min_length=1)]
SharesInside = Annotated[tuple[ShareInside, ...], Strict(False)]
Decays = Annotated[tuple[ShareBelowOne, ShareBelowOne], Strict(False)]
ShareRange = Annotated[tuple[ShareAboveZero, ShareAboveZero], Strict(False)]
Names = Annotated[tuple[Name, ...], Strict(False)]


class Section(BaseModel):
    """A part of a recipe. Unknown keys, text or true for a number, and infinities are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Duration(Section):
    """How long something lasts, in epochs or in steps, whichever is given; exactly one of the two is set."""

    epochs: PositiveFloat | None = 20.0
    """Length in passes over the training data; fractions are allowed. Or give `steps`."""

    steps: PositiveInt | None = None
    """Length in optimizer steps. Or give `epochs`."""

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default(cls, given: Any) -> Any:
        if isinstance(given, dict) and "epochs" not in given and given.get("steps") is not None:
            return {**given, "epochs": None}
        return given

    @model_validator(mode="after")
    def _one_length(self) -> Duration:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give `epochs` or `steps`, not {'neither' if self.epochs is None else 'both'}")
        return self

"""A safetensors file written tensor by tensor has the bytes that the library gives."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from extcon_cli.channels.deferred import Deferred
from extcon_cli.checkpoint.encode import KINDS, encoded
from extcon_cli.errors import UsageError


def _library(state: dict[str, torch.Tensor], texts: dict[str, str]) -> bytes:
    """The library's bytes; it orders metadata by a random hash, here they are sorted."""
    given = safetensors.torch.save(state, texts)
    length = int.from_bytes(given[:8], "little")
    header = json.dumps(json.loads(given[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + given[8 + length :]


def test_the_bytes_are_those_of_the_library_for_every_type() -> None:
    state = {f"t{number * 7 % 16}": torch.arange(6).view(3, 2).to(dtype) for number, dtype in enumerate(KINDS)}
    state |= {"scalar": torch.tensor(3), "empty": torch.zeros(0, 4), "a": torch.ones(2, 3).T.contiguous()}
    assert b"".join(encoded(state, {"b": "2", "a": "é"})) == _library(state, {"b": "2", "a": "é"})


def test_a_deferred_tensor_is_written_as_its_numbers() -> None:
    plain = torch.randn(4, 3)
    deferred = Deferred(lambda: plain, plain).to(torch.bfloat16)
    assert b"".join(encoded({"w": deferred}, {})) == b"".join(encoded({"w": plain.to(torch.bfloat16)}, {}))


def test_a_type_that_the_format_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"w: torch\.complex128"):
        list(encoded({"w": torch.zeros(1, dtype=torch.complex128)}, {}))

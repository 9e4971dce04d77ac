"""A safetensors file, tensor by tensor: the bytes that the library gives, with one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from extcon_cli.channels.deferred import dense
from extcon_cli.errors import UsageError

KINDS = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What the format calls the types, in the order in which the library stores them."""


def encoded(state: Mapping[str, Tensor], texts: Mapping[str, str]) -> Iterator[memoryview]:
    """The file in parts: its header, sorted by name, then each tensor of the state.

    Raises:
        UsageError: a tensor is of a type that the format does not have.
    """
    order = list(KINDS)
    for name, tensor in state.items():
        if tensor.dtype not in KINDS:
            raise UsageError(f"{name}: {tensor.dtype} cannot be stored as safetensors")
    names = sorted(state, key=lambda name: (order.index(state[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(texts)}
    end = 0
    for name in names:
        tensor, start = state[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        yield dense(state[name].detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

"""Find the state dict inside what a file held, and take off the prefixes of wrappers. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.checkpoint.limits import check_tensors
from extcon_cli.errors import CheckpointError

# In the order in which they are taken where a file has several; averages come last.
CONVENTIONAL = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module"),
    *("model_state", "net_state_dict", "state"),
    *("ema", "ema_state_dict", "model_ema", "state_dict_ema", "ema_model", "params_ema", "shadow"),
)
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTER = "num_batches_tracked"


Versions = dict[str, dict[str, Any]]
"""What `state_dict()` notes beside its tensors: for each submodule its version."""


@dataclass(frozen=True)
class Found:
    """A state dict, and what stood around it."""

    state: dict[str, Tensor]
    """Without the prefixes of wrappers."""
    prefix: str
    """What was taken off."""
    versions: Versions
    """Of the submodules, prefix off; empty where the file does not say."""
    module: nn.Module | None
    """The module, if that is what was stored."""


def find_state(content: Any, source: str, *, file_size: int | None = None) -> Found:
    """Find the state dict in what a file held. CheckpointError names `source` where there is none.

    With `file_size` (bytes) also where its tensors say they hold more than such a file can.
    """
    found = _search(content, source)
    module = found if isinstance(found, nn.Module) else None
    mapping = found.state_dict() if isinstance(found, nn.Module) else found
    state = _tensors(mapping)
    if not state:
        raise CheckpointError(f"{source} has no tensors inside{_seen(content)}.")
    if len(state) > 1:
        state.pop("n_averaged", None)  # the counter of torch.optim.swa_utils.AveragedModel
    for name, tensor in state.items():
        _check(name, tensor, source)
    if file_size is not None:
        check_tensors({n: t.numel() * t.element_size() for n, t in state.items()}, file_size, source)
    stripped, prefix = strip(state)
    return Found(_unmasked(stripped), prefix, rebased(versions_of(mapping), prefix), module)


def versions_of(state: Mapping[Any, Any]) -> Versions:
    """The versions that a state dict of torch carries as an attribute; what is no version is left out."""
    noted = getattr(state, "_metadata", None)
    if not isinstance(noted, Mapping):
        return {}
    return {
        name: {"version": entry["version"]}
        for name, entry in noted.items()
        if isinstance(name, str) and isinstance(entry, Mapping) and isinstance(entry.get("version"), int)
    }


def rebased(versions: Versions, prefix: str) -> Versions:
    """The versions of the submodules below `prefix`, named from there."""
    if not prefix:
        return versions
    return {f"{name}."[len(prefix) : -1]: entry for name, entry in versions.items() if f"{name}.".startswith(prefix)}


def _unmasked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weight_orig` and `weight_mask` of torch.nn.utils.prune -> the masked `weight`, for every such pair."""
    for name in [name for name in state if name.endswith("_orig")]:
        plain, mask = name.removesuffix("_orig"), f"{name.removesuffix('_orig')}_mask"
        if mask in state and plain not in state and state[mask].shape == state[name].shape:
            state[plain] = state.pop(name) * state.pop(mask)
    return state


def strip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The state without the wrapper prefixes that all of its names carry, and what was taken off."""
    state, taken = dict(state), ""
    while prefix := next((p for p in PREFIXES if state and all(_longer(name, p) for name in state)), ""):
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
        taken += prefix
    return state, taken


def shown(names: Iterable[str], most: int = 3) -> str:
    """The first few names for an error message, each short and printable."""
    names = list(names)
    listed = ["".join(c if c.isprintable() else "?" for c in (n if len(n) <= 60 else n[:57] + "...")) for n in names]
    return ", ".join(listed[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _search(content: Any, source: str) -> Mapping[Any, Any] | nn.Module:
    """The mapping of tensors, or the module: under a conventional key, one level deeper, bare, or the only one."""
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds {type(content).__name__} where a state dict was expected.")
    for key in CONVENTIONAL:
        if (found := _state_in(content.get(key))) is not None:
            return found
    if _tensors(content):
        return content
    others = {key: found for key, value in content.items() if (found := _state_in(value)) is not None}
    if len(others) > 1:
        raise CheckpointError(
            f"{source} holds several state dicts ({shown(map(str, others))}), and none has a conventional name: "
            "save the one you mean as a plain state dict."
        )
    return next(iter(others.values()), {})


def _state_in(value: Any) -> Mapping[Any, Any] | nn.Module | None:
    if isinstance(value, nn.Module):
        return value
    if not isinstance(value, Mapping):
        return None
    for key in CONVENTIONAL:
        inner = value.get(key)
        if isinstance(inner, nn.Module) or (isinstance(inner, Mapping) and _tensors(inner)):
            return inner
    return value if _tensors(value) else None


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {
        name: value.detach() for name, value in mapping.items() if isinstance(name, str) and isinstance(value, Tensor)
    }


def _check(name: str, tensor: Tensor, source: str) -> None:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        what = "quantized" if tensor.is_quantized else f"{tensor.device.type}, {tensor.layout}"
        raise CheckpointError(
            f"{source}: tensor {shown([name])} is not plain numbers ({what}): save it dense, with its values."
        )


def _longer(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and len(name) > len(prefix)


def _seen(content: Any) -> str:
    return f", only {shown(map(str, content), 5)}" if isinstance(content, Mapping) and content else ""

"""Give a checkpoint its module back: build the architecture, shrink it as its plan says, put the tensors in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.checkpoint.architectures import build
from extcon_cli.checkpoint.identify import Candidate, identify
from extcon_cli.checkpoint.read import Checkpoint, read
from extcon_cli.checkpoint.state import COUNTER, shown, strip
from extcon_cli.errors import CheckpointError, UsageError


def load(path: str | Path, *, trust_code: bool = False) -> nn.Module:
    """The module of a checkpoint, in eval mode, on the CPU; of one that extcon shrank, the shrunk module.

        >>> import torch, extcon_cli
        >>> model = extcon_cli.load("sample_models/digits_resnet.pt")
        >>> model(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 10])

    Args:
        path: of a `.safetensors` file, or of what torch.save wrote.
        trust_code: allow an architecture that is the user's own code.

    Raises:
        CheckpointError: it cannot be read, or its architecture cannot be told or built.
    """
    checkpoint = read(path)
    metadata = checkpoint.metadata
    if metadata is None:
        found = recognise(checkpoint)
        return restore(checkpoint, found.arch, found.kwargs, trust_code=trust_code)
    if metadata.arch is None:
        raise CheckpointError(f"{path} does not name its architecture: build the module and load its tensors into it")
    try:
        return restore(checkpoint, metadata.arch, metadata.kwargs, trust_code=trust_code)
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from error


def recognise(checkpoint: Checkpoint) -> Candidate:
    """The one architecture that the tensors fit by names and shapes. CheckpointError if there is none, or several."""
    candidates = identify(checkpoint.state)
    fitting = [candidate for candidate in candidates if candidate.score == 1]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"{checkpoint.path} fits several architectures ({', '.join(c.arch for c in fitting)}); name the right "
            "one in a recipe, as model.arch"
        )
    raise CheckpointError(
        f"{checkpoint.path} fits no architecture of torchvision or the zoo{_nearest(candidates)}. Name its own in "
        "a recipe, as model.arch"
    )


def restore(checkpoint: Checkpoint, arch: str, kwargs: Mapping[str, Any], *, trust_code: bool = False) -> nn.Module:
    """Build `arch`, replay the checkpoint's removal plan and load its tensors strictly; eval mode, on the CPU.

    UsageError if the architecture cannot be built, CheckpointError if the tensors are not its own.
    """
    module = build(arch, kwargs, trust_code=trust_code, beside=checkpoint.path.parent)
    for plan in checkpoint.metadata.plans if checkpoint.metadata else ():
        replay(module, plan, f"{checkpoint.path} does not fit {arch}")
    fill(module, checkpoint.state, source=str(checkpoint.path), arch=arch)
    return module.eval()


def fill(module: nn.Module, state: Mapping[str, Tensor], *, source: str, arch: str) -> None:
    """Copy the state into the module. Every tensor must be there, with its shape, and no other.

    Counters of batch norm may be missing, and tied tensors stored once. A float64 state makes the module float64.
    """
    own, prefix = strip(module.state_dict(keep_vars=True))
    places = {id(own[name]) for name in state if name in own}
    missing = [name for name in own if name not in state and id(own[name]) not in places and COUNTER not in name]
    unexpected = [name for name in state if name not in own]
    shapes = {n: (t, own[n]) for n, t in state.items() if n in own and not _alike(t, own[n])}
    if missing or unexpected or shapes:
        problems = [
            f"{len(names)} {what} ({shown(names)})"
            for what, names in [
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", [f"{n}: {_kind(a)} for {_kind(b)}" for n, (a, b) in shapes.items()]),
            ]
            if names
        ]
        raise CheckpointError(
            f"{source} does not fit {arch}: tensors {', '.join(problems)}. Is it a checkpoint of another architecture"
            f"{_nearest(identify(state)) or '?'}"
        )
    if any(tensor.dtype == torch.float64 for tensor in state.values()):
        module.double()
    module.load_state_dict({prefix + name: tensor for name, tensor in state.items()}, strict=False)


def replay(module: nn.Module, plan: Mapping[str, Any], problem: str) -> None:
    """Shrink the module as a stored plan says. CheckpointError, which begins with `problem`, where that fails."""
    from extcon_cli.channels import RemovalPlan, remove

    try:
        remove(module, RemovalPlan.from_json(plan))
    except Exception as error:  # a plan from a hostile file may fail in any way
        raise CheckpointError(f"{problem} with its removal plan: {str(error)[:200]}") from error


def _alike(stored: Tensor, own: Tensor) -> bool:
    return stored.shape == own.shape and stored.is_floating_point() == own.is_floating_point()


def _kind(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _nearest(candidates: list[Candidate]) -> str:
    near = [str(candidate) for candidate in candidates if candidate.score >= 0.1][:3]
    return f"; nearest: {'; '.join(near)}" if near else ""

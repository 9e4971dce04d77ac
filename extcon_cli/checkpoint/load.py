"""Give a checkpoint its module back: build the architecture, shrink or widen it as it says, put the tensors in."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.checkpoint.architectures import build
from extcon_cli.checkpoint.fit import Fit, averaged, fit
from extcon_cli.checkpoint.folder import is_transformers
from extcon_cli.checkpoint.identify import Candidate, identify
from extcon_cli.checkpoint.precision import Precision, stored_precision
from extcon_cli.checkpoint.read import Checkpoint, read
from extcon_cli.checkpoint.state import Versions, rebased, shown, strip, versions_of
from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.events import Emit, Event, Noted, ignore


def load(path: str | Path, *, model: nn.Module | None = None, trust_code: bool = False) -> nn.Module:
    """The module of a checkpoint, in eval mode, on the CPU; of one that extcon shrank, the shrunk module.

        >>> import torch, extcon_cli
        >>> model = extcon_cli.load("sample_models/digits_resnet.pt")
        >>> model(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 10])

    Args:
        path: of a `.safetensors` file, of what torch.save wrote, of a folder with one of them, or of a folder of
            Hugging Face's transformers.
        model: a module of your own class, which takes the tensors (and is shrunk as the checkpoint says); without
            it, the architecture that the checkpoint names or that its tensors tell is built.
        trust_code: allow an architecture that is the user's own code.

    Half precision is how numbers are stored: what is in float16 or bfloat16 comes as float32, with the same numbers,
    and `save(..., like=path)` writes it in half precision again. To run it in half precision: `.to(torch.bfloat16)`.

    A UserWarning names tensors that are left out, because they are no part of the network, and other architectures
    whose tensors have the same names and shapes.

    Raises:
        CheckpointError: it cannot be read, or its architecture cannot be told or built, or does not fit.
    """
    left_out: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Noted) and event.warning:
            left_out.append(event.message)

    if model is None and is_transformers(path):
        from extcon_cli.checkpoint.huggingface.folder import read_folder

        folder = read_folder(path, trust_code=trust_code, emit=emit)
        loaded: nn.Module = folder.module.float() if folder.precision else folder.module
    else:
        loaded = _load(read(path), model, trust_code, emit)
    for message in left_out:
        warnings.warn(message, UserWarning, stacklevel=2)
    return loaded


def _load(checkpoint: Checkpoint, model: nn.Module | None, trust_code: bool, emit: Emit) -> nn.Module:
    if model is not None:
        narrowed = fit(_own(model)[0], checkpoint.state)[0].complete
        return _put_in(checkpoint, model, type(model).__name__, emit, narrow=not narrowed)
    metadata = checkpoint.metadata
    if metadata is None:
        found = recognise(checkpoint, emit)
        return restore(checkpoint, found.arch, found.kwargs, trust_code=trust_code, emit=emit)
    if metadata.arch is None:
        raise CheckpointError(
            f"{checkpoint.path} does not name its architecture: build the module and give it, as load(..., model=)"
        )
    try:
        return restore(checkpoint, metadata.arch, metadata.kwargs, trust_code=trust_code, emit=emit)
    except UsageError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def recognise(checkpoint: Checkpoint, emit: Emit = ignore) -> Candidate:
    """The one architecture that the tensors fit by names and shapes. CheckpointError if there is none, or several.

    Where others of another library fit as well, and compute something else, that is emitted as a warning.
    """
    candidates = identify(checkpoint.state, checkpoint.said)
    fitting = [candidate for candidate in candidates if candidate.score == 1]
    if len(fitting) == 1:
        if fitting[0].rivals:
            emit(Noted(f"{checkpoint.path}: {doubt(fitting[0])}", warning=True))
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"{checkpoint.path} fits several architectures ({', '.join(c.arch for c in fitting)}); name the right "
            "one in a recipe, as model.arch"
        )
    if is_transformers(checkpoint.path.parent):
        raise CheckpointError(f"{checkpoint.path} belongs to a folder of transformers: give {checkpoint.path.parent}")
    raise CheckpointError(
        f"{checkpoint.path} fits no architecture of the zoo, torchvision or timm{_nearest(candidates)}. Name its "
        "own in a recipe, as model.arch"
    )


def doubt(found: Candidate) -> str:
    """That a candidate with rivals may be another one."""
    others = ", ".join(found.rivals)
    return (
        f"taken for {found.arch}, whose tensors have the same names and shapes as those of {others}; these compute "
        "something else: if it is one of them, name it in a recipe, as model.arch"
    )


def restore(
    checkpoint: Checkpoint,
    arch: str,
    kwargs: Mapping[str, Any],
    *,
    trust_code: bool = False,
    in_place: bool = False,
    emit: Emit = ignore,
) -> nn.Module:
    """Build `arch`, replay the checkpoint's removal plan and load its tensors strictly; eval mode, on the CPU.

    With `in_place` large tensors are read from the checkpoint's, which may lie in its file, when they are used.
    UsageError if the architecture cannot be built, CheckpointError if the tensors are not its own.
    """

    def check(sketch: nn.Module) -> None:  # its shapes, before there are numbers in it
        if checkpoint.metadata is None or not checkpoint.metadata.plans:
            own, _ = _own(sketch)
            state = _named(checkpoint, own)
            _check_fit(fit(own, state)[0], own, state, str(checkpoint.path), arch)

    beside, tensors = checkpoint.path.parent, len(checkpoint.state)
    module = build(arch, kwargs, trust_code=trust_code, beside=beside, tensors=tensors, check=check)
    return _put_in(checkpoint, module, arch, emit, in_place=in_place)


def _put_in(
    checkpoint: Checkpoint, module: nn.Module, arch: str, emit: Emit, *, narrow: bool = True, in_place: bool = False
) -> nn.Module:
    """Shrink the module as the checkpoint says, and fill it; eval mode."""
    for plan in checkpoint.metadata.plans if checkpoint.metadata and narrow else ():
        replay(module, plan, f"{checkpoint.path} does not fit {arch}")
    if in_place:
        from extcon_cli.channels.deferred import defer  # imported here: it brings the whole room

        defer(module, torch.float32)
    state = _named(checkpoint, _own(module)[0])
    whole = state is not checkpoint.state
    if in_place:
        from extcon_cli.checkpoint.in_file import read_when_used  # as above

        state = read_when_used(state, checkpoint.path)
    versions = None if whole else checkpoint.versions
    found = fill(module, state, source=str(checkpoint.path), arch=arch, versions=versions)
    if prefix := ("" if whole else checkpoint.prefix) + found.prefix:
        emit(Noted(f"{checkpoint.path}: taken off its names: {shown([prefix])}"))
    if found.foreign:
        some = f"{len(found.foreign)} tensor{'s' * (len(found.foreign) > 1)}"
        emit(Noted(f"{checkpoint.path}: left out, no part of {arch}: {some} ({shown(found.foreign)})", warning=True))
    return module.eval()


def fill(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, arch: str, versions: Versions | None = None
) -> Fit:
    """Copy the state into the module, from behind whatever prefix makes it fit. Every tensor must be there.

    Counters of batch norm may be missing, tied tensors stored once, and what is no part of a network stand beside
    it. A float64 state makes the module float64. CheckpointError says what is missing, unexpected or of another shape.
    """
    own, wrapper = _own(module)
    best, *others = fit(own, state)
    _check_fit(best, own, state, source, arch)
    if rivals := [other.prefix for other in others if other.complete and not averaged(other.prefix)]:
        raise CheckpointError(
            f"{source} holds several networks that fit {arch} (named {shown([best.prefix, *rivals])}): save the one "
            "you mean as a state dict of its own"
        )
    if any(tensor.dtype == torch.float64 for tensor in best.state.values()):
        module.double()
    noted = rebased(versions, best.prefix) if versions else {}
    named = OrderedDict((wrapper + name, tensor) for name, tensor in best.state.items())
    # torch hands a module the version of its stored form by this attribute; without one, the form is this version's
    named._metadata = {  # type: ignore[attr-defined]
        name: noted.get(f"{name}."[len(wrapper) : -1], entry)
        for name, entry in versions_of(module.state_dict()).items()
    }
    try:
        module.load_state_dict(named, strict=False)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:  # a module's own way of taking its tensors
        raise CheckpointError(f"{source} does not fit {arch}: {str(error).strip()[:200]}") from error
    return best


def _check_fit(best: Fit, own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, arch: str) -> None:
    """CheckpointError that says what is missing, unexpected or of another shape."""
    if not best.complete:
        reshaped = [f"{n}: {_kind(best.state[n])} for {_kind(own[n])}" for n in best.reshaped]
        groups = [("missing", best.missing), ("unexpected", best.unexpected), ("of another shape", reshaped)]
        problems = [f"{len(names)} {what} ({shown(names)})" for what, names in groups if names]
        raise CheckpointError(
            f"{source} does not fit {arch}: tensors {', '.join(problems)}. Is it a checkpoint of another architecture"
            f"{_nearest(identify(state)) or '?'}"
        )


def half_precision(module: nn.Module, checkpoint: Checkpoint) -> Precision:
    """Which of the module's tensors the checkpoint stores in half precision, by the module's names."""
    own, wrapper = _own(module)
    stored = stored_precision(fit(own, _named(checkpoint, own))[0].state)
    return {wrapper + name: dtype for name, dtype in stored.items()}


def _named(checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The checkpoint's tensors by the names under which they fit: what was taken off may have been the network's own.

    All tensors of a Llama whose head is tied stand in its `model`.
    """
    if not checkpoint.prefix or fit(own, checkpoint.state)[0].complete:
        return checkpoint.state
    whole = {checkpoint.prefix + name: tensor for name, tensor in checkpoint.state.items()}
    return whole if fit(own, whole)[0].complete else checkpoint.state


def _own(module: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The module's tensors, without the prefix of wrappers, and that prefix."""
    return strip(module.state_dict(keep_vars=True))


def replay(module: nn.Module, plan: Mapping[str, Any], problem: str) -> None:
    """Shrink, or widen, the module as a stored plan says. CheckpointError, begun by `problem`, where that fails."""
    from extcon_cli.channels import RemovalPlan, remove
    from extcon_cli.channels.widening import KEY, WideningPlan, add

    wider = KEY in plan
    try:
        if wider:
            add(module, WideningPlan.from_json(plan))
        else:
            remove(module, RemovalPlan.from_json(plan))
    except Exception as error:  # a plan from a hostile file may fail in any way
        kind = "widening" if wider else "removal"
        raise CheckpointError(f"{problem} with its {kind} plan: {str(error)[:200]}") from error


def _kind(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _nearest(candidates: list[Candidate]) -> str:
    near = [str(candidate) for candidate in candidates if candidate.score >= 0.1][:3]
    return f"; nearest: {'; '.join(near)}" if near else ""

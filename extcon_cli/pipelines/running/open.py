"""The first step of every command: from a checkpoint and a recipe to a module that holds its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.checkpoint.architectures import default_input_shape
from extcon_cli.checkpoint.folder import is_transformers
from extcon_cli.checkpoint.huggingface.examples import example_inputs, without_cache
from extcon_cli.checkpoint.huggingface.folder import Folder, read_folder
from extcon_cli.checkpoint.limits import check_inputs
from extcon_cli.checkpoint.load import half_precision, recognise, restore
from extcon_cli.checkpoint.pickled import architecture
from extcon_cli.checkpoint.precision import Precision
from extcon_cli.checkpoint.read import LARGE, Checkpoint, read
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import CheckpointError, RecipeError, UsageError
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.pipelines.running.inputs import made
from extcon_cli.recipe.inputs import InputKind
from extcon_cli.recipe.schema import ModelSpec, Recipe
from extcon_cli.tasks import TASKS


@dataclass(frozen=True)
class Opened:
    """A checkpoint with its module."""

    module: nn.Module
    """In eval mode, on the CPU, in float32 or float64; of a checkpoint that extcon shrank, the shrunk module."""
    checkpoint: Checkpoint
    arch: ModelSpec
    """All fields filled in; only `arch` is None for a pickled module of an unknown class."""
    recipe: Recipe
    """The recipe with `model` replaced by `arch`."""
    folder: Folder | None = None
    """Of transformers, where the checkpoint is one."""

    @cached_property
    def precision(self) -> Precision:
        """Which of the module's tensors are stored in half precision, and will be."""
        return half_precision(self.module, self.checkpoint) if self.folder is None else self.folder.precision

    @property
    def dtype(self) -> torch.dtype:
        """What the module computes in."""
        return torch.float64 if _is_double(self.module) else torch.float32

    @property
    def example(self) -> Inputs:
        """A batch of two inputs: zeros, and whole numbers within their range; of a folder as its configuration asks."""
        if self.arch.inputs is not None:
            return made(self.arch.inputs, dtype=self.dtype)
        if self.folder is not None:
            return example_inputs(self.module)
        return (torch.zeros(2, *(self.arch.input_shape or ()), dtype=self.dtype),)

    @property
    def examples(self) -> list[Inputs]:
        """The example, and one of each other shape that the recipe names."""
        return [self.example, *((torch.zeros(2, *shape, dtype=self.dtype),) for shape in self.arch.examples)]


def open_model(
    path: str | Path,
    recipe: Recipe,
    *,
    trust: Trust = UNTRUSTED,
    data_shape: tuple[int, ...] | None = None,
    like: ModelSpec | None = None,
    sparing: bool = False,
    emit: Emit = ignore,
) -> Opened:
    """Open a checkpoint as the recipe's architecture, else as its metadata say, else as its tensors fit.

    A factory that the recipe names needs `trust.named_code`, one that the checkpoint names `trust.code`.
    The input's shape: recipe, metadata, `data_shape`, `like` (of a model beside it), the architecture's custom.
    `sparing`: large tensors are read when they are used, for a caller that trains nothing; of a folder where its
    copies would not fit into memory, else where the checkpoint's file is large.
    CheckpointError if it cannot be read or does not fit; UsageError if the recipe's architecture cannot be built;
    RecipeError if nothing tells the input's shape.
    """
    if is_transformers(path):
        return _open_folder(Path(path), recipe, trust, sparing, emit)
    checkpoint = read(path, trust_pickle=trust.pickle)
    in_place = sparing and _is_large(checkpoint)
    module, arch, kwargs = _module(checkpoint, recipe.model, trust, emit, in_place=in_place)
    known = (recipe.model, checkpoint.metadata, like)
    shape, inputs = next(((s.input_shape, s.inputs) for s in known if s and (s.input_shape or s.inputs)), (None, None))
    shape = shape or data_shape
    if shape is None and inputs is None and arch is not None:
        shape = default_input_shape(arch, kwargs)
    if shape is None and inputs is None:
        raise RecipeError(
            f"{path}: the shape of its input is not known; give it without the batch, such as "
            "--set model.input_shape=[3,32,32] (numbers of another kind: model.inputs)"
        )
    if recipe.task in TASKS:
        TASKS[recipe.task]().ready(module)
    kinds = (InputKind.parse(text).shape for text in (inputs or {}).values())
    check_inputs([*([shape] if shape else []), *recipe.model.examples, *kinds], path)
    if not _is_double(module) and not is_deferred(module):
        module.float()  # half precision is how numbers are stored; one computes with more
    spec = recipe.model.model_copy(update={"arch": arch, "kwargs": kwargs, "input_shape": shape, "inputs": inputs})
    return Opened(module, checkpoint, spec, recipe.model_copy(update={"model": spec}))


def _open_folder(path: Path, recipe: Recipe, trust: Trust, sparing: bool, emit: Emit) -> Opened:
    """Open a folder of transformers, as its configuration says; without caches, which training does not need."""
    folder = read_folder(path, trust_code=trust.code, sparing=sparing, emit=emit)
    module = folder.module
    without_cache(module)
    if not _is_double(module) and not is_deferred(module):
        module.float()
    state = {name: torch.empty_like(t, dtype=folder.precision.get(name, t.dtype), device="meta")
             for name, t in module.state_dict().items()}  # fmt: skip
    spec = recipe.model.model_copy(update={"arch": folder.arch, "kwargs": {}, "input_shape": None})
    checkpoint = Checkpoint(path, state, folder.metadata, folder.sha256)
    return Opened(module, checkpoint, spec, recipe.model_copy(update={"model": spec}), folder)


def _is_large(checkpoint: Checkpoint) -> bool:
    """Whether its tensors stay in its file; float64 is read as a whole."""
    tensors = checkpoint.state.values()
    whole = checkpoint.module is not None or any(tensor.dtype == torch.float64 for tensor in tensors)
    return not whole and sum(tensor.nbytes for tensor in tensors) > LARGE


def _is_double(module: nn.Module) -> bool:
    return any(parameter.dtype == torch.float64 for parameter in module.parameters())


def _module(
    checkpoint: Checkpoint, wanted: ModelSpec, trust: Trust, emit: Emit, *, in_place: bool = False
) -> tuple[nn.Module, str | None, dict[str, Any]]:
    """The module, and the name and arguments that build it."""
    if wanted.arch is not None:
        code = trust.named_code
        module = restore(checkpoint, wanted.arch, wanted.kwargs, trust_code=code, in_place=in_place, emit=emit)
        return module, wanted.arch, wanted.kwargs
    if checkpoint.module is not None:
        known = architecture(checkpoint.module, checkpoint.state, checkpoint.path.parent)
        if known is None:
            kind = type(checkpoint.module).__qualname__
            text = f"what is made of it loads into a {kind} of yours alone: load(path, model={kind}(...))"
            emit(Noted(f"{checkpoint.path}: {text}", warning=True))
            return checkpoint.module.cpu().eval(), None, {}
        return checkpoint.module.cpu().eval(), known.arch, known.kwargs
    metadata = checkpoint.metadata
    if metadata is not None and metadata.arch is None:
        raise CheckpointError(f"{checkpoint.path} does not name its architecture: name it in a recipe, as model.arch")
    told = recognise(checkpoint, emit) if metadata is None else metadata
    arch, kwargs = str(told.arch), {**told.kwargs, **wanted.kwargs}
    try:
        module = restore(checkpoint, arch, kwargs, trust_code=trust.code, in_place=in_place, emit=emit)
    except UsageError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    return module, arch, kwargs

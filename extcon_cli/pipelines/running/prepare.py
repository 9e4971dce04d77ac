"""What every command that runs a model on data starts with: the data, the model, and whether the two fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.checkpoint.architectures import build, default_input_shape
from extcon_cli.checkpoint.habits import habit
from extcon_cli.checkpoint.precision import Precision
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.data.datasets import Data, open_data
from extcon_cli.data.kinds import PICTURES
from extcon_cli.data.splits import TEST_SHARE
from extcon_cli.errors import CheckpointError, DataError, ExtconError, RecipeError, first_line
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.pipelines.running.inputs import described, moved
from extcon_cli.pipelines.running.open import Opened, open_model
from extcon_cli.pipelines.running.own_task import find_task
from extcon_cli.recipe.schema import DataSpec, ModelSpec, Recipe
from extcon_cli.tasks import Batch, Task
from extcon_cli.tasks.base import samples_in

BYTES = 256
"""Tokens of a text without a tokenizer."""


@dataclass(frozen=True)
class Prepared:
    """A model and its data."""

    module: nn.Module
    """On the CPU, in float32; of a checkpoint in eval mode."""
    data: Data
    recipe: Recipe
    """With `model` and `data.normalize` filled in, as they go into an output."""
    opened: Opened | None
    """The checkpoint; None: the model is new."""
    task: Task
    example: Inputs
    """Two training samples as the arguments of a forward pass, on the CPU."""

    @property
    def test_caution(self) -> str | None:
        """Why the test figures say less than they seem to. None: nothing speaks against them.

        Of data without a test part a random one is held out. extcon never trains on it; whoever trained the
        checkpoint may have.
        """
        if not self.data.test_is_cut or self.opened is None or _trained_here(self.opened, self.data):
            return None
        where = self.data.spec.root or self.data.spec.dataset
        return (
            f"the test data are a random {TEST_SHARE:.0%} of {where}, which has no test part: "
            "rows your model may have been trained on"
        )

    def example_on(self, device: torch.device) -> Inputs:
        """The example on a device."""
        return moved(self.example, device)

    def shorter(self) -> Prepared:
        """The same with one evaluation batch of the validation and of the test data: enough to try a command out."""
        data, first = self.data, torch.arange(self.data.spec.eval_batch_size)
        validation, test = (
            split.select(first) if len(split) > len(first) else split for split in (data.validation, data.test)
        )
        return replace(self, data=replace(data, validation=validation, test=test))

    @property
    def precision(self) -> Precision:
        """Which tensors were stored in half precision, and will be."""
        return self.opened.precision if self.opened is not None else {}


def prepare(
    recipe: Recipe,
    checkpoint: Path | None,
    *,
    trust: Trust = UNTRUSTED,
    sparing: bool = False,
    emit: Emit = ignore,
) -> Prepared:
    """Open the data and the checkpoint (None: build the recipe's architecture, by torch's seed), and try one input.

    `sparing`: as in `open_model`; where tensors are read when they are used, a batch is one sample.

    Errors: of data, checkpoint, recipe.
    """
    trusted, task = (
        trust.named_code,
        find_task(recipe.task, trust, checkpoint.parent if checkpoint is not None else None),
    )
    spec, shape = recipe.data, recipe.model.input_shape
    if checkpoint is None and recipe.model.arch is None:
        raise RecipeError("the recipe names no architecture: set model.arch, such as zoo:digits_resnet")
    if shape is None and recipe.model.arch is not None:
        shape = default_input_shape(recipe.model.arch, recipe.model.kwargs) if _resizes(recipe) else None
    if checkpoint is None and spec is not None:
        spec = _resized(spec, recipe.model.model_copy(update={"input_shape": shape}), emit)
    data = open_data(
        spec, recipe.task, seed=recipe.seed, input_shape=shape, trust_code=trusted, measure=checkpoint is None
    )
    opened = None
    if checkpoint is None:
        module = build(str(recipe.model.arch), recipe.model.kwargs, trust_code=trusted)
        arch = recipe.model.model_copy(update={"input_shape": data.input_shape})
    else:
        opened = open_model(
            checkpoint,
            recipe,
            trust=trust,
            data_shape=data.input_shape,
            sparing=sparing,
            emit=emit,
        )
        module, arch = opened.module, opened.arch
        stored = opened.checkpoint.metadata.normalize if opened.checkpoint.metadata else None
        known = _resized(data.spec.model_copy(update={"normalize": data.spec.normalize or stored}), arch, emit)
        if arch.input_shape not in (None, data.input_shape) or known != data.spec:
            data = open_data(
                known,
                recipe.task,
                seed=recipe.seed,
                input_shape=arch.input_shape,
                trust_code=trusted,
                measure=False,
            )
        _check_tokens(opened, data, emit)
        data = data.measured()
    for note in data.notes:
        emit(Noted(note, warning=True))
    if data.reader is not None:
        data.reader.on_skip = lambda line: emit(Noted(line, warning=True))
    data = data.tried()
    if is_deferred(module):
        data = replace(data, spec=data.spec.model_copy(update={"batch_size": 1, "eval_batch_size": 1}))
        module.requires_grad_(False)
    else:
        module.float()
    task.ready(module)
    batch = data.example(2, device="cpu")
    example = task.example(batch[0])
    if (inputs := described(example)) is not None:
        arch = arch.model_copy(update={"inputs": inputs, "input_shape": None})
        opened = opened and replace(opened, arch=arch)
    outputs = _outputs(module, task, batch)
    classes = task.check(outputs, batch[1], data.classes)
    if data.classes is not None and classes is not None and data.classes < classes:
        emit(Noted(f"the model has {classes} outputs, the data {data.classes} classes: is it theirs?", warning=True))
    data = replace(data, classes=data.classes if data.classes is not None else classes)
    filled = data.spec.model_copy(update={"normalize": data.normalize})
    prepared = Prepared(module, data, recipe.model_copy(update={"model": arch, "data": filled}), opened, task, example)
    if prepared.test_caution is not None:
        emit(Noted(prepared.test_caution, warning=True))
    return prepared


def _check_tokens(opened: Opened, data: Data, emit: Emit) -> None:
    """Text is read as bytes where nobody names a tokenizer: do they mean anything to a folder's model?

    DataError where it has too few tokens for them; a warning where it has many more.
    """
    folder = opened.folder
    if folder is None or data.spec.dataset.lower() != "text" or data.spec.tokenizer is not None:
        return
    known = getattr(folder.config.get_text_config(), "vocab_size", BYTES)
    text = f"{folder.path} has no tokenizer, so that each byte of the text is a token"
    if known < BYTES:
        raise DataError(f"{text}; the model knows {known}: name its tokenizer's folder in data.tokenizer")
    if known > 2 * BYTES:
        emit(Noted(f"{text}; the model knows {known}: is data.tokenizer missing?", warning=True))


def _resizes(recipe: Recipe) -> bool:
    """Do the data take the model's shape, rather than the model the data's?"""
    return recipe.data is not None and recipe.data.dataset.lower() in PICTURES


def _resized(spec: DataSpec, arch: ModelSpec, emit: Emit) -> DataSpec:
    """With the way in which the architecture's library makes inputs of pictures, where the input has their size."""
    if spec.resize is not None or spec.dataset.lower() not in PICTURES or arch.arch is None:
        return spec
    custom = habit(arch.arch, arch.kwargs)
    if custom is None or custom.resize is None or custom.input_shape != arch.input_shape:
        return spec
    shown = ", ".join(f"{key}: {value}" for key, value in custom.resize.model_dump().items())
    emit(Noted(f"data.resize: {{{shown}}} ({custom.source})"))
    return spec.model_copy(update={"resize": custom.resize})


def _trained_here(opened: Opened, data: Data) -> bool:
    """Did extcon train the checkpoint from its first step, and on the training part of the same data?"""
    metadata = opened.checkpoint.metadata
    if metadata is None or not metadata.history or metadata.history[0].get("command") != "train":
        return False
    before = metadata.recipe.get("data")
    same = ("dataset", "root")
    return isinstance(before, dict) and all(before.get(key) == getattr(data.spec, key) for key in same)


def _outputs(module: nn.Module, task: Task, batch: Batch) -> Any:
    """The model's outputs on a batch, in eval mode."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            outputs = task.forward(module, batch)
    except ExtconError:
        raise
    except Exception as error:  # a model's forward pass may fail in any way
        shapes = ", ".join(str(list(leaf.shape[1:])) for leaf in tree_leaves(batch[0]) if isinstance(leaf, Tensor))
        raise DataError(f"the model does not take an input of {shapes}: {first_line(error)}") from error
    finally:
        module.train(training)
    rows, samples = samples_in(outputs), samples_in(batch[0])
    if isinstance(outputs, Tensor) and rows != samples:
        raise CheckpointError(f"the model gives {tuple(outputs.shape)} for {samples} samples; one row each is needed")
    return outputs

"""What every command that runs a model on data starts with: the data, the model, and whether the two fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from extcon_cli.checkpoint.architectures import build, default_input_shape
from extcon_cli.checkpoint.precision import Precision, stored_precision
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.data.datasets import Data, open_data
from extcon_cli.errors import CheckpointError, DataError, ExtconError, RecipeError
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.pipelines.open import Opened, open_model
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.objective import prediction


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

    @property
    def precision(self) -> Precision:
        """Which tensors were stored in half precision, and will be."""
        return stored_precision(self.opened.checkpoint.state) if self.opened is not None else {}


def prepare(
    recipe: Recipe,
    checkpoint: Path | None,
    *,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> Prepared:
    """Open the data and the checkpoint (None: build the recipe's architecture, by torch's seed), and try one input.

    Errors: of data, checkpoint, recipe.
    """
    trusted = trust.named_code
    spec, shape = recipe.data, recipe.model.input_shape
    if checkpoint is None and recipe.model.arch is None:
        raise RecipeError("the recipe names no architecture: set model.arch, such as zoo:digits_resnet")
    if shape is None and recipe.model.arch is not None:
        shape = default_input_shape(recipe.model.arch, recipe.model.kwargs) if _resizes(recipe) else None
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
            emit=emit,
        )
        module, arch = opened.module, opened.arch
        stored = opened.checkpoint.metadata.normalize if opened.checkpoint.metadata else None
        if arch.input_shape != data.input_shape or (data.spec.normalize is None and stored is not None):
            known = data.spec.model_copy(update={"normalize": data.spec.normalize or stored})
            data = open_data(
                known,
                recipe.task,
                seed=recipe.seed,
                input_shape=arch.input_shape,
                trust_code=trusted,
                measure=False,
            )
        data = data.measured()
    for note in data.notes:
        emit(Noted(note, warning=True))
    module.float()
    outputs = _output_shape(module, data)
    if data.task == "classification" and data.classes is not None and len(outputs) == 1 and data.classes < outputs[0]:
        emit(Noted(f"the model has {outputs[0]} outputs, the data {data.classes} classes: is it theirs?", warning=True))
    data = data.check_outputs(outputs)
    filled = data.spec.model_copy(update={"normalize": data.normalize})
    return Prepared(module, data, recipe.model_copy(update={"model": arch, "data": filled}), opened)


def _resizes(recipe: Recipe) -> bool:
    """Do the data take the model's shape, rather than the model the data's?"""
    return recipe.data is not None and recipe.data.dataset.lower() in ("image_folder", "imagenet")


def _output_shape(module: nn.Module, data: Data) -> tuple[int, ...]:
    """The shape of one sample's output; runs the model on two samples, in eval mode."""
    x, _ = data.example(2, device="cpu")
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            output = prediction(module(x))
    except ExtconError:
        raise
    except Exception as error:  # a model's forward pass may fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"the model does not take an input of {list(x.shape[1:])}: {reason}") from error
    finally:
        module.train(training)
    if len(output) != len(x):
        raise CheckpointError(f"the model gives {tuple(output.shape)} for {len(x)} samples; one row each is needed")
    return tuple(output.shape[1:])

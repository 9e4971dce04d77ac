"""`extcon train`: from a recipe, or on from a checkpoint, to a trained checkpoint. Selects on validation data only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from extcon_cli import __version__
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import Interrupted, RecipeError
from extcon_cli.events import Emit, Noted, PhaseEnded, PhaseStarted, RunStarted, Saved, ignore
from extcon_cli.pipelines.measure import measured
from extcon_cli.pipelines.output import SCHEMA, check_output, data_metadata, write_output
from extcon_cli.pipelines.phase import Metrics, Outcome, Validation, interruptible, run_phase, tee_events
from extcon_cli.pipelines.prepare import Prepared, prepare
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.device import Accelerator, create_accelerator
from extcon_cli.training.interrupt import Stop, graceful
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import evaluate, objective
from extcon_cli.training.run_directory import RunDirectory


def train(
    recipe: Recipe,
    *,
    checkpoint: Path | None,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> dict[str, Any]:
    """Train and write `output`; the result document of the command.

    Args:
        recipe: what to do; `train`, `data`, `model`, `task`, `seed` count.
        checkpoint: go on from here; None: from scratch.
        output: .safetensors, or .pt/.pth for a plain state dict. Beside it, `OUTPUT.run/` holds the run.
        device: `cpu`, `cuda`, ...; None: the best there is.
        resume: go on with the run in `OUTPUT.run/`, where there is one.
        force: overwrite the output.
        trust: may code of the checkpoint, its pickles, code the recipe names run?

    Raises: Interrupted (resumable) on Ctrl-C or SIGTERM; GateError where the loss is not finite.
    """
    began = time.monotonic()
    check_output(output, force=force)
    accelerator = create_accelerator(device, recipe.train.mixed_precision)
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, checkpoint, trust=trust)
    inputs = {"command": "train", "checkpoint": prepared.opened.checkpoint.sha256 if prepared.opened else None}
    run = RunDirectory(Path(f"{output}.run"), prepared.recipe, inputs)
    resume_state = run.begin(resume=resume)
    emit = tee_events(emit, run)
    subject = str(checkpoint or prepared.recipe.model.arch)
    emit(RunStarted("train", subject, str(output), str(accelerator.device), recipe.seed))
    if recipe.data and recipe.data.normalize is None and (used := prepared.data.normalize):
        emit(Noted(f"inputs normalised by mean {list(used.mean)}, std {list(used.std)}"))
    with graceful() as stop:
        try:
            outcome = _fit(prepared, accelerator, run, resume_state and resume_state[1], stop, emit)
            metrics = _measure(prepared, accelerator, stop, emit)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted; the state is kept in {run.path}: repeat the command with --resume to go on"
            ) from error
    module = prepared.module.cpu().eval()
    done = {
        "command": "train",
        "version": __version__,
        "metrics": metrics["test"],
        "validation": metrics["validation"],
        "params": sum(p.numel() for p in module.parameters()),
    }
    write_output(output, module, data_metadata(prepared, done), force=force)
    emit(Saved(str(output)))
    return {
        "schema": SCHEMA,
        **done,
        "checkpoint": str(checkpoint) if checkpoint else None,
        "output": str(output),
        "recipe": to_dict(prepared.recipe),
        "seed": recipe.seed,
        "device": str(accelerator.device),
        "best_step": outcome.best_step,
        "history": {"phases": [outcome.history]},
        "seconds": {"train": outcome.seconds, "total": time.monotonic() - began},
    }


def _fit(
    prepared: Prepared,
    accelerator: Accelerator,
    run: RunDirectory,
    resume_state: dict[str, Any] | None,
    stop: Stop,
    emit: Emit,
) -> Outcome:
    """The training phase; the module ends with the kept state."""
    recipe, data = prepared.recipe, prepared.data
    spec = recipe.train
    module = prepared.module.to(accelerator.device)
    trainer = Trainer(
        module,
        data.train_loader(device=accelerator.device, seed=recipe.seed),
        spec,
        objective=objective(recipe.task, label_smoothing=spec.label_smoothing, distill=spec.distill),
        accelerator=accelerator,
        teacher=_teacher(prepared, accelerator),
    )
    validation = None
    if len(data.validation):
        loader = data.eval_loader("validation", device=accelerator.device)

        def measure() -> Metrics:
            return evaluate(module, interruptible(iter(loader), stop), recipe.task)

        validation = Validation(measure, recipe.task, spec.evaluate_every, spec.keep == "best")
    return run_phase(
        "train", "Training", trainer, emit=emit, stop=stop, run=run, resume_state=resume_state, validation=validation
    )


def _teacher(prepared: Prepared, accelerator: Accelerator) -> nn.Module | None:
    """The model before the run, where the recipe distils from it."""
    if prepared.recipe.train.distill is None:
        return None
    if prepared.opened is None:
        raise RecipeError("train.distill needs a model to learn from: start from a checkpoint, or remove the key")
    from copy import deepcopy

    return deepcopy(prepared.module).to(accelerator.device).requires_grad_(False)


def _measure(prepared: Prepared, accelerator: Accelerator, stop: Stop, emit: Emit) -> dict[str, Metrics | None]:
    """Validation and test figures of the module as it is."""
    began = time.monotonic()
    emit(PhaseStarted("evaluate", "Measuring", None, "batch"))
    found: dict[str, Metrics | None] = {}
    for name in ("validation", "test"):
        found[name] = measured(prepared.module, prepared.data, name, accelerator, stop)
    emit(PhaseEnded("evaluate", time.monotonic() - began, found["test"] or {}))
    return found

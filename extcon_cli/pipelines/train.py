"""`extcon train`: from a recipe, or on from a checkpoint, to a trained checkpoint. Selects on validation data only."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from extcon_cli.bypass.growth import Growth
from extcon_cli.channels import channel_groups
from extcon_cli.checkpoint.precision import round_to
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import RecipeError
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.pipelines.guided import fit_guided
from extcon_cli.pipelines.running.phase import Outcome, run_phase
from extcon_cli.pipelines.running.run import Run
from extcon_cli.pipelines.running.start import start_run
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.train import TrainHistory, TrainRecord, TrainResult
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import objective


def train(
    recipe: Recipe,
    *,
    checkpoint: Path | None,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    keep_run: bool = True,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
    rehearsal: bool = False,
) -> TrainResult:
    """Train and write `output`.

    Args:
        recipe: what to do; `train`, `data`, `model`, `task`, `seed` count.
        checkpoint: go on from here; None: from scratch.
        output: .safetensors, or .pt/.pth for a plain state dict. Beside it, `OUTPUT.run/` holds the run.
        keep_run: let the run's folder be there afterwards.
        device, resume, force, trust, rehearsal: as in `start_run`.

    Raises: Interrupted (resumable) on Ctrl-C or SIGTERM; GateError where the loss is not finite.
    """
    with start_run(
        "train", recipe, checkpoint, output=output, device=device, speed=recipe.train, resume=resume,
        force=force, trust=trust, emit=emit, rehearsal=rehearsal, plain=True,
    ) as run:  # fmt: skip
        if recipe.data and recipe.data.normalize is None and (used := run.prepared.data.normalize):
            run.emit(Noted(f"inputs normalised by mean {list(used.mean)}, std {list(used.std)}"))
        guides, outcome = fit_guided(run) if run.recipe.train.guides else ([], _fit(run))
        round_to(run.prepared.module, run.prepared.precision)
        with run.phase("evaluate", "Measuring", reported=False) as closing:
            validation = run.metrics(run.prepared.module, "validation")
            test = run.metrics(run.prepared.module, "test")
            closing.update(test)
    module = run.prepared.module.cpu().eval()
    params = sum(p.numel() for p in module.parameters())
    record = TrainRecord(metrics=test, validation=validation or None, params=params)
    run.write(module, record)
    run.finish(keep=keep_run)
    return TrainResult(
        metrics=record.metrics,
        validation=record.validation,
        params=record.params,
        best_step=outcome.best_step,
        kept=outcome.kept,
        history=TrainHistory((*guides, outcome.record)),
        run=run.facts(),
    )


def _fit(run: Run) -> Outcome:
    """The training phase; the module ends with the kept state."""
    spec = run.recipe.train
    module = run.prepared.module.to(run.device)
    trainer = run.trainer(
        module,
        run.prepared.data.train_loader(device=run.device, seed=run.recipe.seed, share=run.processes.share),
        spec,
        objective=objective(run.prepared.task, label_smoothing=spec.label_smoothing, distill=spec.distill),
        teacher=_teacher(run),
    )
    growth = _growth(run, module, trainer)
    outcome = run_phase(
        "train",
        "Training",
        trainer,
        emit=run.emit,
        stop=run.stop,
        run=run.directory,
        resume_state=run.resume_state.payload if run.resume_state is not None else None,
        validation=run.validation(trainer.model, every=spec.evaluate_every, keep=spec.keep, sharded=run.shards(spec)),
        after_step=(lambda step: {"layers": growth.after_step(step.index, trainer.optimizer)}) if growth else None,
        average=spec.average,
    )
    trainer.give_back(module)
    module.to(run.device)
    run.seconds["train"] = outcome.seconds
    return outcome


def _growth(run: Run, module: nn.Module, trainer: Trainer) -> Growth | None:
    """What lets the model grow, where the recipe asks for it; a run that goes on has its weights loaded after."""
    if run.recipe.train.grow is None:
        return None
    if run.prepared.opened is not None:
        raise RecipeError("train.grow begins at new weights: leave the checkpoint out, or remove the key")
    example = run.prepared.example_on(run.device)
    growth = Growth(module, channel_groups(module, example), example, steps=trainer.total)
    run.emit(Noted(f"growing in depth: {len(growth.layers)} layers come in over the first half of the steps"))
    return growth


def _teacher(run: Run) -> nn.Module | None:
    """The model before the run, where the recipe distils from it."""
    if run.recipe.train.distill is None:
        return None
    if run.prepared.opened is None:
        raise RecipeError("train.distill needs a model to learn from: start from a checkpoint, or remove the key")
    return copy.deepcopy(run.prepared.module).to(run.device).requires_grad_(False)

"""Training with guides (`train.guides`): simpler forms of the model first, each guided by the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from extcon_cli.bypass.abstraction import OUTPUTS, Guided, contracted, strength
from extcon_cli.errors import RecipeError
from extcon_cli.events import Noted
from extcon_cli.pipelines.running.phase import Outcome, run_phase
from extcon_cli.pipelines.running.rehearsal import guide_name
from extcon_cli.pipelines.running.run import Run
from extcon_cli.recipe.schema import DistillSpec
from extcon_cli.report.results.records import PhaseRecord
from extcon_cli.report.serialise import from_json, to_json
from extcon_cli.training.loop import Step
from extcon_cli.training.objective import objective


@dataclass(frozen=True)
class Trained:
    """A guide that is trained."""

    weights: Mapping[str, Any]
    record: PhaseRecord
    seconds: float

    def to_payload(self) -> dict[str, object]:
        """As a run directory keeps it."""
        return {"weights": self.weights, "record": to_json(self.record), "seconds": self.seconds}

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Trained:
        """From what a run directory has kept."""
        return cls(payload["weights"], from_json(PhaseRecord, payload["record"]), payload["seconds"])


def fit_guided(run: Run) -> tuple[list[PhaseRecord], Outcome]:
    """The guides one after the other, then the model, which ends with the kept state.

    Returns: what each guide's phase left, and the model's.
    Raises: RecipeError (a checkpoint; several processes; a task without outputs to learn from), UsageError (the
    architecture has no simpler form), as `run_phase`.
    """
    networks = _networks(run)
    kept, device = run.resume_state, run.device
    trained = [Trained.of(item) for item in kept.payload["more"]["guides"]] if kept is not None else []
    *guides, (last, model) = networks.items()
    guide: nn.Module | None = None
    for place, (name, network) in enumerate(guides):
        network.to(device)
        if place < len(trained):
            network.load_state_dict(trained[place].weights)
        else:
            outcome = _phase(run, name, network, guide, trained)
            trained.append(Trained(network.state_dict(), outcome.record, outcome.seconds))
        run.seconds[name] = trained[place].seconds
        guide = network
    outcome = _phase(run, last, model.to(device), guide, trained)
    run.seconds[last] = outcome.seconds
    return [item.record for item in trained], outcome


def _networks(run: Run) -> dict[str, nn.Module]:
    """The guides and the model with new weights, by the names of their phases, the simplest first."""
    spec, prepared = run.recipe.train, run.prepared
    if prepared.opened is not None:
        raise RecipeError("train.guides begins at new weights: leave the checkpoint out, or remove the key")
    if run.processes.several:
        raise RecipeError("train.guides works in one process: start extcon without torchrun, or remove the key")
    if not prepared.task.teachable:
        raise RecipeError(f"train.guides: a model for {run.recipe.task} does not learn from another's outputs")
    guides = {guide_name(share): contracted(prepared.module, prepared.example, share) for share in spec.guides}
    networks = guides | {"train": prepared.module}
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    said = ", ".join(f"{name} has {sizes[name]:,}" for name in guides)
    run.emit(Noted(f"the model has {sizes['train']:,} parameters, {said}"))
    return networks


def _phase(run: Run, name: str, network: nn.Module, guide: nn.Module | None, trained: Sequence[Trained]) -> Outcome:
    """Train one network, guided where there is a simpler one; it ends with the kept state."""
    spec, task, kept = run.recipe.train, run.prepared.task, run.resume_state
    resumed = kept.payload if kept is not None and kept.phase == name else None
    torch.manual_seed(run.recipe.seed)
    guided = Guided(network, guide, run.prepared.example_on(run.device)) if guide is not None else None
    trainer = run.trainer(
        guided or network,
        run.prepared.data.train_loader(device=run.device, seed=run.recipe.seed),
        spec,
        objective=objective(task, label_smoothing=spec.label_smoothing),
        penalty=guided.penalty if guided is not None else None,
    )

    def weaken(done: int) -> None:
        if guided is not None:
            guided.strength = strength(done, trainer.total)
            soft = DistillSpec(weight=OUTPUTS * guided.strength) if guided.strength else None
            trainer.objective = objective(task, label_smoothing=spec.label_smoothing, distill=soft)
            trainer.teacher = guided.teacher

    def after_step(step: Step) -> dict[str, float] | None:
        weaken(step.index + 1)
        return {"guidance": guided.strength} if guided is not None else None

    weaken(resumed["trainer"]["done"] if resumed is not None else 0)
    return run_phase(
        name,
        "Training" if name == "train" else f"Training the {name}",
        trainer,
        emit=run.emit,
        stop=run.stop,
        run=run.directory,
        resume_state=resumed,
        validation=run.validation(network, every=spec.evaluate_every, keep=spec.keep),
        after_step=after_step,
        more_state=lambda: {"guides": [item.to_payload() for item in trained]},
        average=spec.average,
    )

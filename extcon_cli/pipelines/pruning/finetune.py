"""The last phase of pruning: the smaller model trains on, guided by the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extcon_cli.pipelines.pruning.prune_run import PruneRun
from extcon_cli.pipelines.pruning.removal import Removed
from extcon_cli.pipelines.running.phase import Outcome, run_phase
from extcon_cli.report.serialise import to_json


def finetune(pruning: PruneRun, removal: Removed, resume_state: Mapping[str, Any] | None) -> Outcome | None:
    """Train the smaller model; it ends with the state that the recipe keeps. None: the recipe takes no steps."""
    run, spec = pruning.run, pruning.spec.finetune
    if spec.steps == 0:
        return None
    trainer = pruning.trainer(4, spec, removal.module)
    outcome = run_phase(
        "finetune",
        "Fine-tuning",
        trainer,
        emit=run.emit,
        stop=run.stop,
        run=run.directory,
        resume_state=resume_state,
        validation=run.validation(
            trainer.model, every=spec.evaluate_every, keep=spec.keep, before=True, sharded=run.shards(spec)
        ),
        average=spec.average,
        more_state=lambda: {"removal": to_json(removal.record)},
    )
    trainer.give_back(removal.module)
    removal.module.to(run.device)
    run.seconds["finetune"] = outcome.seconds
    return outcome

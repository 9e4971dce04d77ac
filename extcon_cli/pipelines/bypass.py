"""`extcon bypass`: diagnose, probe, extend and contract, and compare with going on (DESIGN.md, section 2).

The result is the best of theta*, the baseline and the extended ways by the loss on the validation data. Controls are
compared with and never chosen. `cycles` repeats all of it from the best so far.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from extcon_cli import __version__
from extcon_cli.bypass.strategies import EXTENSIONS
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.write import check_writable, write
from extcon_cli.errors import DataError, GateError, Interrupted
from extcon_cli.events import Emit, RunStarted, Saved, ignore
from extcon_cli.pipelines.comparison import Comparison, way_of
from extcon_cli.pipelines.output import data_metadata, widths
from extcon_cli.pipelines.phase import tee_events
from extcon_cli.pipelines.prepare import prepare
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.bypass_results import NO_GAIN, BypassRecord, BypassResult
from extcon_cli.report.serialise import from_json, to_json
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.interrupt import graceful
from extcon_cli.training.run_directory import RunDirectory


def bypass(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    go_on: bool = False,
    require_gain: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> BypassResult:
    """Bypass where a checkpoint is stalled, and write the best model to `output`; the result document.

    Args:
        go_on: though the probe predicts no gain.
        require_gain: GateError, and nothing written, where no extended model is the best.
        the others: as in `prune`.
    """
    began = time.monotonic()
    check_writable(output, force)
    accelerator = create_accelerator(device, "no")
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, checkpoint, trust=trust)
    assert prepared.opened is not None
    if not len(prepared.data.validation):
        raise DataError("bypass chooses by validation data: set data.validation above 0")
    run = RunDirectory(
        Path(f"{output}.run"), prepared.recipe, {"command": "bypass", "checkpoint": prepared.opened.checkpoint.sha256}
    )
    resume_state = run.begin(resume=resume)
    emit = tee_events(emit, run)
    emit(RunStarted("bypass", str(checkpoint), str(output), str(accelerator.device), recipe.seed))
    with graceful() as stop:
        job = Comparison(prepared, accelerator, run, emit, stop)
        try:
            job.compare(resume_state, go_on=go_on)
            kind = job.best()
            before, after = (job.figures(job.states[name]) for name in ("theta*", kind))
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted; the state is kept in {run.path}: repeat the command with --resume to go on"
            ) from error
    if require_gain and way_of(kind) not in EXTENSIONS:
        raise GateError(f"no gain: the best on the validation data is {kind}; nothing was written")
    done = {
        "command": "bypass",
        "version": __version__,
        "before": before,
        "after": after,
        "verdict": kind if job.branches else NO_GAIN,
        "validation": job.losses,
        "diagnosis": job.diagnosis,
        "certificate": {name: branch["certificate"] for name, branch in job.branches.items() if branch["certificate"]},
    }
    original, module = job.model("theta*").cpu(), job.model(kind).cpu().eval()
    write(output, module, data_metadata(prepared, from_json(BypassRecord, done)), force=force)
    emit(Saved(str(output)))
    document = {
        **done,
        "checkpoint": str(checkpoint),
        "output": str(output),
        "recipe": to_dict(prepared.recipe),
        "seed": recipe.seed,
        "device": str(accelerator.device),
        "layers": [to_json(layer) for layer in widths(original, module, job.input_shape)],
        "history": {"phases": [branch["history"] for branch in job.branches.values()]},
        "seconds": {**job.seconds, "total": time.monotonic() - began},
    }
    return from_json(BypassResult, document)

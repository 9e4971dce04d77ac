"""How a run of `prune`, `bypass` or `train` starts and how it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from extcon_cli.allocator import keeping_freed_memory
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.checkpoint.folder import check_folder, is_transformers
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.write import check_writable
from extcon_cli.data.identity import identity
from extcon_cli.errors import ExtconError, Interrupted, ProcessLost
from extcon_cli.events import Emit, Noted, RunStarted, ignore
from extcon_cli.pipelines.running.output import check_output
from extcon_cli.pipelines.running.phase import tee_events
from extcon_cli.pipelines.running.prepare import Prepared, prepare
from extcon_cli.pipelines.running.run import Run
from extcon_cli.pipelines.running.threads import choose_threads
from extcon_cli.pipelines.running.trial import choose_speed, settled
from extcon_cli.processes import launched
from extcon_cli.recipe.schema import Recipe, SpeedSpec
from extcon_cli.training.determinism import deterministic, wanted
from extcon_cli.training.device import create_accelerator, join
from extcon_cli.training.interrupt import graceful
from extcon_cli.training.run_directory import RunDirectory
from extcon_cli.training.run_lock import RunLock
from extcon_cli.training.whole import remove_temporaries

ECHO = 5.0
"""Seconds in which a signal may come twice where a launcher passes it on."""


@contextmanager
def start_run(
    command: str,
    recipe: Recipe,
    checkpoint: Path | None,
    *,
    output: Path,
    device: str | None = None,
    speed: SpeedSpec | None = None,
    resume: bool = False,
    force: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
    plain: bool = False,
    check: Callable[[Prepared], None] | None = None,
    rehearsal: bool = False,
    sparing: bool = False,
) -> Iterator[Run]:
    """Begin a run, or go on with one; within, Ctrl-C and SIGTERM wait for the end of a step.

    Of several processes the first one checks the output, holds the lock, tells and keeps.

    Args:
        checkpoint: None: the recipe's architecture with new weights.
        device: `cpu`, `cuda`, ...; None: the best there is.
        speed: how training steps are computed; what it leaves open is measured. None: plainly.
        resume: go on with the run in `OUTPUT.run/`, where there is one.
        force: overwrite the output.
        plain: the output may be a plain state dict (.pt, .pth) as well.
        check: refuses what this command cannot work with, before anything is written.
        rehearsal: measure on one evaluation batch.
        sparing: nothing is trained, so that the tensors of a folder too large for its copies may be read when they
            are used (on the CPU).

    Raises: UsageError where the output cannot be written or the kept run is another; errors of data, checkpoint and
    recipe; from within, Interrupted (resumable) in the place of KeyboardInterrupt.
    """
    began = time.monotonic()
    switches = speed or SpeedSpec()
    accelerator = create_accelerator(device, settled(switches).precision, processes=launched())
    processes = join(accelerator)
    emit = emit if processes.first else ignore

    def claim() -> RunLock:
        if checkpoint is not None and is_transformers(checkpoint):
            check_folder(output, force=force, like=checkpoint)
        elif plain:
            check_output(output, force=force)
        else:
            check_writable(output, force)
        return RunLock(folder)

    folder = Path(f"{output}.run")
    lock = processes.on_first(claim)
    try:
        torch.manual_seed(recipe.seed)
        sparing = sparing and accelerator.device.type == "cpu" and not processes.several
        prepared = prepare(recipe, checkpoint, trust=trust, sparing=sparing, emit=emit)
        if check is not None:
            check(prepared)
        prepared = prepared.shorter() if rehearsal else prepared
        directory = RunDirectory(folder, prepared.recipe, _inputs(command, prepared), writes=processes.first)
        if not resume and directory.resumable:
            text = f"{directory.path} held the state of a run that was interrupted: it begins anew (--resume goes on)"
            emit(Noted(text, warning=True))
        kept = processes.once(lambda: directory.begin(resume=resume))
    except BaseException:
        if lock is not None:
            lock.withdraw()
        raise
    if processes.first:
        remove_temporaries(output)
        emit = tee_events(emit, directory)
    subject = str(checkpoint or prepared.recipe.model.arch)
    emit(RunStarted(command, subject, str(output), str(accelerator.device), recipe.seed))
    before = torch.get_num_threads()
    trains_on_cpu = accelerator.device.type == "cpu" and not is_deferred(prepared.module)
    with (
        deterministic(wanted()),
        keeping_freed_memory(wanted=trains_on_cpu),
        graceful(ECHO if processes.several else 0.0) as stop,
    ):
        try:
            threads = processes.once(lambda: choose_threads(prepared, accelerator.device, directory, emit))
            threads.fixed = threads.fixed or processes.several or wanted()
            directory.begin_threads(threads)
            if wanted():
                emit(Noted("deterministic: only algorithms that repeat their bits"))
            chosen = processes.once(lambda: choose_speed(prepared, switches, accelerator, directory, emit))
            yield Run(
                checkpoint, output, prepared, accelerator, directory, kept, emit, stop, force, began, threads, lock,
                processes, chosen,
            )  # fmt: skip
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; {_kept(directory)}") from error
        except ProcessLost as error:
            raise ProcessLost(f"{error}; {_kept(directory)}") from error
        except ExtconError:
            if not directory.resumable and lock is not None:  # nothing to go on from: leave no trace
                directory.clear()
                lock.remove()
            raise
        finally:
            torch.set_num_threads(before)


def _kept(directory: RunDirectory) -> str:
    """What is left of a run that ends early, and what to do."""
    if directory.resumable:
        return f"the state is kept in {directory.path}: repeat the command with --resume to go on"
    return "it had no state to keep yet: repeat the command"


def _inputs(command: str, prepared: Prepared) -> Mapping[str, str | None]:
    """What decides the result beside the recipe."""
    return {
        "command": command,
        "checkpoint": prepared.opened.checkpoint.sha256 if prepared.opened else None,
        "data": identity(prepared.data.spec),
    }

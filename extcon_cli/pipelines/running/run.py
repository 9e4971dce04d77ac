"""How a run of `prune`, `bypass` or `train` starts and how it is interrupted. What it does is for each of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from extcon_cli.channels.compare import Inputs
from extcon_cli.checkpoint.folder import check_folder, is_transformers
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.write import check_writable
from extcon_cli.data.identity import identity
from extcon_cli.errors import ExtconError, Interrupted, ProcessLost
from extcon_cli.events import Emit, Noted, RunStarted, Saved, ignore, phase
from extcon_cli.pipelines.running.measure import measured
from extcon_cli.pipelines.running.output import check_output, data_metadata, write_output
from extcon_cli.pipelines.running.phase import Validation, interruptible, tee_events
from extcon_cli.pipelines.running.prepare import Prepared, prepare
from extcon_cli.pipelines.running.trial import choose_speed, settled
from extcon_cli.processes import ALONE, Processes, hearing, launched
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import Recipe, SpeedSpec, TrainSpec
from extcon_cli.report.measure import measure
from extcon_cli.report.results.records import Metrics, ModelStats, Record, RunFacts
from extcon_cli.tasks.base import first_samples, samples_in
from extcon_cli.training.determinism import deterministic, wanted
from extcon_cli.training.device import Accelerator, create_accelerator, join
from extcon_cli.training.interrupt import Stop, graceful
from extcon_cli.training.loop import Phase, Trainer
from extcon_cli.training.objective import Batches, Objective, evaluate, own_part
from extcon_cli.training.run_directory import ResumeState, RunDirectory
from extcon_cli.training.run_lock import RunLock
from extcon_cli.training.speed import PLAIN, Speed
from extcon_cli.training.threads import Threads, available, choose, given
from extcon_cli.training.whole import remove_temporaries

ECHO = 5.0
"""Seconds in which a signal may come twice where a launcher passes it on."""


@dataclass(frozen=True)
class Run:
    """A run under way: the model and its data, where to tell and to keep, and what a run before has kept."""

    checkpoint: Path | None
    output: Path
    prepared: Prepared
    accelerator: Accelerator
    directory: RunDirectory
    resume_state: ResumeState | None
    emit: Emit
    stop: Stop
    force: bool
    began: float
    threads: Threads
    lock: RunLock | None
    """Nobody else writes the output as long as this value is there; of several processes the first one holds it."""
    processes: Processes = ALONE
    """That share the run."""
    speed: Speed = PLAIN
    """How training steps are computed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each phase that is over."""

    @property
    def recipe(self) -> Recipe:
        """With all that was filled in."""
        return self.prepared.recipe

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def examples(self) -> list[Inputs]:
        """Training samples on the device, and zeros of each other shape that the recipe names."""
        others = [(torch.zeros(2, *shape, device=self.device),) for shape in self.recipe.model.examples]
        return [self.prepared.example_on(self.device), *others]

    @contextmanager
    def phase(
        self, name: str, title: str, total: int | None = None, unit: str = "batch", *, reported: bool = True
    ) -> Iterator[dict[str, float]]:
        """A phase without training: its events and, where `reported`, its seconds in the result.

        Figures put into the dict that it gives are the closing ones.
        """
        began = time.monotonic()
        with phase(self.emit, name, title, total, unit) as figures:
            yield figures
        if reported:
            self.seconds[name] = time.monotonic() - began

    def metrics(self, module: nn.Module, split: str = "test") -> Metrics:
        """Figures of a module on one split of the data; empty where the split is."""
        return measured(module, self.prepared, split, self.accelerator, self.stop, self.processes) or {}

    def trainer(
        self,
        module: nn.Module,
        loader: Batches,
        spec: Phase,
        *,
        objective: Objective,
        teacher: nn.Module | None = None,
        penalty: Callable[[], Tensor | None] | None = None,
    ) -> Trainer:
        """The loop of a phase, over all processes; where the recipe asks for it, each of them holds a part."""
        kind: type[Trainer] = Trainer
        if self.shards(spec):
            from extcon_cli.training.sharded import ShardedTrainer  # what it needs takes long to import

            kind = ShardedTrainer
        return kind(
            module, loader, spec, objective=objective, accelerator=self.accelerator, teacher=teacher,
            penalty=penalty, processes=self.processes, speed=self.speed,
        )  # fmt: skip

    def shards(self, spec: Phase) -> bool:
        """Is the model of this phase spread over the processes?"""
        return self.processes.several and isinstance(spec, TrainSpec) and spec.shard

    def validation(
        self, module: nn.Module, *, every: int, keep: str, before: bool = False, sharded: bool = False
    ) -> Validation | None:
        """Validation of a module while it trains; None where there are no validation data.

        `sharded`: the module is spread over the processes, so that all of them have to measure all batches together.
        """
        data, task = self.prepared.data, self.prepared.task
        if not len(data.validation):
            return None
        loader = data.eval_loader("validation", device=self.device)

        def figures() -> Metrics:
            processes = ALONE if sharded else self.processes
            own = interruptible(own_part(loader, task, processes), self.stop)
            with hearing() if sharded else nullcontext():
                return evaluate(module, own, task, processes)

        return Validation(
            figures,
            task,
            every,
            keep_best=keep == "best",
            before=before,
        )

    def stats(self, module: nn.Module) -> ModelStats:
        """Test figures and sizes of a module."""
        return ModelStats(self.metrics(module), measure(module, self.prepared.example, self.prepared.precision))

    def write(self, module: nn.Module, record: Record, *, plan: Mapping[str, object] | None = None) -> None:
        """Write the result with all that it says about itself; `plan` is a removal that this run made.

        Of several processes the first one writes.
        """
        if not self.processes.first:
            return
        described = data_metadata(self.prepared, record, plan)
        write_output(
            self.output,
            module,
            described,
            force=self.force,
            precision=self.prepared.precision,
            announce=self.directory.announce_output,
        )
        self.emit(Saved(str(self.output)))

    def finish(self, *, keep: bool) -> None:
        """The run is over and its output is there: take its folder away, unless it is to be kept."""
        if not keep and self.lock is not None:
            self.directory.clear()
            self.lock.remove()

    def facts(self) -> RunFacts:
        """What the result says of the run; call it last, for the seconds."""
        return RunFacts(
            checkpoint=str(self.checkpoint) if self.checkpoint is not None else None,
            output=str(self.output),
            recipe=to_dict(self.recipe),
            seed=self.recipe.seed,
            device=str(self.device),
            processes=self.processes.share.number,
            deterministic=wanted(),
            threads=self.threads.number,
            speed=asdict(self.speed),
            seconds={**self.seconds, "total": time.monotonic() - self.began},
            test_caution=self.prepared.test_caution,
        )


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
        prepared = prepare(recipe, checkpoint, trust=trust, emit=emit)
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
    with deterministic(wanted()), graceful(ECHO if processes.several else 0.0) as stop:
        try:
            threads = processes.once(lambda: _threads(prepared, accelerator.device, directory, emit))
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


def _threads(prepared: Prepared, device: torch.device, directory: RunDirectory, emit: Emit) -> Threads:
    """The number of threads of a process: the user's, that of the run it goes on with, or what suits the model."""
    before, user = directory.kept_threads, given()
    if user is not None:
        threads = Threads(user, "as set")
        if before not in (None, user):
            emit(Noted(f"the run began with another number of threads, {before}: last bits may differ", warning=True))
    elif before is not None:
        threads = Threads(before, "as the run began", fixed=before == 1)
    elif device.type != "cpu":
        threads = Threads(available(), f"the work is done by {device}")
    else:
        threads = _chosen(prepared)
    emit(Noted(str(threads)))
    return threads


def _chosen(prepared: Prepared) -> Threads:
    """What is best for training the model, tried on a copy of it."""
    task, batch = prepared.task, prepared.data.train_loader(device="cpu", seed=0).batch(0)
    trial = copy.deepcopy(prepared.module).eval()

    def step() -> None:
        torch.autograd.backward(task.loss(task.forward(trial, batch), batch[1]))
        trial.zero_grad()

    with torch.random.fork_rng(devices=[]):
        return choose(trial, first_samples(batch[0], 2), samples_in(batch[0]), None if wanted() else step)

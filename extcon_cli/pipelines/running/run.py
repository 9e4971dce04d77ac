"""A run of `prune`, `bypass` or `train` under way: what their phases share. What they do is for each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from extcon_cli.channels.compare import Inputs
from extcon_cli.events import Emit, Saved, phase
from extcon_cli.pipelines.running.measure import measured
from extcon_cli.pipelines.running.output import data_metadata, write_output
from extcon_cli.pipelines.running.phase import Validation, interruptible
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.processes import ALONE, Processes, hearing
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import Recipe, TrainSpec
from extcon_cli.report.measure import measure
from extcon_cli.report.results.records import Metrics, ModelStats, Record, RunFacts
from extcon_cli.training.determinism import wanted
from extcon_cli.training.device import Accelerator
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.loop import Phase, Trainer
from extcon_cli.training.objective import Batches, Objective, evaluate, own_part
from extcon_cli.training.run_directory import ResumeState, RunDirectory
from extcon_cli.training.run_lock import RunLock
from extcon_cli.training.speed import PLAIN, Speed
from extcon_cli.training.threads import Threads


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
        with phase(self.emit, name, title, total, unit) as figures, self.stop.at_once():
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

"""How many threads compute a run."""

from __future__ import annotations

import copy

import torch

from extcon_cli.channels.deferred import is_deferred
from extcon_cli.events import Emit, Noted
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.tasks.base import first_samples, samples_in
from extcon_cli.training.determinism import wanted
from extcon_cli.training.run_directory import RunDirectory
from extcon_cli.training.threads import Threads, available, choose, given


def choose_threads(prepared: Prepared, device: torch.device, directory: RunDirectory, emit: Emit) -> Threads:
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
    elif is_deferred(prepared.module):
        threads = Threads(available(), "the model is too large to try others")
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

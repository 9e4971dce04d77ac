"""One of several processes, started by test_processes.py: everything that they do together, each result compared there.

It writes what it found to `found.<place>.pt` in the folder given.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from extcon_cli.data.loader import InMemoryLoader
from extcon_cli.data.splits import Stream
from extcon_cli.data.streaming import StreamingLoader
from extcon_cli.errors import ExtconError, UsageError
from extcon_cli.events import ignore
from extcon_cli.pipelines.running.phase import run_phase
from extcon_cli.processes import ALONE, Processes, Share, leave
from extcon_cli.recipe.schema import DistillSpec, TrainSpec
from extcon_cli.tasks import Task
from extcon_cli.tasks.labels import Classification
from extcon_cli.tasks.language import MaskedLM
from extcon_cli.tasks.regression import Regression
from extcon_cli.training.device import create_accelerator, join
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import Batches, evaluate, objective, own_batches, own_part, per_sample_loss
from extcon_cli.training.sharded import ShardedTrainer
from extcon_cli.training.speed import Speed

SAMPLES, BATCH, STEPS = 23, 7, 6
SWITCHED = Speed("bf16", channels_last=True)


def nets() -> dict[str, nn.Module]:
    """Smooth ones: a ReLU whose input is zero but for rounding would go one way here and the other way there."""
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))
    norms = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 6, bias=False),
        nn.BatchNorm1d(6, affine=False, momentum=None), nn.Tanh(), nn.Linear(6, 3),
    )  # fmt: skip
    dropout = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 3))
    return {"plain": plain, "batch norm": norms, "dropout": dropout}


def loader(share: Share, y: torch.Tensor, *, train: bool = True) -> InMemoryLoader:
    x = torch.randn(SAMPLES, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return InMemoryLoader(x, y, BATCH, seed=5, shuffle=train, share=share)


def classes() -> torch.Tensor:
    return torch.arange(SAMPLES) % 3


def trainer(net: nn.Module, processes: Processes, data: Batches | None = None, **others: Any) -> Trainer:
    torch.manual_seed(11)
    spec = TrainSpec(epochs=None, steps=STEPS, clip_grad=1.0, mixed_precision=others.pop("precision", "no"))
    teaching = DistillSpec(weight=0.7, temperature=2) if "teacher" in others else None
    kind = others.pop("kind", Trainer)
    found: Trainer = kind(
        net, data or loader(processes.share, classes()), spec, objective=objective(Classification(), distill=teaching),
        accelerator=create_accelerator("cpu", spec.mixed_precision, processes=processes.share), processes=processes,
        **others,
    )  # fmt: skip
    return found


def otherwise(processes: Processes) -> dict[str, dict[str, torch.Tensor]]:
    """The net with batch norms: streamed, taught, averaged, and in half precision."""
    net = nets()["batch norm"]
    return {
        "streamed": ends(trainer(copy.deepcopy(net), processes, streamed(processes.share))),
        "taught": ends(trainer(copy.deepcopy(net), processes, teacher=nets()["plain"])),
        "averaged": ends(trainer(copy.deepcopy(net), processes), average=0.7),
        "switched and averaged": ends(trainer(copy.deepcopy(net), processes, speed=SWITCHED), average=0.7),
        "half precision": ends(trainer(copy.deepcopy(net), processes, precision="bf16")),
        "sharded": sharded(net, processes),
        "sharded, channels last": sharded(net, processes, speed=Speed(channels_last=True)),
        "sharded and taught": sharded(net, processes, teacher=nets()["plain"]),
        "sharded, resumed": sharded(net, processes, stop=STEPS // 2),
        "sharded, then whole": sharded(net, processes, stop=STEPS // 2, then=Trainer),
    }


def sharded(
    net: nn.Module, processes: Processes, *, stop: int = STEPS, then: type[Trainer] = ShardedTrainer, **others: Any
) -> dict[str, torch.Tensor]:
    """Spread over the processes, where there are several; stopped, and gone on with by another loop."""
    kind = {"kind": ShardedTrainer} if processes.several else {}
    net = copy.deepcopy(net)
    running = trainer(net, processes, **kind, **others)
    for step in running:
        if step.index + 1 == stop:
            break
    if stop < STEPS:
        kept = copy.deepcopy(running.state_dict())
        state = processes.once(lambda: kept)
        running = trainer(net, processes, **({"kind": then} if processes.several else {}))
        running.load_state_dict(state)
        for _ in running:
            pass
    running.give_back(net)
    return net.state_dict()


def ends(running: Trainer, **others: Any) -> dict[str, torch.Tensor]:
    """What a phase leaves."""
    run_phase("train", "Training", running, emit=ignore, **others)
    return running.model.state_dict()


class Numbered(Dataset[tuple[torch.Tensor, int]]):
    """The samples of `loader`, one at a time, each with random numbers of its own."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x = torch.randn(SAMPLES, 1, 4, 4, generator=torch.Generator().manual_seed(1))[index]
        return x + 0.1 * torch.randn(1, 4, 4), int(classes()[index])


def streamed(share: Share) -> StreamingLoader:
    split = Stream(Numbered(), torch.arange(SAMPLES))
    return StreamingLoader(split, BATCH, seed=5, shuffle=True, share=share)


def trained(net: nn.Module, processes: Processes) -> tuple[dict[str, torch.Tensor], list[float]]:
    net = copy.deepcopy(net)
    losses = [float(step.loss) for step in trainer(net, processes)]
    return net.state_dict(), losses


def resumed(net: nn.Module, processes: Processes) -> dict[str, torch.Tensor]:
    """Stopped after half of the steps, and gone on with."""
    first, again = copy.deepcopy(net), copy.deepcopy(net)
    running = trainer(first, processes)
    for step in running:
        if step.index + 1 == STEPS // 2:
            break
    state = copy.deepcopy(running.state_dict())
    going_on = trainer(again, processes)
    going_on.load_state_dict(state)
    for _ in going_on:
        pass
    return again.state_dict()


def figures(net: nn.Module, processes: Processes) -> dict[str, dict[str, float]]:
    """Over 23 samples in batches of 7, of which the last one has two."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(3, (SAMPLES, 1), generator=generator)
    tokens[4:11] = -100
    y = {"classes": classes(), "numbers": torch.randn(SAMPLES, 3, generator=generator), "tokens": tokens}
    tasks: dict[str, Task] = {"classes": Classification(), "numbers": Regression(), "tasks' own": Own()}
    found = {}
    for name, task in tasks.items():
        data = loader(Share(), y.get(name, classes()), train=False)
        found[name] = evaluate(net, own_part(data, task, processes), task, processes)
    words, data = Words(), loader(Share(), tokens, train=False)
    found["tokens"] = evaluate(net, own_part(data, words, processes), words, processes)
    return found


class Words(MaskedLM):
    """One token a sample."""

    def forward(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().forward(model, batch)[:, None]


class Own(Classification):
    """Whose figures say nothing of how they add up."""

    def metrics(self) -> Any:
        return Largest()


class Largest:
    def __init__(self) -> None:
        self.largest, self.batches = 0.0, 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.largest, self.batches = max(self.largest, float(outputs.max())), self.batches + 1

    def compute(self) -> dict[str, float]:
        return {"largest": self.largest, "batches": self.batches}


def refused(action: Any) -> str:
    try:
        action()
    except ExtconError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refuse() -> None:
    raise UsageError("no such thing")


def main(folder: Path) -> None:
    accelerator = create_accelerator("cpu", processes=Share(0, 2))
    processes = join(accelerator)
    place = processes.share.place
    plain = nets()["plain"]
    moved = copy.deepcopy(plain)
    if place:
        nn.init.zeros_(moved[1].weight)
    processes.align(moved)
    found = {
        "place": place,
        "number": processes.share.number,
        "once": processes.once(lambda: f"by {place}"),
        "on first": processes.on_first(lambda: "held"),
        "refused": refused(lambda: processes.once(refuse)),
        "any": processes.any(place == 1, False),
        "gathered": processes.gathered({"place": place}),
        "disagree": refused(lambda: processes.check("plan", f"plan {place}")),
        "agree": refused(lambda: processes.check("plan", "plan")),
        "aligned": torch.equal(moved[1].weight, plain[1].weight),
        "unlike": refused(lambda: processes.align(nn.Linear(2 + place, 1))),
        "trained": {name: trained(net, processes) for name, net in nets().items()},
        "resumed": {name: resumed(net, processes) for name, net in nets().items()},
        "figures": figures(plain, processes),
        "losses": per_sample_loss(
            plain, own_batches(loader(Share(), classes(), train=False), processes), Classification(), processes
        ),
        "otherwise": otherwise(processes),
        "otherwise alone": otherwise(ALONE) if not place else None,
        "alone": {name: trained(net, ALONE) for name, net in nets().items()} if not place else None,
        "figures alone": figures(plain, ALONE),
        "losses alone": per_sample_loss(plain, loader(Share(), classes(), train=False), Classification()),
    }
    torch.save(found, folder / f"found.{place}.pt")
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

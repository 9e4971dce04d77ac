"""Switches of training steps: none changes what is learnt beyond its rounding, and they go together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from extcon_cli.bypass.extension import extend
from extcon_cli.data.loader import InMemoryLoader
from extcon_cli.errors import UsageError
from extcon_cli.recipe.schema import DistillSpec, OptimizerSpec, Recipe, TrainSpec
from extcon_cli.tasks import Classification
from extcon_cli.training import speed as speeds
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import objective
from extcon_cli.training.run_directory import RunDirectory
from extcon_cli.training.speed import PLAIN, Speed

generator = torch.Generator().manual_seed(0)
X = torch.randint(256, (48, 3, 6, 6), dtype=torch.uint8, generator=generator)
Y = torch.randint(3, (48,), generator=generator)

SWITCHES = [Speed("bf16"), Speed(channels_last=True), Speed("bf16", channels_last=True, compile=True)]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile records the model and runs it by torch's own operators: no C++ compiler."""
    monkeypatch.setattr(speeds, "BACKEND", "eager")
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))
        return out


class Viewing(Net):
    """As many models did before `flatten`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        out: torch.Tensor = self.head(x.view(len(x), -1)[:, :4])
        return out


def losses(net: nn.Module, speed: Speed, **others) -> list[float]:
    spec = TrainSpec(steps=6, optimizer=OptimizerSpec(lr=0.05), distill=DistillSpec())
    goal = objective(Classification(), distill=spec.distill)
    loader = InMemoryLoader(X, Y, 16, seed=5, shuffle=True)
    run = Trainer(net, loader, spec, objective=goal, accelerator=create_accelerator("cpu"), speed=speed, **others)
    return [float(step.loss) for step in run]


@pytest.mark.parametrize("speed", SWITCHES, ids=str)
def test_every_switch_learns_the_same_with_a_teacher(speed: Speed) -> None:
    plain = losses(Net(), PLAIN, teacher=Net())
    net = Net()
    found = losses(net, speed, teacher=Net())
    assert found == pytest.approx(plain, rel=0.03 if speed.precision == "bf16" else 1e-5)
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in net.parameters())


@pytest.mark.parametrize("speed", SWITCHES, ids=str)
def test_psi_goes_with_every_switch(speed: Speed) -> None:
    def extended() -> nn.Module:
        return extend(Net(), (torch.rand(2, 3, 6, 6),), form="relaxed").train()

    net = extended()
    found = losses(net, speed)
    assert found == pytest.approx(losses(extended(), PLAIN), rel=0.03 if speed.precision == "bf16" else 1e-5)
    assert all(bool(delta.any()) for delta in net.deltas)  # type: ignore[operator, union-attr]


def test_a_model_that_needs_its_maps_as_they_were_is_told() -> None:
    with pytest.raises(UsageError, match="reshapes its maps in a way that needs `channels_last: false`"):
        losses(Viewing(), Speed(channels_last=True))


def test_a_model_that_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise ValueError("no compiler here")

    monkeypatch.setattr(speeds, "BACKEND", broken)
    with pytest.raises(UsageError, match=r"leave `compile` out: .*no compiler here"):
        losses(Net(), Speed(compile=True))


def test_a_run_that_goes_on_computes_as_it_began(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "out.run", Recipe(), {})
    first.begin(resume=False)
    first.begin_speed(Speed("bf16", channels_last=True))
    second = RunDirectory(tmp_path / "out.run", Recipe(), {})
    second.begin(resume=True)
    assert second.kept_speed == Speed("bf16", channels_last=True)
    other = RunDirectory(tmp_path / "out.run", Recipe(seed=1), {})
    other.begin(resume=True)
    assert other.kept_speed is None

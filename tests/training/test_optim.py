"""Learning rates against torch's own schedulers, optimizers against the spec."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler as torch_lr

from extcon_cli.errors import GateError
from extcon_cli.recipe.schema import OptimizerSpec, ScheduleSpec, TrainSpec
from extcon_cli.training.optim import lr_factor, optimizer, total_steps

TOTAL = 40


def torchs(make, steps: int = TOTAL) -> list[float]:
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make(sgd)
    rates = []
    for _ in range(steps):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    return rates


def ours(total: int = TOTAL, **spec) -> list[float]:
    return [lr_factor(ScheduleSpec(**spec), step, total) for step in range(total)]


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine(final):
    expected = torchs(lambda sgd: torch_lr.CosineAnnealingLR(sgd, TOTAL, eta_min=final))
    assert ours(name="cosine", final=final) == pytest.approx(expected)


def test_step():
    expected = torchs(lambda sgd: torch_lr.MultiStepLR(sgd, [10, 30], gamma=0.2))
    assert ours(name="step", milestones=(0.25, 0.75), gamma=0.2) == pytest.approx(expected)


def test_constant():
    assert ours(name="constant") == [1.0] * TOTAL


def test_warmup_then_cosine():
    def make(sgd):
        rise = torch_lr.LinearLR(sgd, start_factor=1 / 8, total_iters=7)
        fall = torch_lr.CosineAnnealingLR(sgd, TOTAL - 8)
        return torch_lr.SequentialLR(sgd, [rise, fall], milestones=[8])

    assert ours(name="cosine", warmup=8) == pytest.approx(torchs(make))


def test_warmup_longer_than_the_run_rises_to_the_end():
    assert ours(total=4, name="cosine", warmup=100) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_length_in_steps_or_epochs():
    assert total_steps(TrainSpec(steps=7), 10) == 7
    assert total_steps(TrainSpec(epochs=2.5), 10) == 25
    assert total_steps(TrainSpec(epochs=1e-6), 10) == 1


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizers_take_what_the_recipe_says(name, kind):
    spec = OptimizerSpec(name=name, lr=0.3, momentum=0.7, nesterov=True, weight_decay=0.01, betas=(0.8, 0.9), eps=1e-6)
    made = optimizer(spec, [torch.nn.Parameter(torch.zeros(2))])
    assert type(made) is kind
    group = made.param_groups[0]
    assert group["lr"] == 0.3
    assert group["weight_decay"] == 0.01
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.7, True)
    else:
        assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6)


def test_a_model_without_parameters():
    with pytest.raises(GateError, match="no parameters to train"):
        optimizer(OptimizerSpec(), [])


def test_the_cosine_never_reaches_its_end_early():
    assert all(value > 0 for value in ours(name="cosine"))
    assert math.isclose(ours(name="cosine")[0], 1.0)

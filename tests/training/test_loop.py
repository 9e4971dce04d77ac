"""The loop is a hand-written one bit for bit, and goes on after a stop as if there had been none."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional

from extcon_cli.data.loader import InMemoryLoader
from extcon_cli.errors import GateError, UsageError
from extcon_cli.recipe.schema import AugmentSpec, DistillSpec, OptimizerSpec, ScheduleSpec, TrainSpec
from extcon_cli.tasks import Classification
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import objective

generator = torch.Generator().manual_seed(0)
X = torch.randint(256, (70, 1, 6, 6), dtype=torch.uint8, generator=generator)
Y = torch.randint(3, (70,), generator=generator)

SPECS = {
    "sgd": OptimizerSpec(name="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": OptimizerSpec(name="adam", lr=1e-2),
    "adamw": OptimizerSpec(name="adamw", lr=1e-2, weight_decay=0.1),
}


def model() -> nn.Module:
    """Batch norm and dropout, so that buffers and random numbers count."""
    torch.manual_seed(1)
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(144, 3))


def loader() -> InMemoryLoader:
    return InMemoryLoader(X, Y, 16, augment=AugmentSpec(crop_padding=1, flip=True), seed=5, shuffle=True)


def trainer(net: nn.Module, spec: TrainSpec, **others) -> Trainer:
    goal = objective(Classification(), label_smoothing=spec.label_smoothing, distill=spec.distill)
    return Trainer(net, loader(), spec, objective=goal, accelerator=create_accelerator("cpu"), **others)


def spec(name: str = "sgd", **others) -> TrainSpec:
    others = {"steps": 11, "schedule": ScheduleSpec(warmup=3), **others}
    return TrainSpec(optimizer=SPECS[name], **others)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def by_hand(net: nn.Module, clip: float | None = None) -> None:
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    warm = [torch.optim.lr_scheduler.LinearLR(sgd, 1 / 3, total_iters=2)]
    warm.append(torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 8))
    batches = loader()
    net.train()
    for step in range(11):
        sgd.param_groups[0]["lr"] = 0.05 * (
            (step + 1) / 3 if step < 3 else (1 + torch.cos(torch.tensor((step - 3) / 8 * torch.pi))).item() / 2
        )
        x, y = batches.batch(step)
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        sgd.step()
        sgd.zero_grad()


@pytest.mark.parametrize("clip", [None, 0.1])
def test_is_a_hand_written_loop(clip):
    ours, theirs = model(), model()
    torch.manual_seed(2)
    for _ in trainer(ours, spec(clip_grad=clip)):
        pass
    torch.manual_seed(2)
    by_hand(theirs, clip)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("stop", [1, 4, 7, 10])
def test_resumes_bit_for_bit(name, stop):
    whole, parts = model(), model()
    torch.manual_seed(2)
    losses = [float(step.loss) for step in trainer(whole, spec(name))]

    torch.manual_seed(2)
    first = trainer(parts, spec(name))
    for step in first:
        if step.index + 1 == stop:
            break
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    torch.manual_seed(99)  # another process has other numbers
    again = trainer(model(), spec(name))
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    rest = [float(step.loss) for step in again]

    assert same(again.model, whole)
    assert rest == losses[stop:]


def test_looking_at_the_state_changes_nothing():
    plain, watched = model(), model()
    torch.manual_seed(2)
    for _ in trainer(plain, spec()):
        pass
    torch.manual_seed(2)
    run = trainer(watched, spec())
    for step in run:
        run.state_dict()
        assert step.metrics["loss"] == float(step.loss)
        assert 0 <= step.metrics["accuracy"] <= 1
    assert same(plain, watched)


def test_parameters_may_be_acted_on_between_steps():
    net = model()
    for _ in trainer(net, spec()):
        with torch.no_grad():
            net[1].weight[0] = 0.0  # type: ignore[index]
    assert net[1].weight[0] == 0  # type: ignore[index]


def test_a_penalty_is_part_of_the_loss():
    plain, held = model(), model()
    for _ in trainer(plain, spec()):
        pass
    for _ in trainer(held, spec(), penalty=lambda: 5 * held[1].weight.abs().sum()):  # type: ignore[index]
        pass
    assert held[1].weight.abs().sum() < plain[1].weight.abs().sum()  # type: ignore[index]


def test_the_teacher_guides_and_stays_as_it_is():
    net, teacher = model(), model().train()
    before = copy.deepcopy(teacher.state_dict())
    run = trainer(net, spec(distill=DistillSpec(weight=1.0), steps=60), teacher=teacher)
    losses = [float(step.loss) for step in run]
    assert losses[-1] < losses[0]
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_loss_that_is_not_finite_stops_the_run():
    net = model()
    run = trainer(net, spec())
    steps = iter(run)
    for _ in range(3):
        next(steps)
    with torch.no_grad():
        net[0].weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(GateError, match=r"not finite by step 4 of 11: lower optimizer\.lr"):
        next(steps)
    with pytest.raises(GateError):
        run.state_dict()  # such a state is never kept


def test_a_state_of_another_length_is_refused():
    run = trainer(model(), spec())
    with pytest.raises(GateError, match="a phase of 11 steps, this one has 12"):
        trainer(model(), spec(steps=12)).load_state_dict(run.state_dict())


def test_bf16_on_the_cpu_trains_and_keeps_fp32_parameters():
    net = model()
    goal = objective(Classification())
    run = Trainer(net, loader(), spec(steps=3), objective=goal, accelerator=create_accelerator("cpu", "bf16"))
    assert all(torch.isfinite(step.loss) for step in run)
    assert all(p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("device", ["cuda:77", "warp", "meta2"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(UsageError, match="cannot be used here"):
        create_accelerator(device)


def test_a_number_format_that_the_device_lacks():
    with pytest.raises(UsageError, match="mixed_precision 'fp16' does not work on cpu"):
        create_accelerator("cpu", "fp16")


def test_formats_may_change_within_a_process():
    for wanted in ("no", "bf16", "no"):
        assert create_accelerator("cpu", wanted).mixed_precision == wanted


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        create_accelerator("cpu")

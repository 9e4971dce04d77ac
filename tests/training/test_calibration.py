"""One temperature: the least loss there is, over all data, and none where outputs are no logits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.tasks import Batch, Classification, MultiLabel, Regression
from extcon_cli.training import calibration
from extcon_cli.training.calibration import LEAST, calibrate

TOO_SURE = 1.7
CERTAIN = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.multinomial(CERTAIN.softmax(1), 1, generator=torch.Generator().manual_seed(1))[:, 0]


def batches() -> Iterator[Batch]:
    return zip((TOO_SURE * CERTAIN).split(250), LABELS.split(250), strict=True)


def loss_at(temperature: float) -> Tensor:
    return functional.cross_entropy(TOO_SURE * CERTAIN / temperature, LABELS)


def test_the_temperature_has_the_least_loss_and_the_loss_is_that_of_all_data() -> None:
    found = calibrate(nn.Identity(), batches, Classification())
    assert found is not None
    assert found.temperature == pytest.approx(TOO_SURE, rel=0.15)
    assert found.loss == pytest.approx(float(loss_at(found.temperature)), rel=1e-6)
    assert all(loss_at(found.temperature) <= loss_at(found.temperature * factor) for factor in (0.98, 1.02))
    assert found.loss < float(loss_at(1.0))


def test_where_not_all_outputs_can_be_held_the_loss_is_that_of_all_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "HELD", 1)
    found = calibrate(nn.Identity(), batches, Classification())
    assert found is not None
    first = functional.cross_entropy
    held = TOO_SURE * CERTAIN[:250]
    near = [first(held / (found.temperature * factor), LABELS[:250]) for factor in (0.98, 1.0, 1.02)]
    assert near[1] <= min(near[0], near[2])
    assert found.loss == pytest.approx(float(loss_at(found.temperature)), rel=1e-6)


def test_where_every_answer_is_right_the_temperature_has_a_floor() -> None:
    found = calibrate(nn.Identity(), lambda: [(CERTAIN, CERTAIN.argmax(1))], Classification())
    assert found is not None
    assert found.temperature == pytest.approx(LEAST, rel=2e-3)


def test_other_tasks() -> None:
    assert calibrate(nn.Identity(), lambda: [(CERTAIN, CERTAIN)], Regression()) is None
    labels = (CERTAIN.sigmoid() > torch.rand(CERTAIN.shape, generator=torch.Generator().manual_seed(2))).float()
    found = calibrate(nn.Identity(), lambda: [(TOO_SURE * CERTAIN, labels)], MultiLabel())
    assert found is not None
    assert found.temperature == pytest.approx(TOO_SURE, rel=0.15)

"""Losses against their formulas, measurements on known numbers."""

from __future__ import annotations

import math
from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.errors import GateError
from extcon_cli.recipe.schema import DistillSpec
from extcon_cli.tasks import Classification, Regression
from extcon_cli.tasks.base import prediction
from extcon_cli.training.objective import evaluate, evaluate_beside, objective

Z, T = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 0, 1])


class Stored(nn.Module):
    """Gives the input back, or its own mean in training mode, so that the mode shows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if self.training else x


def test_cross_entropy_with_smoothing():
    logs = Z.log_softmax(1)
    expected = -(0.9 * logs[range(6), Y] + 0.1 * logs.mean(1)).mean()
    assert objective(Classification(), label_smoothing=0.1)(Z, Y) == pytest.approx(float(expected))


def test_distillation_is_its_formula():
    loss = objective(Classification(), distill=DistillSpec(weight=0.3, temperature=2.0))(Z, Y, T)
    p, q = (T / 2).softmax(1), (Z / 2).softmax(1)
    kl = (p * (p / q).log()).sum(1).mean()
    assert loss == pytest.approx(float(0.7 * functional.cross_entropy(Z, Y) + 0.3 * 4 * kl))


def test_distillation_from_itself_adds_nothing():
    whole = objective(Classification(), distill=DistillSpec(weight=1.0))
    assert whole(Z, Y, Z) == pytest.approx(0.0, abs=1e-12)


def test_regression_and_its_distillation():
    y = torch.arange(6.0)[:, None]
    z, t = torch.zeros(6), torch.ones(6, 1)
    assert objective(Regression())(z, y) == pytest.approx(float((y**2).mean()))
    distilled = objective(Regression(), distill=DistillSpec(weight=0.25))
    assert distilled(z, y, t) == pytest.approx(float(0.75 * (y**2).mean() + 0.25))


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_classification_on_known_numbers(size):
    logits = torch.zeros(6, 7, dtype=torch.float64)
    logits[range(6), [0, 1, 2, 0, 0, 0]] = 9.0
    labels = torch.tensor([0, 1, 2, 3, 6, 5])  # the first three right; 3 is in the top five of the rest, ties apart
    logits[3, 3] = 8.0
    logits[4, :5], logits[5, 5] = torch.tensor([9.0, 8, 7, 6, 5]).double(), 1.0  # 6 is not in the top five
    batches = list(zip(logits.split(size), labels.split(size), strict=True))

    found = evaluate(Stored(), batches, Classification())

    assert found["accuracy"] == 0.5
    assert found["top5"] == pytest.approx(5 / 6)
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-6)


def test_no_top5_where_it_says_nothing():
    assert set(evaluate(Stored(), [(torch.zeros(2, 5), torch.tensor([0, 1]))], Classification())) == {
        "loss",
        "accuracy",
    }


@pytest.mark.parametrize("size", [1, 3, 4])
def test_r2_on_known_numbers(size):
    y = torch.tensor([[1.0], [2.0], [3.0], [6.0]]) + 1000
    z = y + torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    found = evaluate(Stored(), list(zip(z.split(size), y.split(size), strict=True)), Regression())
    assert found == {"loss": pytest.approx(0.5), "r2": pytest.approx(1 - 2 / 14)}


def test_r2_of_a_constant_target():
    y = torch.ones(3, 1)
    assert evaluate(Stored(), [(y, y)], Regression())["r2"] == 1.0
    assert evaluate(Stored(), [(y + 1, y)], Regression())["r2"] == 0.0


@pytest.mark.parametrize("training", [True, False])
def test_measures_in_eval_mode_and_restores_the_mode(training):
    model = Stored().train(training)
    assert evaluate(model, [(torch.eye(3), torch.arange(3))], Classification())["accuracy"] == 1.0
    assert model.training is training


def test_nothing_to_measure():
    with pytest.raises(GateError, match="nothing was measured"):
        evaluate(Stored(), [], Classification())


def test_predictions_in_the_usual_containers():
    output = namedtuple("Output", "logits aux")(Z, T)
    for container in (Z, output, {"out": Z, "aux": T}, {"logits": Z}, (Z, T), [Z]):
        assert prediction(container) is Z
    with pytest.raises(GateError, match="a tensor of outputs is needed"):
        prediction("text")


def test_better_is_accuracy_then_loss():
    good, worse = {"accuracy": 0.9, "loss": 0.5}, {"accuracy": 0.8, "loss": 0.1}
    assert Classification().better(good, None)
    assert Classification().better(good, worse)
    assert not Classification().better(worse, good)
    assert Classification().better({"accuracy": 0.9, "loss": 0.4}, good)
    assert not Classification().better(good, good)
    assert not Regression().better({"loss": math.nan, "r2": math.nan}, {"loss": 9.0, "r2": 0.0})


CALLS: list[nn.Module] = []


class Counted(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(self)
        return super().forward(x)


def test_two_models_are_measured_and_compared_in_one_pass_over_both() -> None:
    first, second = Counted(4, 3), Counted(4, 3)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second.bias[0] += 0.5
    batches = [(torch.randn(5, 4), torch.randint(3, (5,))), (torch.randn(2, 4), torch.randint(3, (2,)))]
    one, other, gap = evaluate_beside(first, second, batches, Classification())
    assert [first, second, first, second] == CALLS
    assert (one, other) == tuple(evaluate(model, batches, Classification()) for model in (first, second))
    assert (gap.samples, gap.largest) == (7, pytest.approx(0.5, abs=1e-6))
    assert first.training
    assert len(first._forward_hooks) == 0

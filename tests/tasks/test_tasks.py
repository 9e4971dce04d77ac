"""Every task against its formulas, on a few numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.errors import DataError
from extcon_cli.recipe.train_schema import TASKS as NAMES
from extcon_cli.tasks import TASKS, CausalLM, Classification, MaskedLM, MultiLabel, Regression, Segmentation, Task
from extcon_cli.training.objective import evaluate, per_sample_loss

generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 4, generator=generator)


class Echo(nn.Module):
    """Gives its first input back, whether it came by position or by name."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if mask is None else x * mask


def test_the_recipe_knows_the_names_of_all():
    assert tuple(TASKS) == NAMES


@pytest.mark.parametrize("inputs", [LOGITS, (LOGITS, torch.ones(6, 1)), {"mask": torch.ones(6, 1), "x": LOGITS}])
def test_inputs_go_by_position_or_by_name(inputs):
    assert torch.equal(Classification().forward(Echo(), (inputs, None)), LOGITS)


def test_multi_label():
    targets = torch.tensor([[1, 0, 0, 1]] * 6)
    found = evaluate(Echo(), [(LOGITS[:4], targets[:4]), (LOGITS[4:], targets[4:])], MultiLabel())
    p = LOGITS.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    hits = ((LOGITS > 0) & (targets == 1)).sum()
    precision, recall = hits / (LOGITS > 0).sum(), hits / targets.sum()
    assert found["f1"] == pytest.approx(float(2 * precision * recall / (precision + recall)))


def test_multi_label_learns_from_a_teacher_label_by_label():
    teacher = torch.randn(6, 4, generator=generator)
    p, q = (teacher / 2).sigmoid(), (LOGITS / 2).sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    task = MultiLabel().tuned(temperature=2.0)
    assert task.distill(LOGITS, teacher, None) == pytest.approx(4 * float(kl.mean()), rel=1e-4)


def segmentation_by_hand(maps: Tensor, targets: Tensor) -> dict[str, float]:
    there = targets != 255
    found, wanted = maps.argmax(1)[there], targets[there]
    shares = [
        ((found == k) & (wanted == k)).sum() / ((found == k) | (wanted == k)).sum()
        for k in range(maps.shape[1])
        if ((found == k) | (wanted == k)).any()
    ]
    return {
        "loss": float(functional.cross_entropy(maps, targets, ignore_index=255)),
        "miou": float(torch.stack(shares).mean()),
        "pixel_accuracy": float((found == wanted).float().mean()),
    }


def test_segmentation_leaves_out_what_does_not_count():
    maps = torch.randn(3, 5, 8, 8, generator=generator)
    targets = torch.randint(4, (3, 8, 8), generator=generator)  # class 4 never occurs
    targets[0, :3], targets[2] = 255, 255
    batches = [(maps[:1], targets[:1]), (maps[1:2], targets[1:2]), (maps[2:], targets[2:])]
    expected = segmentation_by_hand(maps, targets)
    assert evaluate(Echo(), batches, Segmentation()) == pytest.approx(expected, rel=1e-5)


def test_segmentation_measures_as_torchmetrics_does():
    reference = pytest.importorskip("torchmetrics.classification")
    maps, targets = torch.randn(3, 5, 8, 8, generator=generator), torch.randint(5, (3, 8, 8), generator=generator)
    targets[0] = 255
    iou = reference.MulticlassJaccardIndex(5, ignore_index=255)(maps.argmax(1), targets)
    assert evaluate(Echo(), [(maps, targets)], Segmentation())["miou"] == pytest.approx(float(iou))


def test_smaller_maps_are_enlarged():
    class Half(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x[..., ::2, ::2], "aux": x}

    maps = torch.randn(2, 3, 8, 8, generator=generator)
    outputs = Segmentation().forward(Half(), (maps, torch.zeros(2, 8, 8, dtype=torch.long)))
    assert torch.equal(outputs, functional.interpolate(maps[..., ::2, ::2], size=(8, 8), mode="bilinear"))


@pytest.mark.parametrize("task", [Classification(), Regression(), MultiLabel(), Segmentation()], ids=lambda t: t.name)
def test_the_loss_is_the_mean_of_the_samples(task):
    shape = (6, 4, 3, 3) if task.name == "segmentation" else (6, 4)
    outputs = torch.randn(shape, generator=generator)
    targets = {
        "classification": torch.randint(4, (6,), generator=generator),
        "segmentation": torch.randint(4, (6, 3, 3), generator=generator),
    }.get(task.name, (torch.rand(6, 4, generator=generator) > 0.5).float())
    each = per_sample_loss(Echo(), [(outputs[:5], targets[:5]), (outputs[5:], targets[5:])], task)
    assert each.shape == (6,)
    assert each.mean() == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "classes", "message"),
    [
        (Classification(), (10, 8, 8), (), 10, "one number a class"),
        (Classification(), (4,), (), 10, "labels run up to 9, but the model has 4 outputs"),
        (MultiLabel(), (3,), (5,), None, "a target has"),
        (Regression(), (2,), (1,), None, "a target has 1 numbers"),
        (Segmentation(), (3,), (4, 4), None, "a segmentation should give"),
        (Segmentation(), (3, 4, 4), (4, 4), 5, "masks hold classes up to 4"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(task, outputs, targets, classes, message):
    with pytest.raises(DataError, match=message):
        task.check(torch.zeros(2, *outputs), torch.zeros(2, *targets), classes)


@pytest.mark.parametrize("task", [CausalLM(), MaskedLM()], ids=lambda task: task.name)
def test_language_models_answer_for_the_tokens_that_count(task):
    logits = torch.randn(3, 6, 7, generator=generator)
    labels = torch.randint(7, (3, 6), generator=generator)
    labels[0, 2:] = -100
    shift = int(task.name == "causal_lm")
    nll = [
        -logits[row, at].log_softmax(0)[labels[row, at + shift]]
        for row in range(3)
        for at in range(6 - shift)
        if labels[row, at + shift] >= 0
    ]
    expected = torch.stack(nll).mean()
    found = evaluate(Echo(), [(logits[:1], labels[:1]), (logits[1:], labels[1:])], task)
    assert found == {
        "loss": pytest.approx(float(expected), rel=1e-5),
        "perplexity": pytest.approx(float(expected.exp()), rel=1e-5),
    }
    assert task.distill(logits, logits, labels) == pytest.approx(0, abs=1e-6)
    assert task.better({"loss": 2.0, "perplexity": 7.0}, {"loss": 3.0, "perplexity": 20.0})


class Tilted(Task):
    """A task of one's own: the absolute error, judged by itself."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()


def test_a_task_of_ones_own_needs_a_loss_alone():
    task, targets = Tilted(), torch.zeros(6, 4)
    assert evaluate(Echo(), [(LOGITS, targets)], task) == {"loss": pytest.approx(float(LOGITS.abs().mean()))}
    assert per_sample_loss(Echo(), [(LOGITS, targets)], task).numpy() == pytest.approx(LOGITS.abs().mean(1).numpy())
    assert task.better({"loss": 1.0}, {"loss": 2.0})
    assert not task.better({"loss": float("nan")}, {"loss": 2.0})
    assert task.drop({"loss": 2.0}, {"loss": 2.5}) == 25.0
    assert Classification().drop({"accuracy": 0.9}, {"accuracy": 0.875}) == pytest.approx(2.5)

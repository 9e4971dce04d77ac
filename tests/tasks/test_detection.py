"""Detectors of torchvision: their losses in any mode, mAP, and the graph of their layers."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import MultiScaleRoIAlign

from extcon_cli.channels import channel_groups, remove_zeros
from extcon_cli.errors import UsageError
from extcon_cli.pipelines.bypassing.stalled import stalled_model
from extcon_cli.tasks import Detection
from extcon_cli.training.objective import evaluate

TASK = Detection()


def body() -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    layers.out_channels = 8
    return layers


def one_stage() -> nn.Module:
    boxes = DefaultBoxGenerator([[2]], scales=[0.3, 0.5])
    return SSD(body(), boxes, (32, 32), 3, head=SSDHead([8], boxes.num_anchors_per_location(), 3))


def two_stages() -> nn.Module:
    return FasterRCNN(
        body(), min_size=32, max_size=32, rpn_anchor_generator=AnchorGenerator(((12,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2), box_predictor=FastRCNNPredictor(16, 3),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU()),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[one_stage, two_stages])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = request.param().eval()
    TASK.ready(made)
    return made


BATCH = (
    [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(at)) for at in range(2)],
    [{"boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]), "labels": torch.tensor([at + 1])} for at in range(2)],
)


def test_the_measurement_changes_nothing_and_repeats(model):
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = evaluate(model, [BATCH], TASK), evaluate(model, [BATCH], TASK)
    assert first == second
    assert set(first) == {"loss", "map", "map50"}
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_its_loss_is_the_detectors_own(model):
    own = copy.deepcopy(model).train()
    for module in own.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = sum(own(*BATCH).values()).item()
    assert TASK.loss(TASK.forward(model, BATCH), BATCH[1]).item() == pytest.approx(expected)


def test_perfect_boxes_have_a_precision_of_one():
    metrics = TASK.metrics()
    found = [{**target, "scores": torch.ones(1)} for target in BATCH[1]]
    metrics.update({"boxes": found}, BATCH[1])
    assert {name: float(value) for name, value in metrics.compute().items()} == {"map": 1.0, "map50": 1.0}


def test_no_diagnosis_without_the_loss_of_each_sample():
    with pytest.raises(UsageError, match="task detection gives no loss of each sample"):
        stalled_model(SimpleNamespace(task=TASK, recipe=SimpleNamespace(task="detection")), None)


@torch.no_grad()
def test_dead_channels_of_the_backbone_go_and_the_boxes_stay(model):
    zeroed = copy.deepcopy(model)
    zeroed.backbone[1].weight[:3], zeroed.backbone[1].bias[:3] = 0, 0
    example = TASK.example(BATCH[0])
    assert isinstance(example[0], Tensor)
    channels = channel_groups(zeroed, [example])
    removal = remove_zeros(zeroed, [example], channels=channels, evaluation=[TASK.arguments(BATCH[0])])
    assert removal.certificate.exact
    assert removal.module.backbone[0].out_channels == 5
    for one, other in zip(zeroed(BATCH[0]), removal.module(BATCH[0]), strict=True):
        assert torch.allclose(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-3)

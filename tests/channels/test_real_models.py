"""Real networks: half of every prunable group goes, and no output moves."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from extcon_cli.channels import RemovalPlan, remove

# name, resolution, another resolution or None, the least share of the parameters that halving every group removes
MODELS = [
    ("convnext_tiny", 32, 64, 0.70),
    ("efficientnet_b0", 32, 48, 0.65),
    ("swin_t", 32, 48, 0.70),
    ("swin_v2_t", 32, 64, 0.70),
    ("vit_b_32", 64, None, 0.65),
    ("resnet18", 32, 48, 0.70),
    ("densenet121", 32, 64, 0.70),
    ("vgg11_bn", 32, 64, 0.70),
    ("googlenet", 32, 48, 0.70),
    ("mobilenet_v2", 32, 48, 0.70),
    ("mobilenet_v3_small", 32, 48, 0.70),
    ("shufflenet_v2_x0_5", 32, 48, 0.60),
    ("squeezenet1_1", 48, 64, 0.70),
    ("regnet_y_400mf", 32, 48, 0.70),
    ("mnasnet1_0", 32, 48, 0.70),
    ("resnext50_32x4d", 32, 48, 0.65),
]
Remove = Callable[..., Any]


def build(name: str) -> nn.Module:
    """The architecture with random weights, and batch norm statistics unlike those it starts with."""
    torch.manual_seed(0)
    extra = {"googlenet": {"aux_logits": False, "init_weights": False}, "vit_b_32": {"image_size": 64}}.get(name, {})
    module = torchvision.models.get_model(name, weights=None, num_classes=10, **extra)
    if name == "vgg11_bn":  # its two hidden layers of 4096 neurons say nothing more than narrower ones
        module.classifier[0], module.classifier[3] = nn.Linear(512 * 49, 64), nn.Linear(64, 64)
        module.classifier[6] = nn.Linear(64, 10)
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.normal_(child.bias, 0.0, 0.3)
        elif isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, 0.0, child.in_features**-0.5)  # some heads begin at zero
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(0.0, 0.3)
            child.running_var.uniform_(0.5, 2.0)
    return module.eval()


@pytest.fixture(scope="module", params=MODELS, ids=[entry[0] for entry in MODELS])
def model(request: pytest.FixtureRequest, remove_exactly: Remove) -> tuple[str, float, Any]:
    """One removal a model: float32 and float64, two batch sizes, two resolutions."""
    name, size, other, share = request.param
    example, others = images(size), [images(other)] if other else []
    return name, share, remove_exactly(build(name), example, others=others)


def images(size: int) -> tuple[torch.Tensor]:
    return (torch.randn(2, 3, size, size),)


@pytest.fixture
def shrunk(model: tuple[str, float, Any]) -> Any:
    return model[2]


def test_the_outputs_stay_and_most_parameters_go(model: tuple[str, float, Any]) -> None:
    _, share, shrunk = model
    total = sum(parameter.numel() for parameter in shrunk.before.parameters())
    assert shrunk.gone >= share * total
    assert shrunk.single.agreement == 1.0


def test_only_the_classifier_stays_as_it_is(shrunk: Any) -> None:
    reasons = {group.reason for group in shrunk.channels.groups if not group.prunable}
    assert reasons <= {"is an output of the model", "a single channel"}


def test_the_attributes_tell_the_truth(shrunk: Any) -> None:
    for name, child in shrunk.after.named_modules():
        if isinstance(child, nn.Conv2d):
            rows, columns = child.weight.shape[:2]
            assert (child.out_channels, child.in_channels) == (rows, columns * child.groups), name
            assert child.bias is None or len(child.bias) == rows
            assert f"Conv2d({child.in_channels}, {rows}, " in repr(child)
            rebuilt = nn.Conv2d(child.in_channels, rows, child.kernel_size, groups=child.groups)
            assert rebuilt.weight.shape == child.weight.shape
        elif isinstance(child, nn.BatchNorm2d):
            vectors = (child.weight, child.bias, child.running_mean, child.running_var)
            assert {len(vector) for vector in vectors} == {child.num_features}, name
        elif isinstance(child, nn.Linear):
            assert child.weight.shape == (child.out_features, child.in_features), name
            assert f"in_features={child.in_features}" in repr(child)
        elif isinstance(child, nn.LayerNorm):
            assert child.normalized_shape == tuple(child.weight.shape), name


def test_it_trains(shrunk: Any) -> None:
    module = copy.deepcopy(shrunk.after).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    nn.functional.cross_entropy(module(torch.randn(2, 3, 64, 64)), torch.tensor([1, 2])).backward()
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert missing == []
    optimizer.step()
    assert torch.isfinite(module.eval()(torch.randn(1, 3, 64, 64))).all()


def test_the_plan_on_a_fresh_module_and_the_state_dict_give_the_same_bits(model: tuple[str, float, Any]) -> None:
    name, _, shrunk = model
    fresh = build(name)
    remove(fresh, RemovalPlan.from_json(json.loads(json.dumps(shrunk.plan.to_json()))))
    fresh.load_state_dict(shrunk.after.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(fresh(x), shrunk.after(x))
        assert torch.equal(copy.deepcopy(shrunk.after)(x), fresh(x))
    assert repr(fresh) == repr(shrunk.after)


def test_it_exports_again(shrunk: Any) -> None:
    x = torch.randn(2, 3, 64, 64)
    program = torch.export.export(shrunk.after, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), shrunk.after(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "swin_t", "shufflenet_v2_x0_5"])
def test_channels_that_died_with_a_constant_go_as_exactly(
    name: str, remove_exactly: Remove, kill_to_constants: Callable[..., None]
) -> None:
    removal = remove_exactly(build(name), images(32), kill_to_constants)
    assert removal.gone > 0.3 * sum(parameter.numel() for parameter in removal.before.parameters())
    assert len(removal.plan.folds) + len(removal.plan.merges) > 10


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_what_was_shrunk_shrinks_again(name: str, remove_exactly: Remove) -> None:
    example = (torch.randn(2, 3, 32, 32),)
    once = remove_exactly(build(name), example)
    twice = remove_exactly(once.after, example)
    assert twice.gone > 0.4 * sum(parameter.numel() for parameter in once.after.parameters())

"""Widening by a plan: what was added comes back from JSON, in every place, and damaged plans are refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from extcon_cli.channels.widening import Added, WideningPlan, add, append, widening
from extcon_cli.errors import CheckpointError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def wider() -> nn.Sequential:
    module = net()
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("1.running_mean", 0)):
        append(module, name, dim, torch.ones_like(module.state_dict()[name][:2]))
    append(module, "1.running_var", 0, torch.ones(2))
    append(module, "4.weight", 1, torch.ones(2, 4), repeat=2)
    return module


def test_a_plan_read_from_json_makes_room_for_the_wider_state() -> None:
    wide, module = wider(), net()
    plan = widening(module, wide.state_dict())
    assert len(plan.added) == 7
    assert WideningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    add(module, plan)
    module.load_state_dict(wide.state_dict())
    conv, norm, head = (module.get_submodule(name) for name in "014")
    assert (conv.out_channels, norm.num_features, head.in_features) == (6, 6, 24)
    assert isinstance(conv.weight, nn.Parameter)
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(conv(x), wide[0](x))


def test_tied_tensors_are_widened_once_and_stay_tied() -> None:
    one, other = nn.Linear(3, 4), nn.Linear(3, 4)
    other.weight = one.weight
    tied = nn.Sequential(one, other)
    large = copy.deepcopy(tied)
    append(large, "0.weight", 0, torch.zeros(2, 3))
    plan = widening(tied, large.state_dict())
    assert plan.added == (Added("0.weight", 0, 4, 2),)
    add(tied, plan)
    assert tied[0].weight is tied[1].weight
    assert tied[1].weight.shape == (6, 3)


def test_nothing_is_added_where_nothing_is_larger() -> None:
    assert widening(net(), net().state_dict()).added == ()


@pytest.mark.parametrize(
    "part",
    [
        {"tensor": "0.weight", "dim": 0, "size": 4, "number": -2},
        {"tensor": "0.weight", "dim": 0, "size": 4, "number": 1.5},
        {"tensor": "0.weight", "dim": 0, "size": 4},
        {"tensor": "0.weight", "dim": 0, "size": 5, "number": 2},
        {"tensor": "0.weight", "dim": 7, "size": 4, "number": 2},
        {"tensor": "nowhere", "dim": 0, "size": 4, "number": 2},
    ],
)
def test_a_damaged_or_foreign_plan_is_refused(part: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="widening plan"):
        add(net(), WideningPlan.from_json({"added": [part]}))

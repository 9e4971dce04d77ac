"""A plan is data: it survives JSON, and a hostile one is refused before anything is changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from extcon_cli.channels import RemovalPlan, channel_groups, plan_removal, remove
from extcon_cli.errors import CheckpointError


def build() -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    module[0].weight.data[[0, 1, 3]] = 0.0
    module[2].weight.data[2] = 0.0
    return module.eval()


def made() -> dict[str, Any]:
    module = build()
    return plan_removal(module, channel_groups(module, (torch.randn(2, 3, 9, 9),))).to_json()


def test_a_plan_survives_json_and_says_what_goes() -> None:
    removal = RemovalPlan.from_json(json.loads(json.dumps(made())))
    assert removal.to_json() == made()
    gone = {(cut.parameter, cut.dim): cut.removed for cut in removal.cuts}
    assert gone == {
        ("0.weight", 0): ((0, 2), (3, 4)),
        ("0.bias", 0): ((0, 2), (3, 4)),
        ("2.weight", 1): ((0, 2), (3, 4)),
        ("2.weight", 0): ((2, 3),),
        ("2.bias", 0): ((2, 3),),
        ("4.weight", 1): ((2, 3),),
    }
    assert [(fold.weight, fold.bias, fold.channels) for fold in removal.folds] == [("2.weight", "2.bias", (0, 1, 3))]


def test_planning_again_on_the_smaller_module_removes_nothing() -> None:
    module = build()
    remove(module, RemovalPlan.from_json(made()))
    assert plan_removal(module, channel_groups(module, (torch.randn(2, 3, 9, 9),))) == RemovalPlan()


def test_an_empty_plan_changes_nothing() -> None:
    module = build()
    held = list(module.parameters())
    remove(module, RemovalPlan())
    assert all(a is b for a, b in zip(module.parameters(), held, strict=True))


Change = Callable[[dict[str, Any]], Any]


def size(module: str = "0", attribute: str = "num_heads", after: int = 2) -> dict[str, Any]:
    return {"module": module, "attribute": attribute, "before": 4, "after": after}


def merge(**other: Any) -> dict[str, Any]:
    return {"weight": "2.weight", "groups": 1, "channels": [0], "into": [2], "gains": [1.0], **other}


HOSTILE: dict[str, Change] = {
    "no format": lambda data: data.pop("format"),
    "another format": lambda data: data.update(format=4),
    "no cuts": lambda data: data.pop("cuts"),
    "cuts that are a number": lambda data: data.update(cuts=3),
    "cuts that are names": lambda data: data.update(cuts=["0.weight"]),
    "a cut without a size": lambda data: data["cuts"][0].pop("size"),
    "ranges out of order": lambda data: data["cuts"][0].update(removed=[[3, 4], [0, 2]]),
    "ranges that overlap": lambda data: data["cuts"][0].update(removed=[[0, 2], [1, 3]]),
    "a range the wrong way": lambda data: data["cuts"][0].update(removed=[[2, 0]]),
    "a range below zero": lambda data: data["cuts"][0].update(removed=[[-1, 2]]),
    "a range past the end": lambda data: data["cuts"][0].update(removed=[[0, 7]]),
    "a range of three": lambda data: data["cuts"][0].update(removed=[[0, 1, 2]]),
    "an infinite range": lambda data: data["cuts"][0].update(removed=[[0, float("inf")]]),
    "everything goes": lambda data: data["cuts"][0].update(removed=[[0, 6]]),
    "a dimension below zero": lambda data: data["cuts"][0].update(dim=-1),
    "a dimension that is not there": lambda data: data["cuts"][0].update(dim=4),
    "another size": lambda data: data["cuts"][0].update(size=8),
    "an enormous size": lambda data: data["cuts"][0].update(size=10**15, removed=[[0, 10**14]]),
    "the same cut twice": lambda data: data["cuts"].append(data["cuts"][0]),
    "a parameter that is not there": lambda data: data["cuts"][0].update(parameter="9.weight"),
    "a fold into nothing": lambda data: data["folds"][0].update(weight="9.weight"),
    "a fold into the bias of nothing": lambda data: data["folds"][0].update(bias="9.bias"),
    "a fold into a bias of another size": lambda data: data["folds"][0].update(bias="0.bias"),
    "a fold of a channel that is not there": lambda data: data["folds"][0].update(channels=[0, 1, 6]),
    "a fold of a channel below zero": lambda data: data["folds"][0].update(channels=[-1, 1, 3]),
    "fewer constants than channels": lambda data: data["folds"][0].update(constants=[1.0]),
    "a constant that is no number": lambda data: data["folds"][0].update(constants=[1.0, 2.0, float("nan")]),
    "a fold in no groups": lambda data: data["folds"][0].update(groups=0),
    "a fold along a dimension that is not there": lambda data: data["folds"][0].update(dim=2),
    "a merge into what goes": lambda data: data.update(merges=[merge(into=[0])]),
    "a merge of what is not there": lambda data: data.update(merges=[merge(into=[6])]),
    "a merge that is no number": lambda data: data.update(merges=[merge(gains=[float("inf")])]),
    "sizes that are a number": lambda data: data.update(sizes=2),
    "a size of another module": lambda data: data.update(sizes=[size(module="9")]),
    "a size that the module has not": lambda data: data.update(sizes=[size()]),
    "an attribute that names no size": lambda data: data.update(sizes=[size(attribute="training")]),
    "a size below one": lambda data: data.update(sizes=[size(after=0)]),
    "a size that grows": lambda data: data.update(sizes=[size(after=9)]),
    "a fold in three groups": lambda data: data["folds"][0].update(groups=3),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plan_is_refused_and_nothing_is_changed(name: str) -> None:
    data = json.loads(json.dumps(made()))
    HOSTILE[name](data)
    module = build()
    state, shown = copy.deepcopy(module.state_dict()), repr(module)
    with pytest.raises(CheckpointError) as caught:
        remove(module, RemovalPlan.from_json(data))
    assert "\n" not in str(caught.value)
    assert repr(module) == shown
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("data", [None, [], "format", 1, {}])
def test_what_is_no_plan_at_all(data: Any) -> None:
    with pytest.raises(CheckpointError, match="removal plan in the checkpoint is damaged"):
        RemovalPlan.from_json(data)


def test_another_architecture_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Sigmoid(), nn.Conv2d(7, 4, 3))
    with pytest.raises(CheckpointError, match="it is another architecture"):
        remove(module, RemovalPlan.from_json(made()))
    assert module[0].weight.shape == (7, 3, 3, 3)

"""`plan`: predicts exactly what `prune` leaves; its file is taken edited or not, and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import extcon_cli
from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters
from extcon_cli.channels import channel_groups
from extcon_cli.checkpoint.architectures import build
from extcon_cli.errors import DataError, UsageError
from extcon_cli.pipelines.plan import plan
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.pruning.plan_file import planned, read_plan
from extcon_cli.pipelines.pruning.prune_run import PruneState
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.previews import PlanResult

MODEL: dict[str, Any] = {"arch": "zoo:digits_resnet", "kwargs": {"widths": [6, 8], "blocks": 1}}


def recipe(**section: Any) -> Recipe:
    short: dict[str, Any] = {
        "score": {"batches": 2},
        "bifurcate": {"method": "none", "steps": 1},
        "compensate": {"enabled": False},
        "finetune": {"steps": 1},
    }
    model, data = {**MODEL, "input_shape": [1, 8, 8]}, {"dataset": "digits", "batch_size": 50}
    return from_dict({"model": model, "data": data, "prune": {**short, **section}})


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fresh") / "net.pt"
    torch.save(build(MODEL["arch"], MODEL["kwargs"]).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def made(fresh: Path) -> tuple[Path, PlanResult]:
    path = fresh.with_name("net.plan.json")
    return path, plan(fresh, recipe(target={"params": 0.5}), output=path, device="cpu", latency=False)


def edited(made: tuple[Path, PlanResult], path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the plan after an edit; `edit` sees the groups by name, and the document as `""`."""
    document = json.loads(made[0].read_text())
    edit({"": document, **{group["name"]: group for group in document["groups"]}})
    path.write_text(json.dumps(document))
    return path


def test_prune_leaves_what_the_plan_predicts(fresh: Path, made: tuple[Path, PlanResult], tmp_path: Path) -> None:
    path, predicted = made
    by_plan = prune(fresh, recipe(), output=tmp_path / "a.safetensors", plan=path, device="cpu")
    by_target = prune(fresh, recipe(target={"params": 0.5}), output=tmp_path / "b.safetensors", device="cpu")
    assert by_plan.after.size == by_target.after.size == predicted.after
    assert by_plan.before.size == predicted.before
    assert by_plan.removal.filters == predicted.filters == sum(len(group.remove) for group in predicted.groups)
    assert by_plan.removal.requested_ratio is None
    assert by_plan.removal.target is None
    first, second = (extcon_cli.load(tmp_path / name).state_dict() for name in ("a.safetensors", "b.safetensors"))
    assert all(torch.equal(first[key], second[key]) for key in second)


def test_a_plan_tells_how_much_each_layer_matters(made: tuple[Path, PlanResult], fresh: Path) -> None:
    groups = {group.name: group for group in made[1].groups}
    assert {name for name, group in groups.items() if group.reason is None} == {
        name for name, group in groups.items() if group.sensitivity is not None
    }
    assert any(abs(group.sensitivity or 0) > 0 for group in groups.values())
    without = plan(fresh, recipe(), output=made[0].with_name("fast.json"), samples=0, device="cpu", latency=False)
    assert all(group.sensitivity is None for group in without.groups)


def test_nothing_is_left_beside_the_plan(made: tuple[Path, PlanResult]) -> None:
    assert {path.suffix for path in made[0].parent.iterdir()} == {".json", ".pt"}


def test_an_edited_plan_is_followed(fresh: Path, made: tuple[Path, PlanResult], tmp_path: Path) -> None:
    def mine(groups: dict[str, Any]) -> None:
        groups["stages.1.0.conv1"]["remove"] = [1, 3, 7]
        for name in set(groups) - {"", "stages.1.0.conv1"}:
            groups[name]["remove"] = []

    path = edited(made, tmp_path / "mine.json", mine)
    result = prune(fresh, recipe(), output=tmp_path / "net.safetensors", plan=path, device="cpu")
    changed = {layer.name: layer.after for layer in result.layers if layer.after != layer.before}
    assert changed == {"stages.1.0.conv1": 5, "stages.1.0.bn1": 5}


def remove(name: str, channels: Any) -> Callable[[dict[str, Any]], None]:
    return lambda groups: groups[name].update(remove=channels)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda groups: groups["fc"].update(name="fcc"), "'fcc' is no group of this model; the nearest are fc"),
        (remove("fc", [0]), "fc: cannot lose channels: is an output"),
        (remove("stages.1.0.conv1", [8]), "has channels 0 to 7, so not 8"),
        (remove("stages.1.0.conv1", [-1]), "so not -1"),
        (remove("stages.1.0.conv1", [1, 1]), "a channel is there twice"),
        (remove("stages.1.0.conv1", list(range(8))), "8 of 8 channels are too many: 1 should stay"),
        (remove("stages.1.0.conv1", [1.5]), "should be a list of channel numbers"),
        (remove("stages.1.0.conv1", "half"), "should be a list of channel numbers"),
        (lambda groups: groups["stages.1.0.conv1"].update(channels=64), "has 8 channels, not 64"),
        (lambda groups: groups[""]["groups"].append({"remove": [1]}), "should be a group with a `name`"),
        (lambda groups: groups[""]["groups"].append(groups["fc"]), "fc is there twice"),
        (lambda groups: [group.update(remove=[]) for group in groups[""]["groups"]], "no group loses a channel"),
        (lambda groups: groups[""].update(groups={}), "`groups` should be a list"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(
    fresh: Path, made: tuple[Path, PlanResult], tmp_path: Path, edit: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = edited(made, tmp_path / "mine.json", edit)
    with pytest.raises(UsageError, match=says):
        prune(fresh, recipe(), output=tmp_path / "net.safetensors", plan=path, device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"command": "prune"}', "\x00"])
def test_a_file_that_is_no_plan_is_refused(fresh: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is no plan"):
        prune(fresh, recipe(), output=tmp_path / "net.safetensors", plan=path, device="cpu")


def test_a_score_that_trains_is_refused(fresh: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="race does: choose energy"):
        plan(fresh, recipe(score={"method": "race"}), output=tmp_path / "x.json", device="cpu", latency=False)


def test_groups_that_stay_alike_lose_the_same_share() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
    channels = channel_groups(module, (torch.randn(2, 4),))
    filters = Filters.of(channels.groups)
    tie = Tie(filters.groups, parts=3, allowed=(1, 2))

    def rows(first: int, second: int) -> dict[str, Any]:
        return {"groups": [{"name": "0", "remove": list(range(first))}, {"name": "2", "remove": list(range(second))}]}

    assert int(planned(rows(2, 4), channels, filters, "p.json", [tie]).sum()) == 6
    for first, second in ((2, 3), (1, 2), (2, 0)):
        with pytest.raises(UsageError, match="stay alike"):
            planned(rows(first, second), channels, filters, "p.json", [tie])
        assert planned(rows(first, second), channels, filters, "p.json").any()


def test_a_run_goes_on_with_its_own_plan_only() -> None:
    mask = torch.tensor([True, False, True])
    state = PruneState(selected=mask)
    state.check(mask.clone())
    state.check(None)
    with pytest.raises(UsageError, match="other filters than --plan"):
        state.check(~mask)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "\udcff"], ids=["nested", "a number", "no text"])
def test_a_file_that_is_no_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=r"plan\.json is no plan"):
        read_plan(tmp_path / "plan.json")

"""`train` end to end on the digits: what it writes, what it selects on, and that a kill changes no byte."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

import extcon_cli
from extcon_cli.errors import DataError, GateError, Interrupted, RecipeError, UsageError
from extcon_cli.events import Event, Noted, PhaseEnded, PhaseStarted, Progress, Saved
from extcon_cli.pipelines import guided as guided_training
from extcon_cli.pipelines import train as pipeline
from extcon_cli.pipelines.evaluate import evaluate
from extcon_cli.pipelines.guided import fit_guided
from extcon_cli.pipelines.running import phase
from extcon_cli.pipelines.running.rehearsal import planned_steps
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.serialise import to_json
from extcon_cli.tasks import Task
from extcon_cli.training import run_directory


class Killed(BaseException):
    """Stands for a kill: nothing in extcon catches it, so nothing is tidied up."""


def recipe(**changes: Any) -> Recipe:
    """A narrow net with augmentation, a few steps."""
    values: dict[str, Any] = {
        "model": {"arch": "zoo:digits_resnet", "kwargs": {"widths": [4, 6], "blocks": 1}, "input_shape": [1, 8, 8]},
        "data": {"dataset": "digits", "batch_size": 100, "augment": {"crop_padding": 1}},
        "train": {"epochs": 2, "optimizer": {"lr": 0.1}},
    }
    for key, value in changes.items():
        section = values.setdefault(key, {})
        values[key] = {**section, **value} if isinstance(value, dict) else value
    return from_dict(values)


def run(output: Path, recipe: Recipe, **others: Any) -> dict[str, Any]:
    return to_json(train(recipe, **{"checkpoint": None, "output": output, "device": "cpu", **others}))


def test_the_result_the_file_and_evaluate_agree(tmp_path):
    events: list[Event] = []
    output = tmp_path / "net.safetensors"

    document = run(output, recipe(), emit=events.append)

    json.dumps(document, allow_nan=False)
    assert (document["schema"], document["command"]) == ("extcon/1", "train")
    assert document["metrics"]["accuracy"] > 0.15
    assert document["params"] == sum(p.numel() for p in extcon_cli.load(output).parameters())
    embedded = from_dict(document["recipe"])
    for split, key in (("test", "metrics"), ("validation", "validation")):
        assert evaluate(output, embedded, split=split, device="cpu").metrics == document[key]
    assert {type(e) for e in events} >= {PhaseStarted, Progress, PhaseEnded, Saved}
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert last.done == 24
    assert {"loss", "accuracy", "lr"} <= set(last.metrics)
    assert last.validated == 24
    assert last.validation["accuracy"] == document["history"]["phases"][0]["validation"]["accuracy"][-1]


def test_the_file_says_all(tmp_path):
    output = tmp_path / "net.safetensors"
    document = run(output, recipe())
    with safe_open(output, "pt") as file:
        told = {key.removeprefix("extcon."): value for key, value in file.metadata().items()}
    assert json.loads(told["arch"]) == "zoo:digits_resnet"
    assert json.loads(told["input_shape"]) == [1, 8, 8]
    assert json.loads(told["classes"]) == 10
    assert json.loads(told["normalize"]) == json.loads(told["recipe"])["data"]["normalize"]
    assert json.loads(told["history"])[0]["metrics"] == document["metrics"]


def test_a_plain_state_dict_where_the_name_asks_for_one(tmp_path):
    document = run(tmp_path / "net.pt", recipe())
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    assert set(state) > {"stem.0.weight", "fc.bias"}
    again = evaluate(tmp_path / "net.pt", recipe(), device="cpu")
    assert again.metrics == document["metrics"]


def test_history_has_a_point_for_each_step(tmp_path):
    found = run(tmp_path / "net.pt", recipe())["history"]["phases"][0]
    assert found["steps"] == list(range(1, 25))
    assert len(found["loss"]) == len(found["accuracy"]) == 24
    assert found["validation"]["steps"] == [12, 24]
    assert found["accuracy"][:11] == [None] * 11
    assert found["accuracy"][-1] == found["validation"]["accuracy"][-1]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_kept_state_is_the_best_on_validation_or_the_last(tmp_path, keep):
    document = run(tmp_path / "net.pt", recipe(train={"epochs": 4, "optimizer": {"lr": 0.3}, "keep": keep}))
    seen = document["history"]["phases"][0]["validation"]
    order = sorted(range(4), key=lambda i: (-seen["accuracy"][i], seen["loss"][i]))
    kept = order[0] if keep == "best" else 3
    assert document["best_step"] == seen["steps"][kept]
    assert document["validation"]["loss"] == pytest.approx(seen["loss"][kept], abs=1e-9)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    "changes",
    [{"optimizer": {"name": "sgd", "lr": 0.1}}, {"optimizer": {"name": "adamw"}, "average": 0.6, "keep": "last"}],
)
def test_killed_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch, suffix, changes):
    monkeypatch.setattr(run_directory, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(phase, "PROGRESS_EVERY", 0.0)
    wanted = recipe(train={"epochs": 2, **changes})
    whole, parts = tmp_path / f"a/net.{suffix}", tmp_path / f"b/net.{suffix}"
    for path in (whole, parts):
        path.parent.mkdir()
    document = run(whole, wanted)

    for kill in (3, 12, 13, 24):  # steps; with looks at the validation data at 12 and 24

        def listen(event: Event, kill: int = kill) -> None:
            if isinstance(event, Progress) and event.done == kill and event.metrics:
                raise Killed

        with pytest.raises(Killed):
            run(parts, wanted, emit=listen, resume=kill > 3)
        assert not parts.exists()
    resumed = run(parts, wanted, resume=True)

    assert parts.read_bytes() == whole.read_bytes()
    for key in ("metrics", "validation", "best_step", "kept", "history"):
        assert resumed[key] == document[key]


def test_a_deep_net_grows_and_a_stop_between_two_insertions_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(phase, "PROGRESS_EVERY", 0.0)
    kwargs = {"in_features": 64, "widths": [8] * 7, "num_classes": 10}
    deep = recipe(model={"arch": "zoo:mlp", "kwargs": kwargs}, train={"grow": "depth", "optimizer": {"name": "adam"}})
    events: list[Event] = []
    run(tmp_path / "whole.pt", deep, emit=events.append)
    layers = [event.metrics["layers"] for event in events if isinstance(event, Progress) and event.metrics]
    assert (layers[0], layers[11], layers[-1]) == (0, 6, 6)

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 7 and event.metrics:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "parts.pt", deep, emit=listen)
    run(tmp_path / "parts.pt", deep, resume=True)
    whole, parts = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(parts[key], tensor) for key, tensor in whole.items())
    run(tmp_path / "net.safetensors", deep)
    with pytest.raises(RecipeError, match="begins at new weights"):
        run(tmp_path / "on.safetensors", deep, checkpoint=tmp_path / "net.safetensors")


def test_guides_come_first_and_a_stop_in_any_phase_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(phase, "PROGRESS_EVERY", 0.0)
    kwargs = {"in_features": 64, "widths": [8, 8], "num_classes": 10}
    guided = recipe(
        model={"arch": "zoo:mlp", "kwargs": kwargs},
        train={"guides": [0.25, 0.5], "epochs": None, "steps": 8, "average": 0.5, "optimizer": {"name": "adam"}},
    )
    events: list[Event] = []
    document = run(tmp_path / "whole.pt", guided, emit=events.append)
    names = ["guide 0.25", "guide 0.5", "train"]
    assert planned_steps("train", guided, 12) == dict.fromkeys(names, 8)
    assert [item["phase"] for item in document["history"]["phases"]] == names
    assert set(names) < set(document["seconds"])
    shown = [event.metrics.get("guidance") for event in events if isinstance(event, Progress) and event.metrics]
    assert shown == [None] * 8 + 2 * [0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]

    for number, (at, done) in enumerate([("guide 0.25", 3), ("guide 0.5", 2), ("guide 0.5", 8), ("train", 5)]):
        seen = []

        def listen(event: Event, at: str = at, done: int = done, seen: list[str] = seen) -> None:
            if isinstance(event, PhaseStarted):
                seen.append(event.phase)
            if isinstance(event, Progress) and event.phase == at and event.done == done and event.metrics:
                raise Killed

        with pytest.raises(Killed):
            run(tmp_path / "parts.pt", guided, emit=listen, resume=number > 0)
    resumed = run(tmp_path / "parts.pt", guided, resume=True)
    assert resumed["history"] == document["history"]
    assert (tmp_path / "parts.pt").read_bytes() == (tmp_path / "whole.pt").read_bytes()


def test_guides_have_a_say_in_what_is_learnt(tmp_path, monkeypatch):
    guided = recipe(train={"guides": [0.5], "epochs": None, "steps": 4, "keep": "last"})
    run(tmp_path / "guided.pt", guided)
    for name in ("OUTPUTS", "strength"):  # without what the outputs say; without any guidance
        monkeypatch.setattr(guided_training, name, 0.0 if name == "OUTPUTS" else lambda done, steps: 0.0)
        run(tmp_path / f"{name}.pt", guided)
    states = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("guided", "OUTPUTS", "strength")]
    for first, second in combinations(states, 2):
        assert any(not torch.equal(first[key], second[key]) for key in first)


def test_guides_are_for_new_weights_in_one_process_and_for_tasks_that_can_be_taught(tmp_path, monkeypatch):
    guided = recipe(train={"guides": [0.5], "epochs": None, "steps": 1})
    run(tmp_path / "net.safetensors", recipe(train={"epochs": None, "steps": 1}))
    with pytest.raises(RecipeError, match="begins at new weights"):
        run(tmp_path / "on.safetensors", guided, checkpoint=tmp_path / "net.safetensors")
    with monkeypatch.context() as changed:
        several = SimpleNamespace(several=True)
        changed.setattr(pipeline, "fit_guided", lambda run: fit_guided(replace(run, processes=several)))
        with pytest.raises(RecipeError, match="in one process"):
            run(tmp_path / "other.safetensors", guided)
    with monkeypatch.context() as changed:
        changed.setattr(Task, "teachable", False)
        with pytest.raises(RecipeError, match="does not learn from another's outputs"):
            run(tmp_path / "other.safetensors", guided)
    with pytest.raises(RecipeError, match="should rise"):
        recipe(train={"guides": [0.5, 0.25]})
    with pytest.raises(RecipeError, match="a model has one way to begin"):
        recipe(train={"guides": [0.5], "grow": "depth"})


def test_a_mean_of_one_state_is_the_last_with_statistics_of_its_own(tmp_path):
    for name, average in (("last", None), ("mean", 0.01)):
        document = run(tmp_path / f"{name}.pt", recipe(train={"keep": "last", "average": average}))
        assert document["kept"] == ("last" if average is None else "average")
    last, mean = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("last", "mean"))
    moved = {key for key, tensor in mean.items() if not torch.equal(tensor, last[key])}
    assert moved == {key for key in last if "running" in key or "tracked" in key}


@pytest.mark.parametrize(("rate", "kept"), [(0.3, "average"), (0.02, "best")])
def test_the_mean_is_a_candidate_beside_the_best_state(tmp_path, rate, kept):
    events: list[Event] = []
    common = {"optimizer": {"lr": rate}, "schedule": {"name": "constant"}, "evaluate_every": 1}
    best = run(tmp_path / "best.pt", recipe(train=common))
    mean = run(tmp_path / "mean.pt", recipe(train={**common, "average": 0.8, "keep": "last"}))
    both = run(tmp_path / "both.pt", recipe(train={**common, "average": 0.8}), emit=events.append)
    assert best["kept"] == "best"
    assert both["kept"] == kept
    assert both["validation"] == (mean if kept == "average" else best)["validation"]
    judged = {
        name: (-d["validation"]["accuracy"], d["validation"]["loss"]) for name, d in (("best", best), ("average", mean))
    }
    assert kept == min(judged, key=judged.__getitem__)
    assert any(isinstance(event, Noted) and event.message.startswith("kept: the ") for event in events)


def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(tmp_path):
    whole, parts = tmp_path / "a.pt", tmp_path / "b.pt"
    document = run(whole, recipe())

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="--resume"):
        run(parts, recipe(), emit=listen)
    assert not parts.exists()
    assert run(parts, recipe(), resume=True)["metrics"] == document["metrics"]
    assert parts.read_bytes() == whole.read_bytes()


def test_resume_with_another_recipe_is_refused(tmp_path):
    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(tmp_path / "net.pt", recipe(), emit=listen)
    with pytest.raises(UsageError, match="another recipe"):
        run(tmp_path / "net.pt", recipe(train={"epochs": 3}), resume=True)


def test_goes_on_from_a_checkpoint_with_its_history(tmp_path):
    first = run(tmp_path / "a.safetensors", recipe(train={"epochs": 6}))
    gentle = recipe(train={"epochs": 1, "optimizer": {"lr": 1e-4}, "distill": {"weight": 0.5}})
    second = run(tmp_path / "b.safetensors", gentle, checkpoint=tmp_path / "a.safetensors")
    assert second["metrics"]["accuracy"] == pytest.approx(first["metrics"]["accuracy"], abs=0.1)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert len(json.loads(file.metadata()["extcon.history"])) == 2


def test_normalisation_of_the_checkpoint_stays(tmp_path):
    run(tmp_path / "a.safetensors", recipe(data={"normalize": {"mean": [0.1], "std": [0.9]}}))
    document = run(tmp_path / "b.safetensors", recipe(), checkpoint=tmp_path / "a.safetensors")
    assert document["recipe"]["data"]["normalize"] == {"mean": [0.1], "std": [0.9]}


def test_regression_on_the_eggholder(tmp_path):
    wanted = from_dict(
        {
            "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 2, "widths": [16], "num_classes": 1}},
            "data": {"dataset": "eggholder"},
            "task": "regression",
            "train": {"epochs": 30, "optimizer": {"name": "adam", "lr": 0.01}},
        }
    )
    document = run(tmp_path / "egg.safetensors", wanted)
    assert set(document["metrics"]) == {"loss", "r2"}
    assert document["recipe"]["model"]["input_shape"] == [2]
    assert "r2" in document["history"]["phases"][0]


def test_a_run_that_diverges_leaves_no_output(tmp_path):
    with pytest.raises(GateError, match="not finite"):
        run(tmp_path / "net.pt", recipe(train={"optimizer": {"lr": 1e30}}))
    assert not (tmp_path / "net.pt").exists()


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_outputs_that_cannot_be_written(tmp_path, name):
    output = tmp_path / name
    output.write_bytes(b"mine")
    with pytest.raises(UsageError, match="--force"):
        run(output, recipe())
    assert output.read_bytes() == b"mine"
    with pytest.raises(UsageError, match="does not exist"):
        run(tmp_path / "nowhere" / name, recipe())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        run(tmp_path / "folder" / name, recipe())


def test_recipes_that_name_no_model_or_no_data(tmp_path):
    with pytest.raises(RecipeError, match="no architecture"):
        run(tmp_path / "net.pt", recipe(model={"arch": None, "kwargs": {}}))
    with pytest.raises(RecipeError, match="no section `data`"):
        run(tmp_path / "net.pt", recipe().model_copy(update={"data": None}))
    with pytest.raises(RecipeError, match="a model to learn from"):
        run(tmp_path / "net.pt", recipe(train={"distill": {}}))


def test_a_model_that_does_not_fit_the_data(tmp_path):
    with pytest.raises(DataError, match="labels run up to 9, but the model has 4 outputs"):
        run(tmp_path / "net.pt", recipe(model={"kwargs": {"num_classes": 4}}))
    with pytest.raises(DataError, match="does not take an input of"):
        run(tmp_path / "net.pt", recipe(model={"kwargs": {"channels": 3}}))

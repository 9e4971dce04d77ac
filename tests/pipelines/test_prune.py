"""`prune` end to end on the digits: the ratio, the exactness, the file, the gates, and that a kill changes no byte."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import extcon_cli
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.errors import GateError, Interrupted
from extcon_cli.events import Event, PhaseEnded, PhaseStarted, Progress
from extcon_cli.pipelines import prune as pruning
from extcon_cli.pipelines.evaluate import evaluate
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.running import phase
from extcon_cli.pipelines.running.gates import Limits
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.serialise import to_json
from extcon_cli.training import run_directory

MODEL = {"arch": "zoo:digits_resnet", "kwargs": {"widths": [6, 8], "blocks": 1}, "input_shape": [1, 8, 8]}
DATA = {"dataset": "digits", "batch_size": 100, "augment": {"crop_padding": 1}}


class Killed(BaseException):
    """Stands for a kill: nothing in extcon catches it, so nothing is tidied up."""


def recipe(**prune_section: Any) -> Recipe:
    """A short job; the keys given replace those of the section `prune`."""
    short: dict[str, Any] = {
        "ratio": 0.5,
        "score": {"batches": 4},
        "bifurcate": {"method": "flow", "steps": 12},
        "finetune": {"steps": 16, "optimizer": {"lr": 0.02}},
    }
    return from_dict({"model": MODEL, "data": DATA, "prune": {**short, **prune_section}})


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow net, trained for a moment, as a plain state dict."""
    path = tmp_path_factory.mktemp("dense") / "net.pt"
    values = {"model": MODEL, "data": DATA, "train": {"epochs": 4, "optimizer": {"lr": 0.1}}}
    train(from_dict(values), checkpoint=None, output=path, device="cpu")
    return path


def run(dense: Path, output: Path, recipe: Recipe, **others: Any) -> dict[str, Any]:
    return to_json(prune(dense, recipe, **{"output": output, "device": "cpu", **others}))


def test_the_result_the_file_and_evaluate_agree(dense: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    output = tmp_path / "net.safetensors"
    wanted = recipe(compensate={"hand_over": "local", "images": 200})
    document = run(dense, output, wanted, emit=events.append)

    json.dumps(document, allow_nan=False)
    removal, certificate = document["removal"], document["certificate"]
    assert abs(removal["filters"] - 0.5 * removal["prunable"]) <= 1
    assert removal["metrics_before_removal"]["accuracy"] == removal["metrics_after_removal"]["accuracy"]
    assert certificate["exact"]
    assert certificate["evaluation"]["samples"] == 360
    assert removal["relative_difference"] <= 1e-5

    small = extcon_cli.load(output)
    assert sum(p.numel() for p in small.parameters()) == document["after"]["params"] < document["before"]["params"]
    assert evaluate(output, from_dict(document["recipe"]), device="cpu").metrics == document["after"]["metrics"]
    widths = {layer["name"]: layer for layer in document["layers"]}
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d):
            assert widths[name]["after"] == module.out_channels == module.weight.shape[0]
    assert sum(layer["after"] < layer["before"] for layer in document["layers"]) > 5

    assert [e.phase for e in events if isinstance(e, PhaseEnded)] == [
        "score", "compensate", "bifurcate", "remove", "finetune", "latency",
    ]  # fmt: skip
    dead = [e.metrics["dead"] for e in events if isinstance(e, Progress) and "dead" in e.metrics]
    assert dead[-1] == removal["filters"]


def test_compensated_choice_and_sequential_hand_over_keep_more_right_after_removal(dense: Path, tmp_path: Path) -> None:
    """At once, without any training between."""
    plain = {"batches": 4}, {"enabled": False}
    led = {"method": "compensated", "images": 200}, {"hand_over": "sequential"}
    found = {}
    for name, (score, over) in {"plain": plain, "led": led}.items():
        wanted = recipe(score=score, compensate=over, bifurcate={"method": "none"}, finetune={"steps": 1})
        found[name] = run(dense, tmp_path / f"{name}.safetensors", wanted)["removal"]
    assert found["plain"]["filters"] == found["led"]["filters"]
    assert found["led"]["relative_difference"] <= 1e-5
    after = {name: removal["metrics_after_removal"]["accuracy"] for name, removal in found.items()}
    assert after["led"] > after["plain"] + 0.1


def test_the_bifurcation_is_recorded_for_the_report(dense: Path, tmp_path: Path) -> None:
    trace = run(dense, tmp_path / "net.safetensors", recipe())["history"]["bifurcation"]
    norm, d, decided = (torch.tensor(trace[key]) for key in ("norm", "d", "decided"))
    assert trace["steps"] == list(range(13))
    assert norm.shape == d.shape == (13, len(decided))
    assert torch.equal(norm[6:] == 0, decided.expand(7, -1))  # half of the phase, then held
    assert (norm[:6] > 0).all()
    assert (d[:, ~decided] == 0).all()
    assert (d[-1, decided] > 0.5 * norm[0, decided]).all()


@pytest.mark.parametrize("moment", ["bifurcate", "flow over", "removal", "finetune"])
@pytest.mark.parametrize("compensate", ["none", "local", "sequential"])
def test_killed_and_resumed_gives_the_same_bytes(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, compensate: str
) -> None:
    monkeypatch.setattr(run_directory, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run_directory.RunDirectory, "due", lambda self: True)
    monkeypatch.setattr(phase, "PROGRESS_EVERY", 0.0)
    over = {"enabled": False} if compensate == "none" else {"hand_over": compensate, "images": 200}
    wanted = recipe(compensate=over)
    whole, parts = tmp_path / "a/net.safetensors", tmp_path / "b/net.safetensors"
    for path in (whole, parts):
        path.parent.mkdir()
    document = run(dense, whole, wanted)

    def kill(event: Event) -> None:
        at = {"bifurcate": ("bifurcate", 4), "flow over": ("bifurcate", 9), "finetune": ("finetune", 11)}
        if moment == "removal" and isinstance(event, PhaseStarted) and event.phase == "remove":
            raise Killed
        if isinstance(event, Progress) and (event.phase, event.done) == at.get(moment) and event.metrics:
            raise Killed

    with pytest.raises(Killed):
        run(dense, parts, wanted, emit=kill)
    assert not parts.exists()
    resumed = run(dense, parts, wanted, resume=True)
    assert parts.read_bytes() == whole.read_bytes()
    for key in ("before", "after"):
        assert resumed[key]["metrics"] == document[key]["metrics"]
    assert resumed["history"]["bifurcation"] == document["history"]["bifurcation"]
    assert [p["loss"] for p in resumed["history"]["phases"]] == [p["loss"] for p in document["history"]["phases"]]


def test_ctrl_c_leaves_a_resumable_run(dense: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "bifurcate" and event.done:
            signal.raise_signal(signal.SIGINT)

    output = tmp_path / "net.safetensors"
    with pytest.raises(Interrupted, match="--resume"):
        run(dense, output, recipe(), emit=stop)
    assert not output.exists()
    run(dense, output, recipe(), resume=True)
    assert output.exists()


def test_losing_too_much_writes_nothing(dense: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    rough = recipe(ratio=0.8, finetune={"steps": 1, "optimizer": {"lr": 1e-9}, "keep": "last"})
    with pytest.raises(GateError, match="--max-drop 0"):
        run(dense, output, rough, limits=Limits(max_drop=0.0))
    assert not output.exists()
    assert run(dense, output, rough, limits=Limits(max_drop=100.0), resume=True)["after"]["params"] > 0


def test_a_pruned_checkpoint_can_be_pruned_again(dense: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    first = run(dense, once, recipe(ratio=0.3))
    second = run(once, twice, recipe(ratio=0.3))
    assert second["before"]["metrics"] == first["after"]["metrics"]
    assert second["after"]["params"] < first["after"]["params"]
    small = extcon_cli.load(twice)
    assert sum(p.numel() for p in small.parameters()) == second["after"]["params"]


@pytest.mark.parametrize("score", ["race", "taylor", "magnitude", "random", "group_lasso"])
def test_every_score_ends_exact(dense: Path, tmp_path: Path, score: str) -> None:
    wanted = recipe(score={"method": score, "steps": 5, "batches": 3}, bifurcate={"method": "none", "steps": 1})
    document = run(dense, tmp_path / "net.safetensors", wanted)
    assert document["certificate"]["exact"]
    assert document["removal"]["ratio"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "method", [{"method": "proximal", "strength": 50.0}, {"method": "penalty", "strength": 5.0, "epsilon": 100.0}]
)
def test_the_papers_own_forms_end_exact(dense: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    document = run(dense, tmp_path / "net.safetensors", recipe(bifurcate={"steps": 20, **method}))
    assert document["certificate"]["exact"]


@pytest.mark.parametrize("method", ["proximal", "penalty"])
def test_a_missed_target_fails_honestly(dense: Path, tmp_path: Path, method: str) -> None:
    output = tmp_path / "net.safetensors"
    weak = recipe(bifurcate={"steps": 3, "method": method, "strength": 1e-4})
    with pytest.raises(GateError, match="target is missed"):
        run(dense, output, weak)
    assert not output.exists()


def test_a_ratio_that_the_floor_forbids_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="floor"):
        run(dense, tmp_path / "net.safetensors", recipe(ratio=0.95, decide={"floor": 0.5}))


def test_a_regression_is_pruned_as_well(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "model": {
            "arch": "zoo:mlp",
            "kwargs": {"in_features": 2, "widths": [12, 10], "num_classes": 1},
            "input_shape": [2],
        },
        "data": {"dataset": "eggholder", "batch_size": 16},
        "task": "regression",
        "train": {"epochs": 2, "optimizer": {"name": "adam", "lr": 1e-3}},
        "prune": {"score": {"batches": 3}, "bifurcate": {"steps": 6}, "finetune": {"steps": 6}},
    }
    train(from_dict(values), checkpoint=None, output=tmp_path / "net.pt", device="cpu")
    document = run(tmp_path / "net.pt", tmp_path / "small.safetensors", from_dict(values))
    assert document["certificate"]["exact"]
    assert set(document["after"]["metrics"]) == {"loss", "r2"}
    assert document["removal"]["filters"] == 11


TRANSFORMER = """
from torch import nn
from torchvision.models import VisionTransformer

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = VisionTransformer(8, 2, 2, 4, 32, 64, num_classes=10)

    def forward(self, x):
        return self.net(x.expand(-1, 3, -1, -1))
"""


def test_a_transformer_loses_heads_neurons_and_width_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(TRANSFORMER)
    model = {"arch": f"{tmp_path / 'net.py'}:Small", "input_shape": [1, 8, 8]}
    values = {"model": model, "data": {"dataset": "digits", "batch_size": 100}}
    adam = {"optimizer": {"name": "adam", "lr": 1e-3}}
    trained, output = tmp_path / "net.safetensors", tmp_path / "small.safetensors"
    train(from_dict({**values, "train": {"epochs": 2, **adam}}), checkpoint=None, output=trained, device="cpu",
          trust=Trust(code=True))  # fmt: skip
    short = {
        "ratio": 0.4,
        "score": {"batches": 4},
        "bifurcate": {"steps": 20, **adam},
        "finetune": {"steps": 10, **adam},
    }
    document = run(trained, output, from_dict({**values, "prune": short}), trust=Trust(code=True))
    assert document["certificate"]["exact"]
    assert document["removal"]["ratio"] == pytest.approx(0.4, abs=0.01)
    small = extcon_cli.load(output, trust_code=True)
    layer = small.net.encoder.layers[0]
    width, heads = layer.ln_1.normalized_shape[0], layer.self_attention.num_heads
    assert width < 32
    assert layer.self_attention.in_proj_weight.shape == (3 * 8 * heads, width)
    assert layer.mlp[0].out_features < 64
    metrics = evaluate(output, from_dict(values), device="cpu", trust=Trust(code=True)).metrics
    assert metrics == document["after"]["metrics"]


def test_a_filter_that_was_dead_before_does_not_stand_in_for_a_decided_one(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(dense, weights_only=True)
    for name in ("stages.0.0.bn1.weight", "stages.0.0.bn1.bias"):
        state[name][0] = 0.0
    torch.save(state, tmp_path / "half_dead.pt")
    bifurcate = pruning.bifurcate

    def all_but_one(job: Any, decided: torch.Tensor, *others: Any) -> Any:
        shrunk = bifurcate(job, decided, *others)
        number = int(decided.nonzero()[-1])
        weights = dict(job.module.named_parameters())
        with torch.no_grad():
            for part in job.filters.parts:
                weights[part.parameter][part.rows[part.owner == number]] = 0.5
        return shrunk

    monkeypatch.setattr(pruning, "bifurcate", all_but_one)
    kept = recipe(decide={"keep": ["stages.0.0.*"]}, ratio=0.3)
    output = tmp_path / "net.safetensors"
    with pytest.raises(GateError, match="1 of the decided channels"):
        run(tmp_path / "half_dead.pt", output, kept)
    assert not output.exists()

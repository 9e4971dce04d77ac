"""`extcon bypass` as a specification: it never ends worse than it began, says what it did, and resumes to the byte."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import extcon_cli
from extcon_cli.bypass.strategies import CONTROLS, EXTENSIONS
from extcon_cli.bypass.strategies.base import Scoring
from extcon_cli.channels.compare import EXACT
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.errors import GateError, Interrupted
from extcon_cli.events import Event, Noted, Progress
from extcon_cli.pipelines.bypass import bypass
from extcon_cli.pipelines.bypassing.branch import follow
from extcon_cli.pipelines.bypassing.diagnosis import diagnose
from extcon_cli.pipelines.bypassing.stalled import Stalled, stalled_model
from extcon_cli.pipelines.running.prepare import prepare
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.report.results.bypass import Branch, Diagnosis
from extcon_cli.report.serialise import to_json
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.loop import Trainer
from extcon_cli.training.optim import optimizer
from extcon_cli.training.run_directory import RunDirectory

RECIPE = {
    "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 64, "widths": [16]}, "input_shape": [1, 8, 8]},
    "data": {"dataset": "digits", "batch_size": 64},
    "train": {"epochs": 2, "optimizer": {"name": "adam", "lr": 0.2}, "schedule": {"name": "constant"}, "keep": "last"},
    "bypass": {"probe": {"steps": 20}, "opt_1": {"steps": 30}, "opt_2": {"steps": 30}, "train_3": {"steps": 20}},
}


@pytest.fixture(scope="module")
def stalled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stalled") / "mlp.safetensors"
    train(from_dict(RECIPE), checkpoint=None, output=path, device="cpu")
    return path


def run(stalled: Path, output: Path, **more: Any) -> dict[str, Any]:
    recipe = from_dict(RECIPE, overrides=more.pop("overrides", ()))
    return to_json(bypass(stalled, recipe, output=output, device="cpu", **{"ignore_probe": True, **more}))


def chosen_by(document: dict[str, Any], names: set[str]) -> str:
    """The least calibrated loss of those whose own loss is not above that of theta*."""
    losses, calibrated = document["validation"], document["calibrated"]
    assert all(calibrated[name]["loss"] <= losses[name] * (1 + 1e-6) for name in losses)
    return min((n for n in names if losses[n] <= losses["theta*"]), key=lambda name: calibrated[name]["loss"])


def test_the_result_is_never_worse_on_validation(stalled: Path, tmp_path: Path) -> None:
    document = run(stalled, tmp_path / "out.safetensors")
    losses = document["validation"]
    assert set(losses) == {"theta*", "baseline", *CONTROLS, *EXTENSIONS} - {"perturbed", "identity"}  # it is not deep
    assert document["verdict"] == chosen_by(document, {*losses} - {*CONTROLS})
    certificate = document["certificate"]
    assert certificate["diag"]["contracted"]
    for way in ("mirror", "widen"):
        assert certificate[way]["contracted"]
        assert certificate[way]["embed_difference"] <= EXACT
        assert certificate[way]["difference_after_contraction"] <= EXACT
    assert certificate["mirror"]["embed_difference"] == 0
    assert 0 < certificate["mirror"]["mirror_difference"] <= EXACT
    for gap in ("embed_difference", "projection_difference", "difference_after_contraction"):
        assert certificate["diag"][gap] == 0
    assert sum(certificate["revive"]["revived"].values()) > 0
    assert certificate["revive"]["embed_difference"] <= EXACT
    assert certificate["shrink"]["preserves"] is False
    assert certificate["shrink"]["averaged"] == 6  # steps 32, 42... 72, and the last, of 80
    assert document["before"]["params"] == document["after"]["params"]
    assert isinstance(extcon_cli.load(tmp_path / "out.safetensors")(torch.zeros(1, 1, 8, 8)), torch.Tensor)


def test_a_bfloat16_model_is_chosen_and_reported_by_what_is_written(stalled: Path, tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in extcon_cli.load(stalled).state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    document = run(tmp_path / "half.pt", tmp_path / "out.safetensors", overrides=["bypass.extensions=[revive]"])
    assert document["verdict"] == "revive"
    written = prepare(from_dict(RECIPE), tmp_path / "out.safetensors")
    assert set(written.precision.values()) == {torch.bfloat16}
    kept = stalled_model(written, create_accelerator("cpu"))
    assert kept.metrics(written.module, "validation")["loss"] == document["validation"]["revive"]


def test_a_penalty_that_misses_gives_no_bypassed_model(stalled: Path, tmp_path: Path) -> None:
    few = ["bypass.opt_2.method=penalty", "bypass.opt_2.gamma=1e-6", "bypass.extensions=[diag]"]
    document = run(stalled, tmp_path / "out.safetensors", overrides=few)
    assert "diag" not in document["validation"]
    assert not document["certificate"]["diag"]["contracted"]
    assert "did not meet its constraint" in document["certificate"]["diag"]["reason"]
    with pytest.raises(GateError, match="no gain"):
        run(stalled, tmp_path / "gate.safetensors", overrides=few, require_gain=True)
    assert not (tmp_path / "gate.safetensors").exists()


@pytest.mark.parametrize("name", ["diag", "mirror", "widen"])
def test_bypass_in_your_own_loop_ends_with_the_weights_of_the_command(stalled: Path, name: str) -> None:
    recipe = from_dict(RECIPE)
    start = stalled_model(prepare(recipe, stalled), create_accelerator("cpu", "no"))
    branch = follow(start, Branch(name), start.theta)
    model, spec = start.model(start.theta).train(), recipe.bypass.optimizer
    lengths = {"opt_1": start.phases.opt_1, "opt_2": start.phases.opt_2}
    scoring = Scoring(start.batches, start.loss)
    own = extcon_cli.Bypass(model, start.example, method="radius" if name == "diag" else name, scoring=scoring,
                            seed=recipe.seed, **lengths)  # fmt: skip
    own.model.train()
    moves = optimizer(spec, own.model.parameters())
    for step in range(start.phases.total):
        start.loss(own.model, start.loader.batch(step)).backward()
        moves.step()
        if own.step():
            moves = optimizer(spec, own.model.parameters())
        moves.zero_grad()
    own.contract()
    assert branch.weights is not None
    assert all(torch.equal(branch.weights[key], tensor) for key, tensor in model.state_dict().items())


def test_the_probe_stops_a_run_that_would_gain_nothing(stalled: Path, tmp_path: Path) -> None:
    document = run(stalled, tmp_path / "out.safetensors", overrides=["bypass.probe.gain=0.999"], ignore_probe=False)
    assert document["verdict"] == "no gain expected"
    assert document["before"] == document["after"]


@pytest.fixture(scope="module")
def whole_bytes(stalled: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The output of a run that nobody interrupts, by its overrides."""

    @cache
    def found(*overrides: str) -> bytes:
        output = tmp_path_factory.mktemp("whole") / "a.safetensors"
        run(stalled, output, overrides=overrides)
        return output.read_bytes()

    return found


@pytest.mark.parametrize(
    ("phase", "done"),  # opt_1 ends at step 30, opt_2 at 60
    [(phase, 45) for phase in ("baseline", "diag", "mirror", "revive", "widen", "widen 2", "shrink")]
    + [("diag", 70), ("mirror", 30), ("mirror", 70)],
)
def test_a_resumed_run_ends_with_the_same_bytes(
    stalled: Path,
    whole_bytes: Callable[..., bytes],
    tmp_path: Path,
    phase: str,
    done: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last state that was kept is up to seven steps old."""
    asked = count(1)
    monkeypatch.setattr(RunDirectory, "due", lambda self: next(asked) % 7 == 0)
    monkeypatch.setattr("extcon_cli.pipelines.running.phase.PROGRESS_EVERY", 0)
    broken = tmp_path / "b.safetensors"
    way, _, cycle = phase.partition(" ")
    overrides = [f"bypass.cycles={cycle or 1}", "bypass.opt_2.optimizer={name: sgd, lr: 0.01}",
                 f"bypass.extensions=[{'diag' if way == 'baseline' else way}]"]  # fmt: skip

    def kill(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == phase and event.done == done:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="--resume"):
        run(stalled, broken, overrides=overrides, emit=kill)
    seen: list[Event] = []
    run(stalled, broken, overrides=overrides, resume=True, emit=seen.append)
    assert broken.read_bytes() == whole_bytes(*overrides)
    assert (
        next(event.phase for event in seen if isinstance(event, Progress)) == phase
    )  # what was done is not done again


def test_a_second_cycle_begins_at_the_best_of_the_first(stalled: Path, tmp_path: Path) -> None:
    document = run(stalled, tmp_path / "out.safetensors", overrides=["bypass.cycles=2"])
    losses = document["validation"]
    assert {"diag", "diag 2", "revive", "widen 2"} <= set(losses) or "revive 2" not in losses
    assert document["verdict"] == chosen_by(document, {name for name in losses if name.split()[0] not in CONTROLS})


def test_it_may_begin_at_new_weights(stalled: Path, tmp_path: Path) -> None:
    overrides = ["bypass.start=initialisation", "bypass.extensions=[diag]", "bypass.baseline=false"]
    document = run(stalled, tmp_path / "out.safetensors", overrides=overrides)
    assert set(document["validation"]) == {"theta*", "diag"}
    assert document["validation"]["theta*"] == pytest.approx(2.3, abs=0.4)  # ten classes, nothing learnt: log 10


def test_the_diagnosis_gives_its_evidence(stalled: Path, tmp_path: Path) -> None:
    hopeless = ["bypass.probe.gain=0.999"]
    found = run(stalled, tmp_path / "out.safetensors", overrides=hopeless, ignore_probe=False)["diagnosis"]
    assert set(found) >= {"slope", "stalled", "dead", "gradient", "gain", "gain_error", "predicted"}
    assert set(found["probe"]) == {"baseline", "lr_drop", "diag", "mirror", "revive", "widen"}
    assert found["probe"]["baseline"]["gain"] == 0
    assert found["gain"] == max(found["probe"][name]["gain"] for name in ("diag", "mirror", "revive", "widen"))
    assert not found["predicted"]
    assert found["gradient"]["norm"] > 0
    assert 0.5 <= found["temperature"] <= 10
    assert all(row["dead"] + row["nearly"] <= row["units"] for row in found["dead"].values())


def test_the_path_of_the_extended_model_is_recorded(stalled: Path, tmp_path: Path) -> None:
    document = run(stalled, tmp_path / "out.safetensors", overrides=["bypass.extensions=[diag]"])
    trace = next(phase["trace"] for phase in document["history"]["phases"] if phase["phase"] == "diag")
    steps, norms, constraints, distances, angles, sizes = zip(*trace, strict=True)
    assert list(steps) == sorted(steps)
    assert max(norms) > 0
    assert norms[-1] == constraints[-1] == 0
    assert distances[-1] > distances[0] == sizes[0] > 0
    assert 0 < angles[-1] < 90
    assert min(sizes) > 0
    assert sum(sizes) >= distances[-1] * (
        1 - 1e-6
    )  # every step is recorded: the path is no shorter than its end is far


def test_phases_may_have_optimizers_of_their_own(stalled: Path, tmp_path: Path) -> None:
    still = ["bypass.opt_1.optimizer={name: sgd, lr: 1e-12}", "bypass.opt_2.optimizer={name: adam, lr: 1e-12}",
             "bypass.extensions=[diag]"]  # fmt: skip
    phases = run(stalled, tmp_path / "out.safetensors", overrides=still)["history"]["phases"]
    sizes = {phase["phase"]: [row[5] for row in phase["trace"]] for phase in phases}
    opt_1, opt_2, train_3 = sizes["diag"][:30], sizes["diag"][30:60], sizes["diag"][60:]
    assert max(opt_1 + opt_2) < 1e-6 < min(train_3)
    assert min(sizes["baseline"]) > 1e-6


def test_an_infinite_loss_goes_back_to_the_last_good_state_with_smaller_steps(
    stalled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Trainer._watch

    def poisoned(self: Trainer, loss: torch.Tensor) -> None:
        far = self.done == 45 and len(list(self.model.parameters())) > 4 and self.lr > 3e-4  # D among them
        watch(self, loss * float("nan") if far else loss)

    monkeypatch.setattr(Trainer, "_watch", poisoned)
    monkeypatch.setattr(RunDirectory, "due", lambda self: True)
    monkeypatch.setattr("extcon_cli.pipelines.running.phase.PROGRESS_EVERY", 0)
    whole, broken, few = tmp_path / "a.safetensors", tmp_path / "b.safetensors", ["bypass.extensions=[diag]"]
    seen: list[Event] = []
    document = run(stalled, whole, overrides=few, emit=seen.append)
    assert document["certificate"]["diag"]["restarts"] == 2
    assert document["certificate"]["diag"]["contracted"]
    assert "diag" in document["validation"]
    assert sum(isinstance(event, Noted) and "back to step 40, at half the rate" in event.message for event in seen) == 2
    steps = [event.done for event in seen if isinstance(event, Progress) and event.phase == "diag"]
    assert steps == [*range(1, 45), 40, *range(41, 45), 40, *range(41, 81)]

    def kill(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "diag" and event.done == 43:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(stalled, broken, overrides=few, emit=kill)
    run(stalled, broken, overrides=few, resume=True)
    assert whole.read_bytes() == broken.read_bytes()


def test_a_loss_that_stays_infinite_loses_its_way_and_no_other(
    stalled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Trainer._watch
    monkeypatch.setattr(
        Trainer,
        "_watch",
        lambda self, loss: watch(
            self, loss / 0 if self.done == 40 and len(list(self.model.parameters())) > 4 else loss
        ),
    )
    document = run(stalled, tmp_path / "out.safetensors", overrides=["bypass.extensions=[diag]"])
    assert "not finite" in document["certificate"]["diag"]["reason"]
    assert set(document["validation"]) == {"theta*", "baseline", "lr_drop", "cosine"}


class Branching(torch.nn.Module):
    """Its forward pass asks for the shape, which the diagonal extension's rewriting cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 12), torch.nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 0:
            x = x.flatten(1)
        return self.second(torch.relu(self.first(x)))


def test_what_cannot_be_rewritten_is_widened_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("import torch\n" + inspect.getsource(Branching))
    model = {"model": {"arch": f"{tmp_path / 'net.py'}:Branching", "input_shape": [1, 8, 8]}}
    recipe = from_dict({**RECIPE, **model})
    stalled, output = tmp_path / "net.safetensors", tmp_path / "out.safetensors"
    train(recipe, checkpoint=None, output=stalled, device="cpu", trust=Trust(code=True))
    document = to_json(bypass(stalled, recipe, output=output, device="cpu", ignore_probe=True, trust=Trust(code=True)))
    assert document["diagnosis"]["probed"] in ("revive", "widen")
    assert "diag" not in document["validation"]
    assert "widen" in document["validation"]


def test_what_the_probe_sees_far_behind_is_left_out(
    stalled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behind(stalled: Stalled) -> Diagnosis:
        return replace(diagnose(stalled), predicted=True, excluded=("widen",))

    monkeypatch.setattr("extcon_cli.pipelines.bypass.diagnose", behind)
    few = ["bypass.extensions=[revive,widen]"]
    assert "widen" not in run(stalled, tmp_path / "a.safetensors", overrides=few, ignore_probe=False)["validation"]
    assert "widen" in run(stalled, tmp_path / "b.safetensors", overrides=few)["validation"]


def test_where_capacity_is_missing_a_wider_model_may_be_the_result_at_its_price(
    stalled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bound(stalled: Stalled) -> Diagnosis:
        return replace(diagnose(stalled), kind="capacity-bound", predicted=False, remedies=("restart",))

    monkeypatch.setattr("extcon_cli.pipelines.bypass.diagnose", bound)
    output, seen = tmp_path / "out.safetensors", list[Event]()
    few = {"overrides": ["bypass.probe.steps=8", "bypass.baseline=false"], "ignore_probe": False}
    assert "wider" not in run(stalled, tmp_path / "own.safetensors", **few)["validation"]
    few["overrides"] = [*few["overrides"], "bypass.allow_wider=true"]
    document = run(stalled, output, emit=seen.append, **few)
    assert document["verdict"] == "wider"
    assert document["certificate"]["wider"] == {"added": {"layers.0": 8}, "embed_difference": 0.0}
    assert document["after"]["params"] == 1.5 * (document["before"]["params"] - 10) + 10
    assert any(isinstance(e, Noted) and e.message.startswith("the result is a wider model: ") for e in seen)
    loaded = extcon_cli.load(output)
    kept = stalled_model(prepare(from_dict(RECIPE), output), create_accelerator("cpu"))
    assert kept.metrics(loaded, "validation")["loss"] == document["validation"]["wider"]
    assert loaded.get_submodule("layers.0").out_features == 24


def test_a_wider_model_has_to_be_worth_its_price(stalled: Path, tmp_path: Path) -> None:
    own = ["bypass.extensions=[revive]", "bypass.allow_wider=true", "bypass.probe.steps=8", "bypass.baseline=false"]
    document = run(stalled, tmp_path / "out.safetensors", overrides=[*own, "bypass.probe.gain=0.9"])
    assert "wider" in document["validation"]
    assert document["verdict"] == "revive"

"""Which switches a run computes with: what gains clearly by the clock, nothing in doubt, and as the recipe says."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from extcon_cli.errors import Interrupted, UsageError
from extcon_cli.events import Event, Noted, Progress
from extcon_cli.pipelines.running import trial
from extcon_cli.pipelines.running.prepare import Prepared, prepare
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe, SpeedSpec
from extcon_cli.training.determinism import VARIABLE
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.speed import PLAIN, Speed

AUTO = SpeedSpec(mixed_precision="auto", channels_last="auto")
BF16, LAST, BOTH = Speed("bf16"), Speed(channels_last=True), Speed("bf16", channels_last=True)


def recipe(**more: Any) -> Recipe:
    return from_dict(
        {
            "model": {"arch": "zoo:convnet", "kwargs": {"widths": [4], "channels": 1}, "input_shape": [1, 8, 8]},
            "data": {"dataset": "digits", "batch_size": 32, "limit": 160},
            "train": {"steps": 4, "keep": "last", **more},
        }
    )


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(recipe(), None)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({PLAIN: 1.0, BF16: 0.5, LAST: 0.8, BOTH: 0.4}, BOTH),
        ({PLAIN: 1.0, BF16: 0.5, LAST: 0.8, BOTH: 0.6}, BF16),
        ({PLAIN: 1.0, BF16: 1.5, LAST: 1.1, BOTH: 1.4}, PLAIN),
        ({PLAIN: 1.0, BF16: 0.95, LAST: 0.93, BOTH: 0.91}, PLAIN),  # not clearly
    ],
)
def test_the_fastest_is_chosen_where_it_gains_clearly(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, seconds: dict[Speed, float], chosen: Speed
) -> None:
    """Beside a load that makes every fourth step or so three times as slow."""
    now, load = 0.0, Random(0)

    def step(self: object, speed: Speed) -> bool:
        nonlocal now
        now += seconds[speed] / 50 * (3 if load.random() < 0.25 else 1)
        return True

    monkeypatch.setattr(trial._Step, "__call__", step)
    found, reason = trial.fastest(prepared, AUTO, create_accelerator("cpu"), clock=lambda: now)
    assert found == chosen
    assert reason.startswith(f"steps in {trial._named(chosen)} (speed against fp32: fp32 and channels_last ")


def test_what_a_model_cannot_do_is_left_out_and_told(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trial._Step.__call__

    def step(self: trial._Step, speed: Speed) -> bool:
        if speed.precision == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'\nand more")
        return real(self, speed) and not speed.channels_last  # its loss is NaN

    monkeypatch.setattr(trial._Step, "__call__", step)
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    before = torch.get_rng_state()
    found, reason = trial.fastest(prepared, AUTO, create_accelerator("cpu"))
    assert found == PLAIN
    assert torch.equal(before, torch.get_rng_state())
    assert "bf16 does not work with this model (not implemented for 'BFloat16')" in reason
    assert "fp32 and channels_last does not work with this model (the loss is not finite)" in reason


def test_only_what_the_recipe_leaves_open_is_tried() -> None:
    cpu = torch.device("cpu")
    assert trial.candidates(AUTO, cpu) == [PLAIN, LAST, BF16, BOTH]
    assert trial.candidates(SpeedSpec(mixed_precision="bf16", channels_last="auto"), cpu) == [BF16, BOTH]
    assert trial.candidates(SpeedSpec(mixed_precision="auto", channels_last=True), cpu) == [LAST, BOTH]
    assert trial.settled(SpeedSpec(compile=True)) == Speed(compile=True)


def test_a_run_says_and_records_its_choice_and_goes_on_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    events: list[Event] = []

    def interrupting(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.phase == "train":
            raise KeyboardInterrupt

    spec, output = recipe(mixed_precision="auto", channels_last="auto"), tmp_path / "a.safetensors"
    monkeypatch.setattr(trial, "fastest", lambda *_: (BOTH, "steps in bf16 and channels_last: as measured"))
    with pytest.raises(Interrupted):
        train(spec, checkpoint=None, output=output, device="cpu", emit=interrupting)
    assert Noted("steps in bf16 and channels_last: as measured") in events
    monkeypatch.setattr(trial, "fastest", lambda *_: (PLAIN, "the load has changed"))
    result = train(spec, checkpoint=None, output=output, device="cpu", resume=True, emit=events.append)
    assert Noted("steps in bf16 and channels_last: as the run began") in events
    assert result.run.speed == {"precision": "bf16", "channels_last": True, "compile": False}


def test_deterministic_runs_measure_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trial, "fastest", lambda *_: pytest.fail("was measured"))
    monkeypatch.setenv(VARIABLE, "1")
    events: list[Event] = []
    spec = recipe(mixed_precision="auto", channels_last="auto")
    result = train(spec, checkpoint=None, output=tmp_path / "a.safetensors", device="cpu", emit=events.append)
    assert Noted("deterministic: steps are computed plainly, without a measurement") in events
    assert result.run.speed == {"precision": "no", "channels_last": False, "compile": False}


def test_compiling_is_for_one_process(prepared: Prepared) -> None:
    class Several:
        num_processes = 2

    with pytest.raises(UsageError, match="`compile` works in one process"):
        trial.choose_speed(prepared, SpeedSpec(compile=True), Several(), None, None)  # type: ignore[arg-type]

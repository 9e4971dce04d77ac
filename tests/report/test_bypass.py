"""What a report says of a bypass: every way, the diagnosis, how far each has gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extcon_cli.report.results.bypass import NO_GAIN, BypassResult
from extcon_cli.report.serialise import from_json
from extcon_cli.report.write import write


def bypassed() -> BypassResult:
    side = {"metrics": {"loss": 0.3, "accuracy": 0.9}, "params": 10, "macs": 10, "bytes": 40, "latency": {"1": 1e-3}}
    losses = {"theta*": 1.0, "baseline": 0.8, "lr_drop": 0.9, "diag": 0.6}
    row = {"loss": 0.7, "gain": 0.123, "error": 0.01}
    document: dict[str, Any] = {
        "schema": "extcon/1",
        "command": "bypass",
        "version": "0",
        "checkpoint": "net.pt",
        "output": "net.bypassed.safetensors",
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "recipe": {},
        "before": side,
        "after": side,
        "verdict": "diag",
        "validation": losses,
        "certificate": {
            "diag": {"embed_difference": 0.0, "difference_after_contraction": 2.5e-7, "restarts": 1},
            "widen": {"contracted": False, "reason": "it did not come back"},
        },
        "diagnosis": {
            "slope": {"relative": 0.01, "t": 0.5},
            "stalled": True,
            "dead": {"relu": {"dead": 3, "nearly": 1, "units": 8}},
            "gradient": {"norm": 0.1, "of_weights": 0.01},
            "probe": {"baseline": {**row, "gain": 0.0}, "diag": row},
            "refused": {},
            "probed": "diag",
            "gain": 0.123,
            "gain_error": 0.01,
            "predicted": True,
            "behind": [],
            "signs": [
                {"sign": "units", "found": "3 of 8 units are dead, 1 nearly", "says": "few"},
                {"sign": "probe: diag", "found": "12.30 % +- 1.00 %", "says": "gains"},
            ],
            "verdict": "stalled: the loss falls 1.00 % in 1000 steps",
        },
        "layers": [],
        "history": {
            "phases": [
                {
                    "phase": name,
                    "steps": [1, 2],
                    "loss": [1.0, 0.7],
                    "trace": [[1, d, d, 0.1, 1.0, 0.1], [2, 0, 0, 0.2, 2.0, 0.1]],
                }
                for name, d in (("baseline", 0.0), ("diag", 0.5))
            ]
        },
        "seconds": {"total": 1.0},
    }  # fmt: skip
    return from_json(BypassResult, document)


@pytest.mark.parametrize("ending", ["html", "md"])
def test_every_way_and_the_diagnosis_are_shown(tmp_path: Path, ending: str) -> None:
    write(bypassed(), tmp_path / f"r.{ending}")
    text = (tmp_path / f"r.{ending}").read_text()
    for said in ("diag (the best)", "lr_drop", "25.00 %", "3 of 8 units are dead, 1 nearly",
                 "probe: diag", "12.30 % +- 1.00 %", "talled: the loss falls 1.00 % in 1000 steps",
                 "diag: outputs moved by 0.0e+00 at embedding, 2.5e-07 at contracting, of the largest; 1 restarts",
                 "widen gave no model: it did not come back", "he best on the validation data: diag"):  # fmt: skip
        assert said in text


def test_the_paths_are_drawn_and_the_way_back_only_of_what_was_extended(tmp_path: Path) -> None:
    write(bypassed(), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert text.count("<svg") == 3
    assert "The way back of diag" in text
    assert "The way back of baseline" not in text
    assert all(label in text for label in ("distance", "angle (degrees)", "step size", "‖ADW‖"))


def test_a_run_that_stopped_says_so(tmp_path: Path) -> None:
    stopped = replace(bypassed(), validation={"theta*": 1.0}, certificate={}, verdict=NO_GAIN)
    write(stopped, tmp_path / "r.md")
    assert "No gain was to be expected: the model is as it was." in (tmp_path / "r.md").read_text()

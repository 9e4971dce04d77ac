"""Checkpoints of Ultralytics: a plan is what a pruning does, and a dry run writes nothing."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from extcon_cli.cli.app import app
from extcon_cli.errors import UsageError

pytestmark = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")
QUICK = ("prune.finetune.epochs=3", "prune.score.batches=1", "data.batch_size=4", "prune.compensate.images=4")


def run(command: str, checkpoint: Path, data: Path, *options: str) -> Any:
    changes = [word for change in QUICK for word in ("--set", change)]
    shared = ["--data", str(data), "--trust-pickle", "--no-latency", "--json", *changes, *options]
    return CliRunner().invoke(app, [command, str(checkpoint), *shared])


def test_a_plan_says_what_goes_and_a_dry_run_writes_nothing(made: Any, tmp_path: Path) -> None:
    data, file = made.pictures(tmp_path / "data", "classify"), made.checkpoint(tmp_path / "tiny.pt", "classify")
    ran = run("plan", file, data, "--ratio", "0.3")
    assert ran.exit_code == 0, (ran.stderr, ran.exception)
    plan = json.loads(ran.stdout)
    assert plan["command"] == "plan"
    assert plan["after"]["params"] < plan["before"]["params"]
    before = sorted(tmp_path.iterdir())
    tried = run("prune", file, data, "--plan", plan["output"], "--dry-run")
    assert tried.exit_code == 0, (tried.stderr, tried.exception)
    preview = json.loads(tried.stdout)
    assert preview["after"] == plan["after"]
    assert preview["steps"]["finetune"] == 3 * -(-preview["samples"]["train"] // 4)
    assert preview["output"] == str(tmp_path / "tiny.pruned.pt")
    assert sorted(tmp_path.iterdir()) == before
    ran = run("prune", file, data, "--plan", plan["output"], "--set", "prune.finetune.steps=0")
    assert ran.exit_code == 0, (ran.stderr, ran.exception)
    result = json.loads(ran.stdout)
    assert {key: result["after"][key] for key in plan["after"]} == plan["after"]
    assert result["removal"]["requested_ratio"] is None
    row = next(row for row in plan["groups"] if row["remove"])
    row["remove"] = row["remove"][:-1]
    Path(plan["output"]).write_text(json.dumps(plan))
    refused = run("prune", file, data, "--plan", plan["output"], "--force")
    assert isinstance(refused.exception, UsageError)
    assert "stay alike" in str(refused.exception)

"""The command line is tested through its real entry point, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from extcon_cli.report.results import COMMANDS
from extcon_cli.report.serialise import json_schema

SAMPLES = Path(__file__).parents[2] / "sample_models"
QUICK = ("--set", "prune.score.batches=5", "--set", "prune.bifurcate.epochs=1", "--set", "prune.finetune.epochs=1")
"""A whole job in a few seconds; how good the result is does not matter here."""


@dataclass(frozen=True)
class Done:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What `--json` printed; it is as `extcon schema` says."""
        found = json.loads(self.out)
        jsonschema.validate(found, json_schema(COMMANDS[found["command"]]))
        return found

    @property
    def error(self) -> str:
        """The last line on stderr, which has to be the error."""
        last = self.err.strip().splitlines()[-1]
        assert last.startswith("extcon: error: "), self.err
        assert "Traceback" not in self.err
        return last.removeprefix("extcon: error: ")


Extcon = Callable[..., Done]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the sample model and its recipe."""
    for name in ("digits_resnet.pt", "digits_resnet.yaml"):
        shutil.copy(SAMPLES / name, tmp_path)
    return tmp_path


@pytest.fixture
def extcon(tmp_path: Path) -> Extcon:
    """Run `extcon ARGS` in the test's folder, without a terminal."""

    def run(*args: str | Path, **environment: str) -> Done:
        inherited = {k: v for k, v in os.environ.items() if k not in ("CI", "GITHUB_STEP_SUMMARY", "EXTCON_DEBUG")}
        done = subprocess.run(
            [sys.executable, "-m", "extcon_cli", *map(str, args)],
            cwd=tmp_path,
            env={**inherited, "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run

"""Runs a job of a GitHub workflow here, as far as its `run` steps go: what a runner does, but for actions of others.

Steps run under `bash -eo pipefail` in one workspace. A step runs where those before it succeeded, or where its `if`
says so. `env` of the job and of the step, `$GITHUB_ENV`, `$GITHUB_OUTPUT`, `$GITHUB_STEP_SUMMARY` and `${{ ... }}` of
`env` and `steps` count. Anything else in an expression is an error, so that no step is run as it would not be there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass
class Job:
    """What became of a job."""

    codes: dict[str, int] = field(default_factory=dict)
    """Exit codes of the steps that ran, by name."""
    log: str = ""
    summary: str = ""
    failed: bool = False


def run_job(
    workflow: Path, name: str, workspace: Path, *, skip: Callable[[str], bool], env: Mapping[str, str] | None = None
) -> Job:
    """Run a job; `env` goes over its own, and steps whose script is to be skipped count as done."""
    job = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"][name]
    done, outputs = Job(), dict[str, dict[str, str]]()
    variables = {key: str(value) for key, value in {**job.get("env", {}), **(env or {})}.items()}
    files = {key: workspace / f".{key.lower()}" for key in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for step in job["steps"]:
        if "run" not in step or skip(step["run"]) or not _wanted(step.get("if", "success()"), done.failed):
            continue
        for file in files.values():
            file.write_text("")
        own = {key: _filled(str(value), variables, outputs) for key, value in step.get("env", {}).items()}
        script = workspace / ".step.sh"
        script.write_text(_filled(step["run"], variables, outputs))
        ran = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=workspace,
            env={**_machine(), **variables, **own, **{key: str(file) for key, file in files.items()}},
            capture_output=True,
            text=True,
            check=False,
        )
        done.codes[step.get("name", step["run"])] = ran.returncode
        done.log += ran.stdout + ran.stderr
        done.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        done.failed |= ran.returncode != 0 and not step.get("continue-on-error", False)
        variables |= _pairs(files["GITHUB_ENV"])
        outputs[step.get("id", "")] = _pairs(files["GITHUB_OUTPUT"])
    return done


def _machine() -> dict[str, Any]:
    """What a runner has set, with the commands of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "CI": "true", "GITHUB_ACTIONS": "true"}


def _wanted(condition: str, failed: bool) -> bool:
    plain = condition.removeprefix("${{").removesuffix("}}").strip()
    return {"success()": not failed, "failure()": failed, "always()": True}[plain]


def _filled(text: str, env: Mapping[str, str], outputs: Mapping[str, Mapping[str, str]]) -> str:
    def value(expression: re.Match[str]) -> str:
        kind, *rest = expression[1].split(".")
        if kind == "env":
            return env[rest[0]]
        assert (kind, rest[1]) == ("steps", "outputs"), expression[0]
        return outputs[rest[0]].get(rest[2], "")

    return re.sub(r"\$\{\{\s*([\w.]+)\s*\}\}", value, text)


def _pairs(file: Path) -> dict[str, str]:
    """NAME=VALUE lines; the form of several lines (NAME<<END) is not known here."""
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if line)

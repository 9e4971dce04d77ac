"""The result of each command, as a value: what `--json` prints, reports show and `extcon schema` describes.

One file a command, or a few that belong together; what they share stands in `records.py`. None imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from extcon_cli.report.results.bypass import BypassResult
from extcon_cli.report.results.compare import CompareResult
from extcon_cli.report.results.export import ExportResult
from extcon_cli.report.results.inspect import InitResult, InspectResult, VerifyResult
from extcon_cli.report.results.previews import DryRunResult, PlanResult
from extcon_cli.report.results.prune import PruneResult, SweepResult
from extcon_cli.report.results.records import Result
from extcon_cli.report.results.train import EvaluateResult, TrainResult


@dataclass(frozen=True, kw_only=True)
class Refused(Result):
    """In the place of a result where a gate has failed (exit code 4) before all was measured."""

    command: str
    checkpoint: str
    message: str


CommandResult: TypeAlias = (
    PruneResult
    | SweepResult
    | BypassResult
    | TrainResult
    | EvaluateResult
    | InspectResult
    | VerifyResult
    | ExportResult
    | CompareResult
    | Refused
)
COMMANDS: Mapping[str, type] = {
    "init": InitResult,
    "prune": PruneResult,
    "sweep": SweepResult,
    "bypass": BypassResult,
    "train": TrainResult,
    "evaluate": EvaluateResult,
    "inspect": InspectResult,
    "plan": PlanResult,
    "dry-run": DryRunResult,
    "verify": VerifyResult,
    "export": ExportResult,
    "compare": CompareResult,
}
"""The result of each command."""

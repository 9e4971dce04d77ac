"""The gates of a result as JUnit XML, which CI servers show as tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from extcon_cli.errors import UsageError
from extcon_cli.report.results.records import Gate, Result


def junit(result: Result, gates: Sequence[Gate]) -> str:
    """A suite named after the command, a case for each gate; of a result without gates one case that passes."""
    cases = list(gates) or [Gate("done", True, None, None, "")]
    failed = sum(not gate.passed for gate in cases)
    suite = ElementTree.Element(
        "testsuite", name=f"extcon {result.command}", tests=str(len(cases)), failures=str(failed), errors="0"
    )
    for gate in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=f"extcon.{result.command}", name=gate.name)
        if not gate.passed:
            ElementTree.SubElement(case, "failure", message=gate.message).text = gate.message
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def write_junit(path: Path, result: Result) -> None:
    """Write it. UsageError: the file cannot be written."""
    try:
        path.write_text(junit(result, result.gates or ()), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --junit") from error

"""In pipelines: documents and reports at exit code 4 too, gates, JUnit, one line where quiet, nothing left over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from extcon_cli.report.results import Refused
from extcon_cli.report.serialise import json_schema

from .conftest import QUICK, SAMPLES, Extcon

OUT = "net.pruned.safetensors"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A small net with its recipe."""
    for ending in (".pt", ".yaml"):
        shutil.copy(SAMPLES / f"digits_cnn_stalled{ending}", tmp_path / f"net{ending}")
    return tmp_path / "net.pt"


def test_a_failed_gate_leaves_the_document_the_reports_and_no_output(extcon: Extcon, net: Path) -> None:
    gates = ("--max-drop", "100", "--min-accuracy", "1.0", "--max-size", "1MB")
    written = ("--json", "--report", "r.md", "--report", "r.json", "--junit", "gates.xml")
    done = extcon(
        "prune", net, "--ratio", "0.5", *gates, *written, *QUICK, GITHUB_STEP_SUMMARY=str(net.parent / "s.md")
    )
    assert done.code == 4
    assert "less than --min-accuracy 1; nothing was written" in done.error
    found = {gate["name"]: gate["passed"] for gate in done.document["gates"]}
    assert found == {"max-drop": True, "min-accuracy": False, "max-size": True}
    assert done.document["after"]["params"] < done.document["before"]["params"]
    assert json.loads((net.parent / "r.json").read_text())["gates"] == done.document["gates"]
    for name in ("r.md", "s.md"):
        text = (net.parent / name).read_text()
        assert "| min-accuracy | FAILED |" in text
        assert "Nothing was written" in text
    suite = ElementTree.parse(net.parent / "gates.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    [failed] = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == "min-accuracy"
    assert not (net.parent / OUT).exists()

    again = extcon("prune", net, "--ratio", "0.5", *QUICK, "--quiet", "--resume", "--min-accuracy", "0.1")
    assert again.code == 0, again.err
    assert again.out.startswith(f"{net.parent / OUT}: ")
    assert "x smaller), accuracy" in again.out
    assert len(again.out.splitlines()) == 1
    assert again.err == ""
    assert not (net.parent / f"{OUT}.run").exists()


def test_a_refusal_before_the_end_is_a_document_too(extcon: Extcon, net: Path) -> None:
    nothing = "prune.decide.keep=['*']"
    done = extcon(
        "prune", net, "--ratio", "0.5", "--set", nothing, "--json", "--report", "r.html", "--junit", "g.xml", *QUICK
    )
    assert done.code == 4, done.err
    found = json.loads(done.out)
    jsonschema.validate(found, json_schema(Refused))
    assert found["command"] == "prune"
    assert found["message"] == done.error
    assert not found["gates"][0]["passed"]
    assert found["message"][:40] in (net.parent / "r.html").read_text().replace("&#39;", "'")
    assert 'failures="1"' in (net.parent / "g.xml").read_text()
    assert not (net.parent / f"{OUT}.run").exists()
    assert extcon("prune", net, "--ratio", "0.5", "--set", "prune.decide.keep=[nothing]").code == 2
    assert not (net.parent / f"{OUT}.run").exists()


def test_evaluate_has_a_gate_and_the_run_s_folder_is_kept_where_asked_for(extcon: Extcon, net: Path) -> None:
    done = extcon("evaluate", net, "--min-accuracy", "1.0", "--quiet", "--junit", "g.xml")
    assert done.code == 4
    assert done.out.count("\n") == 1
    assert "accuracy" in done.out
    assert "less than --min-accuracy 1" in done.error
    kept = extcon("prune", net, "--ratio", "0.3", "--keep-run", "--quiet", *QUICK)
    assert kept.code == 0, kept.err
    assert (net.parent / f"{OUT}.run" / "events.jsonl").is_file()
    anew = extcon("prune", net, "--ratio", "0.3", "--force", "--max-drop", "0", *QUICK)
    assert "held the state of a run that was interrupted: it begins anew (--resume goes on)" in anew.err
    assert extcon("evaluate", net, "--min-accuracy", "90").code == 2
    assert "10MB" in extcon("prune", net, "--max-size", "ten").error

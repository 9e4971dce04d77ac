"""The public names of `extcon_cli`: what they are, that they resolve for people and for mypy, that examples run."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import extcon_cli

SIGNATURES = {
    "load": ["path", "model", "trust_code"],
    "save": ["model", "path", "like", "plans", "force", "trust_code"],
    "prunable_groups": ["model", "example_inputs"],
    "remove_zeros": ["model", "example_inputs", "channels", "decided", "others", "evaluation"],
    "verify": ["first", "second", "example_inputs", "evaluation", "sizes"],
    "Catalyst": ["model", "example_inputs", "ratio", "score_steps", "shrink_steps", "chi", "floor", "keep"],
    "Bypass": ["model", "example_inputs"],
}
"""Parameters in their order; of Bypass the first ones, which are fixed."""
TYPES = {
    *("Certificate", "ChannelGroup", "ContractionReport", "Difference", "Removal", "RemovalPlan", "Slice"),
    "Verification",
}
SAMPLES = Path(__file__).parents[1] / "sample_models"


def test_the_names() -> None:
    assert set(extcon_cli.__all__) == set(SIGNATURES) | TYPES | {"__version__"}
    assert dir(extcon_cli) == sorted(extcon_cli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prunable_group'"):
        extcon_cli.prunable_group  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    found = list(inspect.signature(getattr(extcon_cli, name)).parameters)
    assert found[: len(SIGNATURES[name])] == SIGNATURES[name]


@pytest.mark.parametrize("name", sorted(TYPES))
def test_types_say_what_they_are(name: str) -> None:
    assert inspect.isclass(getattr(extcon_cli, name))
    assert inspect.getdoc(getattr(extcon_cli, name))


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample_models").symlink_to(SAMPLES)
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=False).find(getattr(extcon_cli, name), name, globs={})
    examples = [test for test in found if test.examples]
    assert examples, f"{name} has no example"
    for test in examples:
        result = doctest.DocTestRunner().run(test)
        assert result.failed == 0


PROGRAM = """
import extcon_cli
from extcon_cli import Removal, load, prunable_groups, remove_zeros

model = load("model.safetensors")
groups: tuple[extcon_cli.ChannelGroup, ...] = prunable_groups(model, ())
removal: Removal = remove_zeros(model, ())
certificate: extcon_cli.Certificate = removal.certificate
report: extcon_cli.ContractionReport = extcon_cli.Catalyst(model, ()).contract()
measured: extcon_cli.Verification = extcon_cli.verify(model, removal.module, ())
extcon_cli.save(model, "out.safetensors", like="model.safetensors", plans=[removal.plan, report.plan])
extcon_cli.Bypass(model, ()).step()
extcon_cli.lode("model.safetensors")
number: int = load("model.safetensors")
"""


def test_a_type_checker_sees_them(tmp_path: Path) -> None:
    """With `py.typed` and without running anything; a name that is not there and a wrong type are errors."""
    pytest.importorskip("mypy")
    package = Path(extcon_cli.__file__).parent
    assert (package / "py.typed").exists()
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "program.py"]
    command += ["--cache-dir", str(SAMPLES.parent / ".mypy_cache")]  # what is known of torch need not be read again
    installed = "site-packages" in package.parts  # mypy finds it there by itself, and refuses to be told
    this = dict(os.environ) if installed else {**os.environ, "MYPYPATH": str(package.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=this, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert ["[attr-defined]" in line and "lode" in line for line in errors] == [True, False], done.stdout + done.stderr
    assert re.match(r"program\.py:14: .*\[assignment\]$", errors[1])


@pytest.mark.parametrize(
    ("old", "new"), [("judge", "classify"), ("plan", "plan_removal"), ("silence", "zero_channels")]
)
def test_names_of_the_first_version_warn(old: str, new: str) -> None:
    from extcon_cli import channels

    with pytest.warns(DeprecationWarning, match=f"{old} is {new} now"):
        assert getattr(channels, old) is getattr(channels, new)
    with pytest.raises(AttributeError):
        _ = channels.plann  # type: ignore[attr-defined]

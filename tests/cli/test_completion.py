"""A shell is offered commands, options and values at once: nothing heavy is loaded for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.argv = ["extcon", *sys.argv[1:]]
from extcon_cli.cli.app import main
try:
    main()
finally:
    assert not {"torch", "numpy", "yaml", "rich"} & set(sys.modules)
"""


def asked(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    environment = {
        "_EXTCON_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": f"{len(words) - 1}",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("extcon", "comp"), ["compare"]),
        (("extcon", "prune", "--max-d"), ["--max-drop"]),
        (("extcon", "export", "--format", "o"), ["onnx", "openvino"]),
    ],
)
def test_bash_is_offered(words: tuple[str, ...], offered: list[str]) -> None:
    assert asked(*words) == offered


def test_the_script_for_a_shell_is_shown() -> None:
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # else that of the process which started the tests
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--show-completion", "bash"],
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "complete -o default -F _extcon_completion extcon" in shown.stdout

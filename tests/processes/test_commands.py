"""`train` and `prune` by several processes: files against those of one, and what is left when a process ends early."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

PROGRAM = """
import extcon_cli.training.run_directory as run_directory
run_directory.SAVE_EVERY = 0.1
from extcon_cli.cli.app import main
main()
"""
RECIPE = {
    "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 64, "widths": [12, 8]}, "input_shape": [64]},
    "data": {"dataset": "digits", "batch_size": 90},
    "train": {"steps": 300, "epochs": None, "keep": "last", "optimizer": {"name": "sgd", "lr": 0.02}},
    "prune": {
        "score": {"method": "energy", "batches": 4},
        "bifurcate": {"steps": 8, "epochs": None},
        "finetune": {"steps": 6, "epochs": None, "keep": "last"},
    },
}


Start = Callable[[Sequence[str], int, Path], list["subprocess.Popen[str]"]]
Ends = Callable[[Sequence[str], int], tuple[list[int], list[str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("commands")
    (found / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    return found


@pytest.fixture(scope="module")
def ends(start: Start, folder: Path) -> Ends:
    """Exit codes, and what was said on stderr."""

    def run(arguments: Sequence[str], number: int) -> tuple[list[int], list[str]]:
        running = start(["-c", PROGRAM, *arguments, "--device", "cpu"], number, folder)
        said = [process.communicate(timeout=240)[1] for process in running]
        return [process.returncode for process in running], said

    return run


def train(name: str, steps: int = 300) -> list[str]:
    return ["train", "--recipe", "r.yaml", "--set", f"train.steps={steps}", "--out", name]


def assert_alike(first: Path, second: Path) -> None:
    """To 1e-5 of the largest number of each tensor."""
    wanted, found = load_file(first), load_file(second)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape, name
        assert float((found[name] - tensor).abs().max()) <= 1e-5 * float(tensor.abs().max()), name


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_process_that_ends_leaves_a_line_and_a_state(
    folder: Path, start: Start, ends: Ends, stop: int, code: int
) -> None:
    """The run that goes on gives the same bytes."""
    name = f"killed{code}.safetensors"
    running = start(["-c", PROGRAM, *train(name), "--device", "cpu"], 2, folder)
    state = folder / f"{name}.run" / "state.pt"
    until = time.monotonic() + 120
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.02)
    running[1].send_signal(stop)
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [130, code], said
    lines = [line for text in said for line in text.splitlines() if line.startswith("extcon: error:")]
    assert len(lines) == 1, said
    assert "--resume" in lines[0]
    assert not any("Traceback" in text for text in said)
    assert ends([*train(name), "--resume"], 2)[0] == [0, 0]
    whole = folder / "whole.safetensors"
    if not whole.exists():
        assert ends(train(whole.name), 2)[0] == [0, 0]
    for tensor, other in zip(load_file(folder / name).values(), load_file(whole).values(), strict=True):
        assert torch.equal(tensor, other)


@pytest.mark.slow
def test_four_give_what_one_gives(folder: Path, ends: Ends) -> None:
    for number in (1, 4):
        codes, said = ends(train(f"by{number}.safetensors", steps=20), number)
        assert codes == [0] * number, said
    assert_alike(folder / "by1.safetensors", folder / "by4.safetensors")


@pytest.mark.slow
def test_prune_takes_the_same_filters(folder: Path, ends: Ends) -> None:
    if not (folder / "by1.safetensors").exists():
        assert ends(train("by1.safetensors", steps=20), 1)[0] == [0]
    for number in (1, 2):
        command = ["prune", "by1.safetensors", "--recipe", "r.yaml", "--ratio", "0.5", "--no-latency"]
        codes, said = ends([*command, "--out", f"pruned{number}.safetensors"], number)
        assert codes == [0] * number, said
    assert_alike(folder / "pruned1.safetensors", folder / "pruned2.safetensors")

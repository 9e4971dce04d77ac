"""Several processes against one: the same global batches, so the same parameters, losses, figures and decisions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")
NUMBER = 2
Start = Callable[[Sequence[str], int, Path], list["subprocess.Popen[str]"]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, start: Start) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("several")
    running = start([str(WORKER), str(folder)], NUMBER, folder)
    ends = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * NUMBER, ends
    return [torch.load(folder / f"found.{place}.pt") for place in range(NUMBER)]


def test_meet(found: list[dict[str, Any]]) -> None:
    for place, each in enumerate(found):
        assert (each["place"], each["number"]) == (place, NUMBER)
        assert each["once"] == "by 0"
        assert each["on first"] == ("held" if place == 0 else None)
        assert each["any"] == (True, False)
        assert each["gathered"] == [{"place": 0}, {"place": 1}]
        assert each["aligned"]


def test_a_refusal_of_the_first_is_one_of_all(found: list[dict[str, Any]]) -> None:
    assert {each["refused"] for each in found} == {"UsageError: no such thing"}


def test_what_differs_is_refused(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["disagree"].startswith("GateError: the processes of this run do not agree on the plan")
        assert "on the model" in each["unlike"]
        assert each["agree"] == "nothing"


@pytest.mark.parametrize("net", ["plain", "batch norm"])
def test_train_to_the_parameters_of_one(found: list[dict[str, Any]], net: str) -> None:
    """Batches of 7, of which one process has 4 samples and the other 3; batch norms are those of all."""
    wanted, losses = found[0]["alone"][net]
    for each in found:
        state, seen = each["trained"][net]
        assert seen == pytest.approx(losses, rel=1e-5)
        for name, tensor in wanted.items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-5 * float(tensor.abs().max()))


@pytest.mark.parametrize("net", ["plain", "batch norm", "dropout"])
def test_all_have_the_same_bits_and_go_on_with_them(found: list[dict[str, Any]], net: str) -> None:
    wanted = found[0]["trained"][net][0]
    for each in found:
        for name, tensor in wanted.items():
            assert torch.equal(each["trained"][net][0][name], tensor)
            assert torch.equal(each["resumed"][net][name], tensor)


@pytest.mark.parametrize(
    ("way", "bound"),
    [
        ("streamed", 1e-5),
        ("taught", 1e-5),
        ("averaged", 1e-5),
        ("switched and averaged", 2e-2),
        ("half precision", 2e-2),
        ("sharded", 1e-5),
        ("sharded, channels last", 1e-5),
        ("sharded and taught", 1e-5),
        ("sharded, resumed", 1e-5),
        ("sharded, then whole", 1e-5),
    ],
)
def test_other_trainings_end_with_the_parameters_of_one(found: list[dict[str, Any]], way: str, bound: float) -> None:
    """bfloat16 keeps 8 bits: what is rounded once more or less differs by that much."""
    wanted, begun = found[0]["otherwise alone"][way], found[0]["otherwise"][way]
    for each in found:
        for name, tensor in wanted.items():
            largest = float(tensor.double().abs().max())
            torch.testing.assert_close(each["otherwise"][way][name], tensor, rtol=0, atol=bound * largest)
            assert torch.equal(each["otherwise"][way][name], begun[name])


def test_a_sharded_training_goes_on_to_the_same_bits(found: list[dict[str, Any]]) -> None:
    for each in found:
        for name, tensor in each["otherwise"]["sharded"].items():
            assert torch.equal(each["otherwise"]["sharded, resumed"][name], tensor)


@pytest.mark.parametrize("task", ["classes", "numbers", "tokens", "tasks' own"])
def test_figures_over_uneven_batches_are_those_of_one(found: list[dict[str, Any]], task: str) -> None:
    for each in found:
        assert each["figures"][task] == pytest.approx(found[0]["figures alone"][task], rel=1e-6)
    assert found[0]["figures"][task] == found[1]["figures"][task]


def test_losses_of_samples_keep_their_order(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert torch.equal(each["losses"], each["losses alone"])

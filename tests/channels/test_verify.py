"""The measure itself, on differences that are known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import certify, channel_groups, difference, plan_removal, remove
from extcon_cli.channels.compare import random_batches, tensors_in


class Gives(nn.Module):
    """Returns what it was made with, whatever it is given."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output


X = [(torch.zeros(2, 3),)]
A = torch.tensor([[1.0, 2.0, -8.0], [0.0, 3.0, 1.0]])


def moved(by: float, row: int = 0, column: int = 0) -> Tensor:
    changed = A.clone()
    changed[row, column] += by
    return changed


def test_a_gap_of_a_quarter() -> None:
    found = difference(Gives(A), Gives(moved(0.25)), X)
    assert (found.largest, found.scale, found.relative, found.agreement, found.samples) == (0.25, 8.0, 0.03125, 1.0, 2)


def test_the_largest_over_all_batches_and_outputs_counts() -> None:
    found = difference(Gives({"a": A, "b": (A, [A])}), Gives({"a": A, "b": (A, [moved(-0.5)])}), X * 3)
    assert (found.largest, found.samples) == (0.5, 6)


def test_a_changed_arg_max_is_counted() -> None:
    assert difference(Gives(A), Gives(moved(5.0)), X).agreement == 0.5


@pytest.mark.parametrize("other", [A[:1], A[:, :2], A.unsqueeze(0), {"a": A, "b": A}, []])
def test_another_shape_is_infinitely_far(other: Any) -> None:
    assert difference(Gives(A), Gives(other), X).relative == float("inf")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_infinitely_far(value: float) -> None:
    assert difference(Gives(A), Gives(moved(value)), X).relative == float("inf")
    assert difference(Gives(moved(value)), Gives(A), X).relative == float("inf")


def test_nan_in_both_shows_nothing_and_so_does_not_pass() -> None:
    assert difference(Gives(moved(float("nan"))), Gives(moved(float("nan"))), X).relative == float("inf")


def test_the_same_infinity_in_both_is_no_difference() -> None:
    assert difference(Gives(moved(float("-inf"))), Gives(moved(float("-inf"))), X).relative == 0.0


def test_complex_outputs_are_compared() -> None:
    assert difference(Gives(A + 0j), Gives(A + 0.25j), X).largest == 0.25


def test_outputs_in_any_container() -> None:
    assert len(tensors_in({"a": A, "b": [A, (A, None, 3, torch.ones(2, dtype=torch.int64))]})) == 3


def test_both_modules_run_in_eval_mode_and_keep_their_own() -> None:
    first, second = nn.Dropout(0.5).train(), nn.Dropout(0.5).eval()
    assert difference(first, second, [(torch.randn(4, 4),)]).largest == 0.0
    assert (first.training, second.training) == (True, False)


def test_random_inputs_do_not_touch_the_users_generator() -> None:
    state = torch.get_rng_state()
    batches = list(random_batches((torch.zeros(2, 3), torch.tensor([7]), torch.tensor(2.0), "text")))
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(batch[0]) for batch in batches] == [1, 3]
    assert batches[1][1].tolist() == [7, 7, 7]
    assert batches[1][2:] == (torch.tensor(2.0), "text")


def test_a_certificate_holds_where_constants_were_folded() -> None:
    before = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    before[0].weight.data[:3] = 0.0  # type: ignore[index]
    example = (torch.randn(2, 3, 9, 9),)
    removal = plan_removal(before, channel_groups(before, example))
    after = copy.deepcopy(before)
    remove(after, removal)
    found = certify(before, after, removal, example, [example])
    assert found.exact
    folded = [rewrite for rewrite in found.rewrites if rewrite["rule"].startswith("fold")]
    assert ([rewrite["channels"] for rewrite in folded], found.evaluation is not None) == ([3], True)
    assert found.to_json()["exact"] is True
    after[2].bias.data += 0.01  # type: ignore[union-attr,operator]
    assert not certify(before, after, removal, example).exact

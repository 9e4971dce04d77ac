"""The measure itself, on differences that are known."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import RemovalPlan, certify, channel_groups, difference, plan_removal, remove
from extcon_cli.channels.compare import random_batches, tensors_in
from extcon_cli.errors import GateError


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


def test_nan_alone_in_both_shows_nothing_and_so_does_not_pass() -> None:
    assert difference(Gives(A * float("nan")), Gives(A * float("nan")), X).relative == float("inf")


@pytest.mark.parametrize("extreme", [float("nan"), float("inf"), -1e9, torch.finfo(torch.float32).min])
def test_an_extreme_in_both_is_set_aside_and_hides_nothing(extreme: float) -> None:
    before, after = moved(extreme), moved(extreme)
    after[1, 1] += 0.3
    found = difference(Gives(before), Gives(after), X)
    assert (found.scale, found.set_aside) == (8.0, 1)
    assert found.relative == pytest.approx(0.3 / 8)
    assert found.compared == (6 if abs(extreme) < float("inf") else 5)


def test_an_extreme_in_one_alone_is_a_difference() -> None:
    assert difference(Gives(moved(-1e9)), Gives(moved(-2e9)), X).relative > 0.9
    assert difference(Gives(A), Gives(moved(-1e9)), X).relative > 1e8


def test_each_output_is_held_to_its_own_scale() -> None:
    found = difference(Gives((A, 1000 * A)), Gives((moved(0.25), 1000 * A)), X)
    assert (found.relative, found.overall, found.outputs) == (0.25 / 8, 0.25 / 8000, 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_and_booleans_are_compared_for_equality(dtype: torch.dtype) -> None:
    labels = torch.ones(2, 4, dtype=dtype)
    other = labels.clone()
    other[1, 2] = 0
    found = difference(Gives(labels), Gives(other), X)
    assert (found.labels, found.unequal, found.relative) == (8, 1, 0.125)
    assert difference(Gives(labels), Gives(labels.clone()), X).relative == 0.0


@pytest.mark.parametrize(("one", "other"), [(3, 4), (True, False), (0.5, 0.25), (A, A.double())])
def test_numbers_and_types_count_too(one: Any, other: Any) -> None:
    assert difference(Gives({"y": one}), Gives({"y": one}), X).relative == 0.0
    assert difference(Gives({"y": one}), Gives({"y": other}), X).relative > 0.1


@dataclass
class Answer:
    logits: Tensor
    labels: Tensor
    more: list[Any]


def test_tensors_in_a_dataclass_are_compared() -> None:
    one = Answer(A, A.argmax(-1), [A])
    assert difference(Gives(one), Gives(Answer(A, A.argmax(-1), [A])), X).outputs == 3
    assert difference(Gives(one), Gives(Answer(A, A.argmax(-1), [moved(1.0)])), X).relative == 0.125
    assert difference(Gives(one), Gives(Answer(A, 1 - A.argmax(-1), [A])), X).unequal > 0


@pytest.mark.parametrize("nothing", [None, [], "text", torch.zeros(0)])
def test_nothing_compared_is_not_exact(nothing: Any) -> None:
    assert difference(Gives(nothing), Gives(nothing), X).relative == float("inf")


def test_float32_is_held_to_the_largest_output_where_float64_holds_each_to_its_own() -> None:
    class Refined(nn.Module):
        """Two outputs, the first a thousandth of the second; `off` moves the first, in float32 alone if so."""

        def __init__(self, off: float = 0.0, single: bool = True) -> None:
            super().__init__()
            self.net, self.off, self.single = nn.Linear(4, 3), off, single

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.net(x)
            return y + (self.off if x.dtype == torch.float32 or not self.single else 0.0), 1000 * y

    before, example = Refined(), (torch.randn(2, 4),)
    for off, exact in ((1e-4, True), (1e-1, False)):
        after = Refined(off)
        after.load_state_dict(before.state_dict())
        found = certify(before, after, RemovalPlan(), example)
        assert (found.random.relative > 1e-5, found.exact) == (True, exact)


def test_no_comparison_no_certificate() -> None:
    module = Gives(A * float("nan"))
    with pytest.raises(GateError, match="nothing can be compared"):
        certify(module, module, RemovalPlan(), X[0])


class Labels(nn.Module):
    """A segmentation map: nothing but labels comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).argmax(1)


def test_moved_labels_are_not_certified() -> None:
    before, example = Labels().eval(), (torch.randn(2, 3, 24, 24),)
    same = certify(before, before, RemovalPlan(), example)
    assert same.exact
    assert same.random.labels > 1000
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.net[2].bias += 0.01 * torch.randn(5)  # type: ignore[operator]
    found = certify(before, after, RemovalPlan(), example)
    assert 0 < found.random.unequal / found.random.labels < 0.05
    assert not found.exact


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


def test_masks_keep_their_numbers_and_what_is_no_batch_keeps_its_length() -> None:
    causal = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    padding = torch.tensor([[True, False], [False, False]])
    batches = list(random_batches((torch.zeros(2, 3), causal, padding, torch.zeros(5, 5)), sizes=(1, 2, 3)))
    assert all(torch.equal(batch[1], causal) and len(batch[3]) == 5 for batch in batches)
    assert [len(batch[2]) for batch in batches] == [1, 2, 3]
    assert torch.equal(batches[1][2], padding)


def test_a_certificate_holds_where_constants_were_folded() -> None:
    before = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    before[0].weight.data[:3] = 0.0  # type: ignore[index]
    example = (torch.randn(2, 3, 9, 9),)
    removal = plan_removal(before, channel_groups(before, example))
    after = copy.deepcopy(before)
    remove(after, removal)
    found = certify(before, after, removal, example, [example])
    assert found.exact
    folded = [rewrite for rewrite in found.rewrites if rewrite.rule.startswith("fold")]
    assert ([rewrite.channels for rewrite in folded], found.evaluation is not None) == ([3], True)
    assert found.to_json()["exact"] is True
    after[2].bias.data += 0.01  # type: ignore[union-attr,operator]
    assert not certify(before, after, removal, example).exact

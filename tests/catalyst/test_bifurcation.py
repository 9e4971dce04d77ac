"""The decided filters reach exactly zero, on time, and nothing else does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.catalyst.bifurcation import Bifurcation, Flow, Penalty, Proximal, catalyst_on_flow, norm_on_flow
from extcon_cli.catalyst.filters import Filters, norms

Batches = list[tuple[Tensor, Tensor]]
OPTIMIZERS: list[Callable[..., torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    lambda p: torch.optim.Adam(p, lr=3e-3),
    lambda p: torch.optim.AdamW(p, lr=3e-3),
]


@pytest.fixture
def decided(filters: Filters) -> Tensor:
    mask = torch.zeros(len(filters), dtype=torch.bool)
    mask[::2] = True
    return mask


def train(
    net: nn.Module,
    shrinking: Bifurcation,
    batches: Batches,
    steps: int,
    make: Callable[..., torch.optim.Optimizer] = OPTIMIZERS[0],
) -> None:
    optimizer = make(net.parameters())
    net.train()
    for step in range(steps):
        x, y = batches[step % len(batches)]
        loss = F.cross_entropy(net(x), y)
        extra = shrinking.penalty()
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        optimizer.zero_grad()
        shrinking.step(optimizer.param_groups[0]["lr"])


@given(chi=st.floats(1.01, 5), tau=st.floats(0, 0.99))
def test_the_flow_conserves_the_difference_of_squares(chi: float, tau: float) -> None:
    tau *= math.atanh(1 / chi)
    u, v = norm_on_flow(tau, chi), catalyst_on_flow(tau, chi)
    assert u**2 - v**2 == pytest.approx(1 - chi**2, abs=1e-9)


@given(chi=st.floats(1.01, 5))
def test_the_flow_ends_at_zero_and_its_catalyst_survives(chi: float) -> None:
    end = math.atanh(1 / chi)
    assert norm_on_flow(end, chi) == pytest.approx(0, abs=1e-7)
    assert norm_on_flow(2 * end, chi) == 0
    assert catalyst_on_flow(end, chi) == pytest.approx(math.sqrt(chi**2 - 1), rel=1e-6)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_zero_at_the_predicted_step_and_held_there(
    net: nn.Module, filters: Filters, decided: Tensor, batches: Batches, make: Callable[..., torch.optim.Optimizer]
) -> None:
    flow = Flow(net, filters, decided, steps=10)
    train(net, flow, batches, 9, make)
    assert flow.dead == 0
    assert (norms(net, filters)[decided] > 0).all()
    train(net, flow, batches, 1, make)
    assert flow.missing == 0
    train(net, flow, batches, 5, make)  # momentum and moments do not bring them back
    found = norms(net, filters)
    assert torch.equal(found == 0, decided)
    assert found[~decided].min() > 0.05
    torch.testing.assert_close(flow.d, torch.where(decided, flow.start * math.sqrt(1.25**2 - 1), 0.0))


def test_the_task_is_free_below_the_flow(net: nn.Module, filters: Filters, decided: Tensor) -> None:
    flow = Flow(net, filters, decided, steps=10)
    with torch.no_grad():  # a step that shrinks the first filter on its own
        for parameter in (net.bn.weight, net.bn.bias, net.bn2.weight, net.bn2.bias):
            parameter[0] *= 0.01
    flow.step(0.0)
    torch.testing.assert_close(norms(net, filters)[0], 0.01 * flow.start[0])


def test_at_once(net: nn.Module, filters: Filters, decided: Tensor) -> None:
    flow = Flow(net, filters, decided, steps=1)
    fallen = flow.step(0.0)
    assert torch.equal(norms(net, filters) == 0, decided)
    assert torch.equal(fallen, decided.float())


def test_what_fell_adds_up_to_one(net: nn.Module, filters: Filters, decided: Tensor) -> None:
    flow = Flow(net, filters, decided, steps=7)
    total = sum((flow.step(0.0) for _ in range(9)), torch.zeros(len(filters)))
    torch.testing.assert_close(total, decided.float())


def test_proximal_steps_reach_zero_when_lambda_is_large_enough(
    net: nn.Module, filters: Filters, decided: Tensor, batches: Batches
) -> None:
    proximal = Proximal(net, filters, decided, strength=20.0)
    train(net, proximal, batches, 15)
    assert proximal.missing == 0
    assert torch.equal(norms(net, filters) == 0, decided)
    weak = Proximal(copy.deepcopy(net), filters, ~decided, strength=1e-3)
    train(weak.module, weak, batches, 15)
    assert weak.missing == weak.number


def test_the_penalty_ends_by_its_epsilon_and_says_who_is_left(
    net: nn.Module, filters: Filters, decided: Tensor, batches: Batches
) -> None:
    penalty = Penalty(net, filters, decided, strength=5.0, epsilon=1e9)
    train(net, penalty, batches, 3)
    assert penalty.missing == penalty.number  # a subgradient does not hit zero
    penalty.finish()
    assert penalty.missing == 0
    assert torch.equal(norms(net, filters) == 0, decided)


@pytest.mark.parametrize("kind", [Flow, Proximal, Penalty])
def test_a_resumed_bifurcation_goes_on_alike(
    net: nn.Module, filters: Filters, decided: Tensor, batches: Batches, kind: type[Bifurcation]
) -> None:
    def fresh(module: nn.Module) -> Bifurcation:
        more = {"steps": 8} if kind is Flow else {}
        return kind(module, filters, decided, **more)

    whole, parts = copy.deepcopy(net), copy.deepcopy(net)
    plain: Callable[..., torch.optim.Optimizer] = lambda p: torch.optim.SGD(p, lr=0.05)  # noqa: E731
    train(whole, fresh(whole), batches * 2, 6, plain)
    first = fresh(parts)
    train(parts, first, batches, 3, plain)
    second = fresh(parts)
    second.load_state_dict(first.state_dict())
    train(parts, second, batches[3:], 3, plain)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))

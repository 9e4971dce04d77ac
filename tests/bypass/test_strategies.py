"""The protocol of a strategy, held by all: embedding and contracting move no output, and a stop costs nothing."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.bypass.strategies import CONTROLS, EXTENSIONS, RESTARTS, STRATEGIES, WIDER, Strategy
from extcon_cli.bypass.strategies.base import PhaseSteps, Scoring, StepInfo, StrategyContext
from extcon_cli.bypass.trace import Trace
from extcon_cli.channels import channel_groups, difference
from extcon_cli.channels.compare import EXACT_DOUBLE, random_batches
from extcon_cli.errors import GateError, UsageError

PHASES = PhaseSteps(5, 8, 4)
X = torch.randn(64, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(64) % 3


def network() -> nn.Module:
    """Two of its first channels and three of its hidden units are dead on any data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(54, 8), nn.GELU(), nn.Linear(8, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        model[1].weight[:2], model[1].bias[:2] = 0.0, -1.0  # type: ignore[index]
        model[5].weight[:3], model[5].bias[:3] = 0.0, -1.0  # type: ignore[index]
    return model.eval()


def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(module(batch[0]), batch[1])


def context() -> StrategyContext:
    theta, example = network(), (X[:2],)
    channels = channel_groups(theta, example)
    return StrategyContext(
        model=lambda: copy.deepcopy(theta),
        channels=lambda: channels,
        example=example,
        phases=PHASES,
        scoring=Scoring(lambda: [(X, Y)], loss),
        data=lambda: [(X,)],
        training=lambda: [(X[:40],), (X[40:],)],
    )


def steps(strategy: Strategy, begin: int = 0, end: int = PHASES.total) -> Iterator[int]:
    """Plain gradient descent, which has no state of its own."""
    strategy.module.train()
    for index in range(begin, end):
        trained = [p for p in strategy.module.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss(strategy.module, (X, Y)), trained, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(trained, found, strict=True):
                if gradient is not None:
                    parameter.sub_(0.2 * strategy.lr_factor * gradient)
        strategy.after_step(StepInfo(index, 0.2, 1.0))
        strategy.module.train()
        yield index


def walk(strategy: Strategy, begin: int = 0, end: int = PHASES.total) -> None:
    for _ in steps(strategy, begin, end):
        pass


@pytest.mark.parametrize("name", sorted({*STRATEGIES} - {"perturbed", "shrink", "identity"}))
def test_embedding_moves_no_output(name: str) -> None:
    strategy = STRATEGIES[name](context())
    assert difference(network(), strategy.module, [(X,)]).relative < EXACT_DOUBLE


def test_a_perturbation_moves_the_outputs() -> None:
    assert difference(network(), STRATEGIES["perturbed"](context()).module, [(X,)]).relative > 1e-3


@pytest.mark.parametrize("name", sorted({*STRATEGIES} - {*RESTARTS}))
def test_contracting_moves_no_output_and_gives_the_original_architecture(name: str) -> None:
    strategy = STRATEGIES[name](context())
    assert strategy.done == (name not in ("diag", "mirror", "widen"))
    walk(strategy)
    assert strategy.done
    report = strategy.contract()
    assert difference(strategy.module, report.module, [(X,), *random_batches((X,))]).relative < EXACT_DOUBLE
    assert difference(network(), report.module, [(X,)]).relative > 1e-3  # it has learnt
    assert (repr(report.module) == repr(network())) == (name != WIDER)  # which keeps what it added
    assert bool(report.to_json()) == (name in (*EXTENSIONS, WIDER))


@pytest.mark.parametrize("name", ["restart", "shrink"])
def test_a_restart_gives_the_mean_of_its_last_states_and_says_that_it_preserves_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extcon_cli.averaging.EVERY", 3)
    strategy = STRATEGIES[name](context())
    shrunk, theta = dict(strategy.module.named_parameters()), dict(network().named_parameters())
    for key, begin in theta.items():
        factor = 0.6 if name == "shrink" and not key.startswith("1.") else 1.0  # 1: the batch norm
        torch.testing.assert_close(shrunk[key], factor * begin, rtol=0, atol=0)
    states = []
    for index in steps(strategy):
        states.append(copy.deepcopy(strategy.module.state_dict()))
        assert strategy.done == (index + 1 == PHASES.total)
    counted = [states[index] for index in (7, 10, 13, 16)]  # every third of the last 60 % of 17 steps
    mean = network()
    mean.load_state_dict({key: sum(state[key] for state in counted) / 4 for key in theta}, strict=False)
    inputs = mean[0](X)
    mean[1].running_mean = inputs.mean((0, 2, 3))  # type: ignore[index]
    report = strategy.contract()
    for key, value in mean.named_parameters():
        torch.testing.assert_close(report.module.get_parameter(key), value)
    torch.testing.assert_close(report.module.get_buffer("1.running_mean"), mean.get_buffer("1.running_mean"))
    variance = sum(len(part) * mean[0](part).var((0, 2, 3)) for part in (X[:40], X[40:])) / len(X)  # type: ignore[index]
    torch.testing.assert_close(report.module.get_buffer("1.running_var"), variance)
    told = report.to_json()
    assert (told["preserves"], told["averaged"]) == (False, 4)
    assert (told["embed_difference"] > 0.1) == (name == "shrink")  # type: ignore[operator]
    assert told["averaging_difference"] > 1e-4  # type: ignore[operator]


def test_a_restart_with_batch_norm_needs_training_inputs() -> None:
    with pytest.raises(UsageError, match="needs training inputs"):
        STRATEGIES["restart"](replace(context(), training=None))


@pytest.mark.parametrize("name", ["mirror", "widen", "restart"])
def test_before_its_time_there_is_nothing_to_contract(name: str) -> None:
    strategy = STRATEGIES[name](context())
    walk(strategy, end=PHASES.opt_1 + 2)
    assert not strategy.done
    with pytest.raises(GateError):
        strategy.contract()


@pytest.mark.parametrize("stop", [2, PHASES.opt_1, PHASES.opt_1 + 3, PHASES.opt_1 + PHASES.opt_2 + 2])
@pytest.mark.parametrize("name", sorted({*STRATEGIES} - {"identity"}))
def test_a_strategy_that_was_stopped_goes_on_as_if_it_had_not(name: str, stop: int) -> None:
    whole = STRATEGIES[name](context())
    trace = Trace(whole, PHASES.total)
    kept = io.BytesIO()
    for index in steps(whole):
        trace.note(index)
        if index + 1 == stop:
            torch.save([whole.state_dict(), trace.state_dict(), whole.module.state_dict()], kept)
    kept.seek(0)
    own, path, weights = torch.load(kept, weights_only=True)

    broken = STRATEGIES[name](context())
    resumed = Trace(broken, PHASES.total)
    broken.load_state_dict(own)
    resumed.load_state_dict(path)
    broken.module.load_state_dict(weights)
    for index in steps(broken, begin=stop):
        resumed.note(index)
    for first, second in ((whole.module, broken.module), (whole.contract().module, broken.contract().module)):
        assert [*first.state_dict()] == [*second.state_dict()]
        assert all(torch.equal(first.state_dict()[key], tensor) for key, tensor in second.state_dict().items())
    assert resumed.rows == trace.rows
    assert whole.contract().to_json() == broken.contract().to_json()


def test_controls_are_no_extensions() -> None:
    assert not {*CONTROLS} & {*EXTENSIONS}
    assert {*STRATEGIES} == {"baseline", *CONTROLS, *EXTENSIONS, WIDER}
    assert WIDER not in EXTENSIONS

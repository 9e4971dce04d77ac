"""`Bypass` in other people's loops: optimizers, autocast, torch.compile, DistributedDataParallel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from extcon_cli import Bypass
from extcon_cli.channels import difference
from extcon_cli.channels.compare import EXACT, EXACT_DOUBLE
from extcon_cli.errors import GateError, UsageError

Forward = Callable[[Tensor], Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 3),
    )  # fmt: skip


def images(number: int = 16) -> Tensor:
    return torch.randn(number, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def bypassed(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    wrap: Callable[[nn.Module], Forward],
    *,
    autocast: bool = False,
    part: slice = slice(None),
) -> Bypass:
    """Six steps of opt_1, six of opt_2 and four after them; what was learnt in the extended space counts."""
    x, y = images()[part].to(next(model.parameters())), (torch.arange(16) % 3)[part]
    bypass = Bypass(model, (x,), opt_1=6, opt_2=6)
    optimizer.add_param_group({"params": bypass.deltas})
    forward = wrap(bypass.model)
    for step in range(16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(forward(x).to(x), y)
        loss.backward()
        optimizer.step()
        bypass.step()
        optimizer.zero_grad()
        if step == 5:
            assert all(bool(delta.any()) for delta in bypass.deltas)
    assert bypass.done
    assert bypass.contract().largest == 0
    return bypass


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("autocast", [False, True])
def test_any_optimizer_with_and_without_autocast(name: str, autocast: bool) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    nn.functional.cross_entropy(model(images()), torch.arange(16) % 3).backward()
    optimizer.step()  # theta has moments before D comes
    before = [parameter.detach().clone() for parameter in model.parameters()]
    bypassed(model, optimizer, lambda extended: extended, autocast=autocast)
    assert all(bool((p != q).any()) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(backend: str) -> None:
    torch._dynamo.reset()
    model = network()
    bypassed(model, torch.optim.Adam(model.parameters(), lr=0.01), lambda m: torch.compile(m, backend=backend))


def test_distributed(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        plain, wrapped = network(), network()
        bypassed(plain, torch.optim.SGD(plain.parameters(), lr=0.05), lambda m: m)
        bypassed(
            wrapped,
            torch.optim.SGD(wrapped.parameters(), lr=0.05),
            lambda m: DistributedDataParallel(m, find_unused_parameters=True),  # D is trained no more once it is back
        )
    finally:
        torch.distributed.destroy_process_group()
    assert all(
        torch.equal(p, q) for p, q in zip(plain.state_dict().values(), wrapped.state_dict().values(), strict=True)
    )


def half_of_the_batch(rank: int, folder: Path) -> None:
    """What each of two processes does; a module without batch norm, whose statistics are each process's own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    try:
        model = perceptron()
        wrap = lambda m: DistributedDataParallel(m, find_unused_parameters=True)  # noqa: E731
        bypassed(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), wrap, part=slice(rank, None, 2))
        torch.save(model.state_dict(), folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def test_distributed_over_two_processes(tmp_path: Path) -> None:
    both = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    plain = perceptron()
    bypassed(plain, torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9), lambda m: m)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for key, tensor in plain.state_dict().items():
        assert torch.equal(first[key], second[key])
        assert torch.allclose(first[key], tensor, rtol=0, atol=1e-12)  # the halves of a batch add up in another order


def test_a_model_that_was_changed_behind_its_back_is_not_contracted() -> None:
    model = network()
    bypass = Bypass(model, (images(),), opt_1=1, opt_2=1)
    bypass.step()
    bypass.step()
    with torch.no_grad():
        bypass.deltas[0].fill_(1.0)
    with pytest.raises(GateError, match="outputs differ"):
        bypass.contract()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_mirrored(name: str) -> None:
    model, (x, y) = network().double(), (images().double(), torch.arange(16) % 3)
    before = {key: tensor.shape for key, tensor in model.state_dict().items()}
    bypass = Bypass(model, (x,), opt_1=6, opt_2=8, method="mirror")
    optimizer = OPTIMIZERS[name]([*model.parameters(), *bypass.deltas])
    losses, renewed = [], []
    for step in range(20):
        loss = nn.functional.cross_entropy(bypass.model(x), y)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        if bypass.step():
            renewed.append(step)
            optimizer = OPTIMIZERS[name](bypass.model.parameters())
        optimizer.zero_grad()
        assert bypass.done == (step >= 13)
    assert renewed == [5]
    assert bypass.contract().relative < EXACT_DOUBLE
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == before
    assert difference(model, bypass.model, [(x,)]).relative < EXACT_DOUBLE
    assert losses[-1] < losses[0]


def test_widened() -> None:
    model, (x, y) = network(), (images(), torch.arange(16) % 3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    bypass = Bypass(model, (x,), opt_1=6, opt_2=8, method="widen")
    assert sum(p.numel() for p in bypass.model.parameters()) > sum(p.numel() for p in model.parameters())
    optimizer = OPTIMIZERS["sgd"](bypass.model.parameters())
    for step in range(20):
        nn.functional.cross_entropy(bypass.model(x), y).backward()
        optimizer.step()
        assert not bypass.step()
        optimizer.zero_grad()
        assert bypass.done == (step >= 13)
    assert bypass.contract().relative <= EXACT
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {k: t.shape for k, t in before.items()}
    assert not torch.equal(model.state_dict()["4.weight"], before["4.weight"])


def test_units_are_not_scored_without_gradients() -> None:
    bypass = Bypass(network(), (images(),), opt_1=1, opt_2=4, method="widen")
    for _ in range(2):  # opt_1, and the step that should score
        bypass.step()
    with pytest.raises(UsageError, match=r"call \.step\(\) after backward"):
        bypass.step()


def test_revived_at_once_and_in_place() -> None:
    model, x = perceptron(), images().double()
    with torch.no_grad():
        model[1].weight[:2], model[1].bias[:2] = 0.0, -1.0  # type: ignore[index]
    before = model(x)
    bypass = Bypass(model, (x,), method="revive", data=lambda: [(x,)])
    assert bypass.model is model
    assert bypass.done
    assert torch.allclose(model(x), before, rtol=EXACT_DOUBLE)
    assert model[1].weight[:2].any()  # type: ignore[index]
    with pytest.raises(UsageError, match="all training inputs"):
        Bypass(perceptron(), (x,), method="revive")


@pytest.mark.parametrize(("gamma", "met"), [(1e-9, False), (0.5, True)])
def test_the_papers_penalty_comes_back_or_fails_at_its_last_step(gamma: float, met: bool) -> None:
    model, (x, y) = perceptron(), (images().double(), torch.arange(16) % 3)
    bypass = Bypass(model, (x,), opt_1=5, opt_2=40, method="penalty", gamma=gamma, epsilon=0.3)
    optimizer = torch.optim.SGD([*model.parameters(), *bypass.deltas], lr=0.02)

    def walk() -> None:
        for _ in range(45):
            penalty = bypass.penalty()
            assert penalty is not None
            (nn.functional.cross_entropy(bypass.model(x), y) + penalty).backward()
            optimizer.step()
            bypass.step()
            optimizer.zero_grad()

    if met:
        walk()
        assert bypass.contract().largest == 0
    else:
        with torch.no_grad():
            bypass.deltas[0].fill_(1.0)
        with pytest.raises(GateError, match="opt_2 did not meet its constraint"):
            walk()


def test_what_cannot_be_mirrored_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    with pytest.raises(UsageError, match="no activation can be mirrored"):
        Bypass(model, (torch.randn(2, 4),), method="mirror")


if __name__ == "__main__":  # one of the two processes
    half_of_the_batch(int(sys.argv[1]), Path(sys.argv[2]))


def test_a_restart_in_ones_own_loop_ends_with_the_mean_of_the_last_weights() -> None:
    model, x = network(), images()
    with pytest.raises(UsageError, match="needs training inputs"):
        Bypass(model, (x,), method="restart")
    bypass = Bypass(model, (x,), method="shrink", opt_1=8, opt_2=8, data=lambda: [(x,)])
    optimizer = torch.optim.SGD(bypass.model.parameters(), lr=0.3)
    with pytest.raises(UsageError, match="nothing to contract yet"):
        bypass.contract()
    model.train()
    while not bypass.done:
        bypass.model(x).square().mean().backward()
        optimizer.step()
        assert not bypass.step()
        optimizer.zero_grad()
    last = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    assert bypass.contract().relative > EXACT
    assert any(not torch.equal(tensor, last[name]) for name, tensor in model.named_parameters())
    torch.testing.assert_close(model[1].running_mean, model[0](x).mean((0, 2, 3)))


def test_near_the_identity_in_ones_own_loop_and_unknown_methods() -> None:
    torch.manual_seed(0)
    hidden = [part for _ in range(4) for part in (nn.Linear(8, 8), nn.ReLU())]
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), *hidden, nn.Linear(8, 3)), torch.randn(4, 5)
    bypass = Bypass(model, (x,), method="identity")
    assert bypass.model is model
    assert bypass.done
    assert bypass.contract().largest == 0
    assert (model[4].weight - torch.eye(8)).std() < 0.1
    with pytest.raises(UsageError, match="method 'wide': should be one of controlled, identity, mirror"):
        Bypass(model, (x,), method="wide")  # type: ignore[arg-type]

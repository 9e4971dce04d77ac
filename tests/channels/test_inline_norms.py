"""Root mean squares in a model's own code: zeros go from under them exactly, and what only looks like one stays."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import Channels, RemovalPlan, channel_groups, plan_removal, remove, zero_channels
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.errors import CheckpointError, TraceError

C = 12
EPS = 0.3  # so large that a wrong one shows
Remove = Callable[..., Any]
Forward = Callable[[Any, Tensor], Tensor]


class Norm(nn.Module):
    """A norm whose forward pass is given."""

    def __init__(self, forward: Forward, **extra: Any) -> None:
        super().__init__()
        self.weight, self.eps, self.rule = nn.Parameter(torch.rand(C) + 0.5), EPS, forward
        for name, value in extra.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


class Stream(nn.Module):
    """A residual stream of width C, normed before each of two blocks and at the end."""

    def __init__(self, forward: Forward, **extra: Any) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, C), nn.Linear(C, 3)
        self.norms = nn.ModuleList([Norm(forward, **extra) for _ in range(3)])
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(C, 7), nn.GELU(), nn.Linear(7, C)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for norm, block in zip(self.norms, self.blocks, strict=False):
            y = y + block(norm(y))
        return self.head(self.norms[2](y))


def llama(n: Any, x: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + n.eps)
    return n.weight * wide.to(x.dtype)


def t5(n: Any, x: Tensor) -> Tensor:
    return n.weight * (x * torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + n.eps))


def gemma(n: Any, x: Tensor) -> Tensor:
    y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + n.eps)
    return (y * (1.0 + n.weight.float())).type_as(x)


def power(n: Any, x: Tensor) -> Tensor:
    return x * torch.pow((x * x).mean(2, keepdim=True) + n.eps, -0.5) * n.weight


def quotient(n: Any, x: Tensor) -> Tensor:
    return x / torch.sqrt(n.eps + x.square().mean(-1, keepdim=True)) * n.weight


def plain(n: Any, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + n.eps) * n.weight


NORMS: dict[str, Forward] = {f.__name__: f for f in (llama, t5, gemma, power, quotient, plain)}


def root(x: Tensor, eps: float = EPS) -> Tensor:
    return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def twice(n: Any, x: Tensor) -> Tensor:
    mean = x.pow(2).mean(-1, keepdim=True)
    return x * torch.rsqrt(mean + n.eps) * n.weight + mean


def root_read_twice(n: Any, x: Tensor) -> Tensor:
    r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + n.eps)
    return x * r * n.weight * r


def weight_read_twice(n: Any, x: Tensor) -> Tensor:
    return x * root(x, n.eps) * n.weight + n.weight


def unlike(n: Any, x: Tensor) -> Tensor:
    return x.tanh() * root(x, n.eps) * n.weight


NEAR_MISSES: dict[str, tuple[Forward, dict[str, Any]]] = {
    "no weight": (lambda n, x: x * root(x, n.eps), {}),
    "a computed weight": (lambda n, x: x * root(x, n.eps) * n.weight.abs(), {}),
    "a cube": (lambda n, x: x * torch.rsqrt(x.abs().pow(3).mean(-1, keepdim=True) + n.eps) * n.weight, {}),
    "a product of two": (lambda n, x: x * torch.rsqrt((x * x.tanh()).mean(-1, keepdim=True) + n.eps) * n.weight, {}),
    "tokens too": (lambda n, x: x * torch.rsqrt(x.pow(2).mean((-1, -2), keepdim=True) + n.eps) * n.weight, {}),
    "another root": (lambda n, x: x * torch.pow(x.pow(2).mean(-1, keepdim=True) + n.eps, -0.25) * n.weight, {}),
    "upside down": (lambda n, x: torch.sqrt(x.pow(2).mean(-1, keepdim=True) + n.eps) * x * n.weight, {}),
    "the mean is read twice": (twice, {}),
    "the root is read twice": (root_read_twice, {}),
    "the weight is read twice": (weight_read_twice, {}),
    "another value is scaled": (unlike, {}),
    "eps twice": (lambda n, x: x * x.pow(2).mean(-1, keepdim=True).add(n.eps, alpha=2).rsqrt() * n.weight, {}),
    "an eps that is no attribute": (lambda n, x: x * root(x, 0.2) * n.weight, {}),
    "an eps that has no such name": (lambda n, x: x * root(x, n.slope) * n.weight, {"eps": None, "slope": EPS}),
    "two attributes": (plain, {"epsilon": EPS}),
    "an integer": (plain, {"eps": 1}),
}  # fmt: skip


def example() -> tuple[Tensor]:
    return (torch.randn(2, 4, 5),)


def stream(channels: Channels) -> Any:
    return next(group for group in channels.groups if group.name == "first")


@pytest.mark.parametrize("name", NORMS)
def test_zeros_go_from_under_it(name: str, remove_exactly: Remove) -> None:
    removal = remove_exactly(Stream(NORMS[name]), example())
    assert removal.after.first.out_features == C // 2
    assert [norm.eps for norm in removal.after.norms] == [2 * EPS] * 3
    assert type(removal.after.norms[0]) is Norm
    rewrites = [entry for entry in removal.plan.rewrites() if entry.rule.startswith("norm: ")]
    assert [entry.where for entry in rewrites] == [f"norms.{n}.weight" for n in range(3)]


@pytest.mark.parametrize("name", NORMS)
def test_another_constant_stays(name: str, remove_exactly: Remove) -> None:
    def kill(module: Any, channels: Channels) -> None:
        zero_channels(module, stream(channels), torch.arange(4).numpy())
        module.first.bias.data[1] = 0.5

    removal = remove_exactly(Stream(NORMS[name]), example(), kill)
    assert removal.after.first.out_features == C - 3


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_only_looks_like_one_stays(name: str, remove_exactly: Remove) -> None:
    forward, extra = NEAR_MISSES[name]
    module = Stream(forward, **extra)
    untried = analyse(module.eval(), trace(module, example()))
    assert "mean runs over these channels in norms.0" in stream(untried).reason
    assert remove_exactly(module, example()).after.first.out_features == C


@pytest.mark.parametrize("eps", [EPS, 1e-6])
def test_an_eps_that_only_equals_the_attribute_is_found_out_by_the_trial(eps: float, remove_exactly: Remove) -> None:
    module = Stream(lambda n, x: x * root(x, eps) * n.weight, eps=eps)
    removal = remove_exactly(module, example())
    assert removal.after.first.out_features == C
    assert "eps" in stream(removal.channels).reason or eps == EPS


def test_a_norm_that_a_larger_module_writes_out_stays(remove_exactly: Remove) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(5, C), nn.Linear(C, 3)
            self.weight, self.eps = nn.Parameter(torch.ones(C)), EPS

        def forward(self, x: Tensor) -> Tensor:
            return self.head(plain(self, self.first(x)))

    removal = remove_exactly(Whole(), example())
    assert removal.after.first.out_features == C
    assert any("does not take its eps" in group.reason for group in removal.channels.groups)


def test_in_two_steps_as_in_one(remove_exactly: Remove) -> None:
    def kill(upto: int) -> Callable[[nn.Module, Channels], None]:
        return lambda module, channels: zero_channels(module, stream(channels), torch.arange(upto).numpy())

    module = Stream(llama)
    once = remove_exactly(module, example(), kill(6)).after
    twice = remove_exactly(remove_exactly(module, example(), kill(4)).after, example(), kill(2)).after
    assert twice.norms[0].eps == pytest.approx(once.norms[0].eps, rel=1e-15)
    torch.testing.assert_close(twice.state_dict(), once.state_dict())


def made() -> tuple[nn.Module, dict[str, Any]]:
    module = Stream(llama).eval()
    channels = channel_groups(module, example())
    zero_channels(module, stream(channels), torch.arange(4).numpy())
    return module, json.loads(json.dumps(plan_removal(module, channels).to_json()))


def test_the_plan_survives_json_and_a_fresh_network_takes_it() -> None:
    module, data = made()
    fresh = copy.deepcopy(module)
    remove(module, RemovalPlan.from_json(data))
    remove(fresh, RemovalPlan.from_json(json.loads(json.dumps(data))))
    fresh.load_state_dict(module.state_dict())
    x = example()
    assert torch.equal(module(*x), fresh(*x))
    assert fresh.norms[1].eps == EPS * C / (C - 4)


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "norms that are a number": lambda data: data.update(norms=3),
    "another attribute": lambda data: data["norms"][0].update(attribute="training"),
    "an attribute that is not there": lambda data: data["norms"][0].update(attribute="epsilon"),
    "another eps": lambda data: data["norms"][0].update(eps=EPS / 2),
    "an eps that is no number": lambda data: data["norms"][0].update(eps=float("nan")),
    "an offset that is no number": lambda data: data["norms"][0].update(offset=float("inf")),
    "nothing left": lambda data: data["norms"][0].update(after=0),
    "more than before": lambda data: data["norms"][0].update(after=C + 1),
    "other widths": lambda data: data["norms"][0].update(before=2 * C, after=2 * (C - 4)),
    "not what the cut leaves": lambda data: data["norms"][0].update(after=C - 5),
    "a weight that is not there": lambda data: data["norms"][0].update(weight="norms.9.weight"),
    "a weight of two dimensions": lambda data: data["norms"][0].update(weight="first.weight"),
    "twice the same": lambda data: data["norms"].append(data["norms"][0]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plan_is_refused_and_nothing_is_changed(name: str) -> None:
    module, data = made()
    HOSTILE[name](data)
    state = copy.deepcopy(module.state_dict())
    with pytest.raises(CheckpointError):
        remove(module, RemovalPlan.from_json(data))
    assert [norm.eps for norm in module.norms] == [EPS] * 3
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


def test_a_plan_of_before_there_were_norms_is_read() -> None:
    _, data = made()
    del data["norms"]
    assert RemovalPlan.from_json({**data, "format": 2}).norms == ()


def test_a_scale_of_one_and_a_weight_is_not_silenced_by_the_weight() -> None:
    channels = channel_groups(Stream(gemma).eval(), example())
    zeroing_slices = {part.parameter for part in stream(channels).zeroing_slices}
    assert {"first.weight", "first.bias"} <= zeroing_slices
    assert not any(name.startswith("norms") for name in zeroing_slices)


def test_numbers_too_coarse_for_the_trial_are_named() -> None:
    groups = channel_groups(Stream(llama).eval().bfloat16(), (torch.randn(4, 5).bfloat16(),)).groups
    assert any("torch.bfloat16 is too coarse to tell (try float32)" in group.reason for group in groups)


def test_a_model_that_returns_a_cache_is_told_not_to() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=20, **sizes)).eval()
    with pytest.raises(TraceError, match=r"set model\.config\.use_cache = False"):
        channel_groups(model, (torch.randint(0, 20, (2, 5)),))

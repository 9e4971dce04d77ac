"""A user's module is as before, whatever it keeps on itself and whether tracing succeeded: attributes, buffers, hooks,
random numbers."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from extcon_cli.channels import certify, channel_groups, difference, plan_removal, remove_zeros, zero_channels
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.compare import runs
from extcon_cli.channels.preserving import duplicate, preserving
from extcon_cli.errors import TraceError

EXAMPLE = (torch.randn(2, 6),)
Keep = Callable[[Any, Tensor], object]


class Keeps(nn.Module):
    """Two linear maps; `keep` sees the hidden activation and may leave it anywhere."""

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.keep, self.seen, self.last, self.by_name, self.recent = keep, [], None, {}, deque(maxlen=2)
        self.deep = SimpleNamespace(inner=[{"last": None}])
        self.names: set[str] = set()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        self.keep(self, y)
        return self.head(y)


def hook(module: Any, y: Tensor) -> None:
    if not module.head._forward_hooks:
        module.head.register_forward_hook(lambda *_: None)


KEPT: dict[str, Keep] = {
    "an attribute": lambda m, y: setattr(m, "last", y),
    "a new attribute": lambda m, y: setattr(m, "features", y),
    "a list": lambda m, y: m.seen.append(y),
    "a dict": lambda m, y: m.by_name.update(y=y),
    "a deque": lambda m, y: m.recent.append(y),
    "a set": lambda m, y: m.names.add("y"),
    "an object within lists": lambda m, y: m.deep.inner[0].update(last=y),
    "a child's attribute": lambda m, y: setattr(m.head, "input", y),
    "a counter": lambda m, y: m.calls.add_(1),
    "a new buffer": lambda m, y: setattr(m, "calls", m.calls + 1),
    "another buffer": lambda m, y: m.register_buffer("other", y),
    "a hook": hook,
    "random numbers": lambda m, y: (torch.rand(3), random.random(), np.random.rand(3)),
    "a mode": lambda m, y: m.head.train(not m.head.training),
    "gone": lambda m, y: vars(m).pop("last", None),
}  # fmt: skip


def state(module: Any) -> Any:
    """Everything that can be told of a module's state, by identity where it is no number."""
    contents = {
        name: list(map(id, held.values() if isinstance(held, dict) else held))
        for name, held in vars(module).items()
        if isinstance(held, (dict, list, set, deque))
    }
    return (
        {path: {name: id(value) for name, value in vars(child).items()} for path, child in module.named_modules()},
        contents,
        {path: [len(child._forward_hooks), child.training] for path, child in module.named_modules()},
        module.deep.inner[0]["last"],
        {name: buffer.tolist() for name, buffer in module.named_buffers()},
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )


class Frozen(OrderedDict[str, Any]):
    """As diffusers' configurations: it refuses changes."""

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("frozen")

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("frozen")


def test_a_pass_in_training_mode_leaves_running_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = copy.deepcopy(module.state_dict())
    assert runs(module, (torch.randn(2, 3, 5, 5),), training=True)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_container_that_refuses_changes_is_as_before() -> None:
    module = Keeps(lambda m, y: OrderedDict.__setitem__(m.config, "last", y))
    module.config = Frozen()
    OrderedDict.__setitem__(module.config, "width", 8)
    with preserving(module):
        module(*EXAMPLE)
        assert "last" in module.config
    assert list(module.config.items()) == [("width", 8)]


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("name", KEPT)
def test_tracing_leaves_the_module_as_it_was(name: str, exported: bool) -> None:
    module = Keeps(KEPT[name])
    before = state(module)
    trace(module, EXAMPLE, exported=exported)
    assert state(module) == before


@pytest.mark.parametrize("name", KEPT)
def test_a_failure_leaves_the_module_as_it_was(name: str) -> None:
    def fails(module: Any, y: Tensor) -> None:
        KEPT[name](module, y)
        if y.sum() > 0:  # depends on the numbers
            raise ValueError("no")

    module = Keeps(fails)
    before = state(module)
    with pytest.raises(TraceError):
        channel_groups(module, EXAMPLE)
    assert state(module) == before


@pytest.mark.parametrize("name", KEPT)
def test_groups_removal_and_measuring_leave_the_module_as_it_was(name: str) -> None:
    module = Keeps(KEPT[name])
    channels = channel_groups(module, EXAMPLE)
    group = channels.groups[0]
    assert group.prunable
    zero_channels(module, group, np.arange(3))
    before = state(module)
    assert remove_zeros(module, EXAMPLE, channels=channels).module.first.out_features == 5
    difference(module, module, [EXAMPLE])
    assert state(module) == before


@pytest.mark.parametrize("name", KEPT)
def test_a_module_that_has_run_before_is_taken(name: str) -> None:
    module = Keeps(KEPT[name])
    module(*EXAMPLE)
    assert channel_groups(module, EXAMPLE).groups[0].prunable


def test_a_hook_that_gathers_in_a_list_of_its_own_gathers_nothing() -> None:
    gathered: list[Tensor] = []
    module = Keeps(lambda m, y: None)
    module.first.register_forward_hook(lambda layer, args, output: gathered.append(output))
    channel_groups(module, EXAMPLE)
    assert gathered == []


nested = st.recursive(
    st.integers() | st.just(torch.ones(2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(held=nested, seed=st.integers(0, 2**16))
def test_whatever_is_changed_within_is_put_back(held: Any, seed: int) -> None:
    module = nn.Linear(2, 2)
    module.held = SimpleNamespace(value=held)
    chosen = random.Random(seed)

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return id(value), {key: shown(entry) for key, entry in value.items()}
        return (id(value), [shown(entry) for entry in value]) if isinstance(value, list) else id(value)

    def change(value: Any) -> None:
        entries = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        for entry in entries:
            change(entry)
        if isinstance(value, list):
            chosen.choice((lambda: value.append(0), value.clear, value.reverse))()
        elif isinstance(value, dict):
            chosen.choice((lambda: value.update(a=0, z=1), value.clear, lambda: value.pop("a", None)))()

    def fails() -> None:
        with preserving(module):
            change(held)
            module.held.value = None
            raise RuntimeError("inside")

    before = shown(held)
    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert module.held.value is held
    assert shown(held) == before


def test_a_copy_leaves_computations_behind() -> None:
    module = Keeps(lambda m, y: (setattr(m, "last", y), m.seen.append(y)))
    module(*EXAMPLE)
    with pytest.raises(RuntimeError):
        copy.deepcopy(module)
    copied = duplicate(module)
    assert torch.equal(copied.last, module.last)
    assert copied.last is copied.seen[0]
    assert copied.last.is_leaf
    assert copied.first.weight is not module.first.weight


def test_the_copies_computations_are_their_own_in_a_certificate() -> None:
    module = Keeps(lambda m, y: setattr(m, "last", y))
    module(*EXAMPLE)
    plan = plan_removal(module, channel_groups(module, EXAMPLE))
    assert certify(module, duplicate(module), plan, EXAMPLE).exact


class CopiedInItsOwnWay(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiedInItsOwnWay:
        return self


class SavedInItsOwnWay(nn.Linear):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Linear, (2, 2)


def test_a_duplicate_is_what_a_deep_copy_is() -> None:
    """Modules are copied by a way of their own, which is sooner: what is shared within them stays shared."""
    module = nn.ModuleDict({
        "lstm": nn.LSTM(3, 4),
        "conv": nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.BatchNorm2d(2)),
        "own": CopiedInItsOwnWay(2, 2),
        "saved": SavedInItsOwnWay(2, 2),
    })  # fmt: skip
    module.again, module.lstm.tags, module.tags = module.conv, (tags := []), tags
    module.conv.pair = ("a", [module.conv[0].weight], module.conv[1])
    for copied in (duplicate(module), copy.deepcopy(module)):
        assert copied.own is module.own
        assert type(copied.saved) is nn.Linear
        assert copied.again is copied.conv is not module.conv
        assert copied.tags is copied.lstm.tags is not tags
        assert copied.conv.pair[1][0] is copied.conv[0].weight is not module.conv[0].weight
        assert copied.conv.pair[2] is copied.conv[1]
        assert copied.lstm(x := torch.randn(5, 3))[0].equal(module.lstm(x)[0])
        assert copied.conv[1]._buffers.keys() == module.conv[1]._buffers.keys()
        assert vars(copied.conv[0]).keys() == vars(module.conv[0]).keys()

"""Random architectures: embedding is bit-identical, and neither mirror images nor new units change an output."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from extcon_cli.bypass.extension import extend
from extcon_cli.bypass.strategies.mirror import mirror, mirrors
from extcon_cli.bypass.strategies.narrowed import Narrowing
from extcon_cli.bypass.strategies.widen import widen
from extcon_cli.channels import channel_groups, difference
from extcon_cli.channels.compare import random_batches
from extcon_cli.errors import UsageError

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.Mish)
POOLINGS = (nn.Identity, nn.MaxPool2d, nn.AvgPool2d)


class Block(nn.Module):
    """Two convolutions with what was drawn between and after them; with a shortcut, a gate, both or none."""

    def __init__(self, width: int, spec: dict[str, Any]) -> None:
        super().__init__()
        inner = spec["inner"]
        self.first, self.second = (nn.Conv2d(r, w, 3, padding=1, bias=spec["bias"])
                                   for r, w in ((width, inner), (inner, width)))  # fmt: skip
        self.norm = nn.BatchNorm2d(inner) if spec["norm"] else nn.Identity()
        self.act, self.last = ACTIVATIONS[spec["act"]](), ACTIVATIONS[spec["last"]]()
        self.pool = POOLINGS[spec["pool"]](*((2,) if spec["pool"] else ()))
        self.shortcut, self.gate = spec["shortcut"], spec["gate"]

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.first(x)))
        if self.gate:
            y = y * y.mean((2, 3), keepdim=True).sigmoid()
        y = self.second(y)
        return self.pool(self.last(x + y if self.shortcut else y))


def network(width: int, specs: list[dict[str, Any]], hidden: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, width, 3), nn.ReLU(inplace=True), *(Block(width, spec) for spec in specs),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, hidden), nn.GELU(), nn.Linear(hidden, 3),
    )  # fmt: skip
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight)
            nn.init.normal_(part.bias)
            part.running_mean.normal_()  # type: ignore[union-attr]
    return model.double().eval()


SPEC = st.fixed_dictionaries(
    {
        "inner": st.integers(2, 6),
        "act": st.integers(0, len(ACTIVATIONS) - 1),
        "last": st.integers(0, len(ACTIVATIONS) - 1),
        "pool": st.integers(0, len(POOLINGS) - 1),
        **{name: st.booleans() for name in ("bias", "norm", "shortcut", "gate")},
    }
)
PLAIN = {"inner": 3, "act": 0, "last": 0, "pool": 0, **dict.fromkeys(("bias", "norm", "shortcut", "gate"), False)}
NETWORKS = st.builds(network, st.integers(2, 5), st.lists(SPEC, min_size=1, max_size=3), st.integers(2, 6))


@settings(max_examples=12, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(NETWORKS)
@example(network(4, [PLAIN], 4))  # the dry run of the widened one takes all that its last layer reads
def test_no_extension_changes_an_output(model: nn.Module) -> None:
    x = torch.randn(3, 2, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batches, channels = list(random_batches((x,))), channel_groups(model, (x,))
    psi = extend(model, (x,))
    assert torch.equal(psi(x), model(x))

    found = mirrors(model, channels, psi)
    assert found  # the last activation always has images
    some = {item.site: nn.init.normal_(psi.psi(item.site).delta).detach() for item in found}
    mirrored, _ = mirror(model, found, some)
    assert difference(psi, mirrored, batches).relative < 1e-10

    try:
        wide, added = widen(model, channels, 0.5)
    except UsageError:
        return
    assert difference(model, wide, batches).relative < 1e-10
    narrowing = Narrowing(wide, (x,), added, steps=1)
    narrowing.decide([x], lambda batch: wide(batch).square().mean())
    narrowing.step()
    narrow = narrowing.narrow().module
    assert difference(wide, narrow, batches).relative < 1e-10
    assert {n: t.shape for n, t in narrow.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}

"""Two models with most of their units dead: the verdict is right, and in plain words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from extcon_cli.checkpoint.zoo import ZOO

from .conftest import Extcon

DIGITS = Path(__file__).parents[2] / "extcon_cli" / "data" / "digits.npz"
CNN = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 32, 3, padding=1)
        self.c = nn.Conv2d(32, 48, 3, padding=1)
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.b(self.a(x).relu()).relu(), 2)
        return self.head(self.c(x).relu().mean((2, 3)))
"""


def some_digits(folder: Path, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(DIGITS) as held:
        x, y = held["x_train"][:rows, None].astype(np.float32) / held["x_train"].max(), held["y_train"][:rows]
    np.savez(folder / "digits.npz", x=x, y=y.astype(np.int64))
    return torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))


def die(layer: nn.Linear | nn.Conv2d, units: int) -> None:
    with torch.no_grad():
        layer.bias[:units] -= 20


@pytest.fixture
def mlp(tmp_path: Path) -> str:
    """61 of its 64 units are dead."""
    x, y = some_digits(tmp_path, 250)
    torch.manual_seed(0)
    net = ZOO["mlp"].build(in_features=64, widths=[64], num_classes=10)
    die(next(m for m in net.modules() if isinstance(m, nn.Linear)), 61)
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(800):
        adam.zero_grad()
        rows = torch.randint(0, 250, (64,))
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        adam.step()
    torch.save(net.state_dict(), tmp_path / "mlp.pt")
    (tmp_path / "mlp.yaml").write_text(
        "model: {arch: 'zoo:mlp', kwargs: {in_features: 64, widths: [64], num_classes: 10}}\n"
        "data: {dataset: arrays, root: digits.npz, validation: 0.02}\n"
        "bypass: {probe: {steps: 32}, opt_1: {steps: 100}, opt_2: {steps: 50}}\n"
    )
    return "mlp.pt"


@pytest.fixture
def cnn(tmp_path: Path) -> str:
    """At chance, with 72 of its 96 channels dead."""
    some_digits(tmp_path, 250)
    (tmp_path / "net.py").write_text(CNN)
    scope: dict[str, type[nn.Module]] = {}
    exec(CNN, scope)
    torch.manual_seed(1)
    net = scope["Net"]()
    for name, dead in (("a", 8), ("b", 20), ("c", 44)):
        die(net.get_submodule(name), dead)  # type: ignore[arg-type]
    torch.save(net.state_dict(), tmp_path / "cnn.pt")
    (tmp_path / "cnn.yaml").write_text(
        "model: {arch: 'net.py:Net'}\ndata: {dataset: arrays, root: digits.npz}\n"
        "bypass: {probe: {steps: 40}, optimizer: {name: adam, lr: 0.001}}\n"
    )
    return "cnn.pt"


def test_a_probe_on_few_samples_does_not_outvote_dead_units(extcon: Extcon, mlp: str) -> None:
    done = extcon("bypass", mlp, "--json", "--report", "r.md")
    assert done.code == 0, done.err
    found = done.document["diagnosis"]
    assert found["gain"] < 2 * found["gain_error"], "else this is no test of it"
    assert found["predicted"]
    assert "stalled: 61 of 64 units are dead, so a gain is to be expected" in found["verdict"]
    losses = done.document["validation"]
    assert losses[done.document["verdict"]] < 0.8 * losses["baseline"]
    assert done.document["verdict"] in ("revive", "widen", "mirror")


def test_a_net_at_chance_with_dead_channels_is_stalled_though_its_loss_falls(extcon: Extcon, cnn: str) -> None:
    done = extcon("inspect", cnn, "--data", "--trust-code", "--set", "bypass.extensions=[revive]")
    assert done.code == 0, done.err
    rows = {line.split("   ")[0]: line for line in done.out.splitlines()}
    assert "it still falls" in rows["the loss, going on"]
    assert "of 96 units are dead" in rows["units"]
    assert rows["units"].rstrip().endswith("stalled: so many outweigh all else")
    assert "\nstalled: 7" in done.out

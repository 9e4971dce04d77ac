"""Catalyst and Bypass as callbacks of Lightning's Trainer: one training, the optimizer's states carried through."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from extcon_cli.errors import UsageError

pytestmark = pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed")

STEPS = 24


class Net(nn.Module):
    """Two hidden layers; one unit of the first is dead."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.act, self.act_2 = nn.ReLU(), nn.ReLU()
        with torch.no_grad():
            self.first.bias[0] = -100

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (N, 6) -> (N, 3)
        return self.head(self.act_2(self.second(self.act(self.first(x)))))


@cache
def module_class() -> Any:
    """A LightningModule; the library is imported when a test runs, not where tests are collected."""
    import lightning

    class Fit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)]

    return Fit


def fit(*callbacks: Any, steps: int = STEPS, module: Any = None) -> Any:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(64, 6), torch.randint(3, (64,)))
    module = module or module_class()()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            max_steps=steps, callbacks=[*callbacks], logger=False, accelerator="cpu", enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=16))
    return trainer


def check_optimizer(trainer: Any, steps: int = STEPS) -> None:
    """It holds the network's parameters and no others, each with a state that was never started again."""
    (optimizer,) = trainer.optimizers
    network = trainer.lightning_module.net
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(one) for one in held} == {id(one) for one in network.parameters()}
    assert set(optimizer.state) == set(held)
    for parameter in held:
        state = optimizer.state[parameter]
        assert state["exp_avg"].shape == parameter.shape
        assert int(state["step"]) == steps, "it was not started again"
    assert "forward" not in vars(network)


@pytest.mark.parametrize("shrink", [8, 0])
def test_a_network_shrinks_while_it_is_trained(shrink: int) -> None:
    from extcon_cli.integrations import LightningCatalyst

    callback = LightningCatalyst(ratio=0.5, score_steps=6, shrink_steps=shrink)
    trainer = fit(callback)
    assert callback.report is not None
    assert callback.report.certificate.exact
    network = trainer.lightning_module.net
    assert network.first.out_features + network.second.out_features == 12
    assert network.second.in_features == network.first.out_features
    check_optimizer(trainer)


@pytest.mark.parametrize("method", ["radius", "proximal", "mirror", "widen", "revive"])
def test_a_network_is_bypassed_while_it_is_trained(method: Any) -> None:
    import lightning

    from extcon_cli.integrations import LightningBypass

    callback = LightningBypass(method, start=2, opt_1=6, opt_2=10)
    trained, moved = list[int](), list[float]()

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            (optimizer,) = trainer.optimizers
            trained.append(sum(one.numel() for group in optimizer.param_groups for one in group["params"]))
            if callback.bypassing.bypass is not None:
                moved.append(sum(float(delta.detach().norm()) for delta in callback.bypassing.bypass.deltas))

    module = module_class()()
    before = sum(parameter.numel() for parameter in module.net.parameters())
    trainer = fit(callback, Watch(), module=module)
    assert callback.report is not None
    assert callback.report.relative <= 1e-5
    assert (max(trained) > before) == (method != "revive"), "what was added was trained"
    assert (max(moved) > 0) == (method in ("radius", "proximal", "mirror")), "D moved"
    assert (module.net.first.bias[0] > -50) == (method in ("mirror", "revive", "widen")), "the dead unit gave way"
    assert trained[-1] == before
    check_optimizer(trainer)


def test_a_network_without_dead_units_is_trained_as_if_nothing_had_been_asked(recwarn: pytest.WarningsRecorder) -> None:
    from extcon_cli.integrations import LightningBypass

    alive, plain = module_class()(), module_class()()
    for module in (alive, plain):
        nn.init.constant_(module.net.first.bias, 2.0)
        nn.init.constant_(module.net.second.bias, 20.0)  # every unit fires
    callback = LightningBypass("revive", start=2)
    trainer = fit(callback, module=alive)
    fit(module=plain)
    said = [str(warning.message) for warning in recwarn if "no unit is dead" in str(warning.message)]
    assert len(said) == 1, "once"
    assert "the training goes on as it was" in said[0]
    assert callback.report is None
    assert all(map(torch.equal, alive.net.parameters(), plain.net.parameters()))
    check_optimizer(trainer)


def test_states_of_what_stays_are_cut_as_it_is() -> None:
    """After a widening that removed its own new units, each kept unit has the moments that it had."""
    from extcon_cli.integrations.bypassing import _exchange

    old, new = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4, 3))
    optimizer = torch.optim.Adam([old])
    old.grad = torch.rand(2, 3)
    optimizer.step()
    moment = optimizer.state[old]["exp_avg"].clone()
    _exchange(optimizer, {"w": old}, {"w": new})
    assert optimizer.param_groups[0]["params"] == [new]
    assert torch.equal(optimizer.state[new]["exp_avg"][:2], moment)
    assert not optimizer.state[new]["exp_avg"][2:].any()
    _exchange(optimizer, {"w": new}, {"w": nn.Parameter(torch.ones(3, 3))})
    assert not optimizer.state, "what shrank by no plan starts anew"


def test_what_cannot_work_is_refused() -> None:
    from extcon_cli.integrations import LightningBypass, LightningCatalyst

    with pytest.raises(UsageError, match="do not fit in"):
        fit(LightningCatalyst(score_steps=20, shrink_steps=20))
    with pytest.raises(UsageError, match="do not fit in"):
        fit(LightningBypass(opt_1=20, opt_2=20))
    module = module_class()()
    module.other = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="name the network: network= one of net, other"):
        fit(LightningCatalyst(score_steps=2, shrink_steps=2), module=module)
    with pytest.raises(UsageError, match="offers radius"):
        LightningBypass("penalty")  # type: ignore[arg-type]

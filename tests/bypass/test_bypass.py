"""Bypass as a specification: embedding changes nothing, contraction ends exact or says that it did not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.bypass.attach import Bypass
from extcon_cli.bypass.contraction import ContractionSchedule, ContractionSettings, Method, comeback, project
from extcon_cli.bypass.extension import extend
from extcon_cli.bypass.plateau import UnitCounts, dead_units, slope
from extcon_cli.bypass.psi import Rectified
from extcon_cli.channels.compare import EXACT
from extcon_cli.errors import TraceError, UsageError


class Functional(nn.Module):
    """A convolution and every way to write an activation; one module called twice; dropout by function."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3, padding=1)
        self.n = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.f = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.n(self.c(x)))
        x = self.relu(x - 0.5)
        x = functional.relu(torch.tanh(x + 1), inplace=True).relu_()
        return self.f(functional.dropout(x.mean((2, 3)), training=self.training))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [mlp, Functional])
def test_embedding_is_bit_identical(make: type, dtype: torch.dtype) -> None:
    model = make().to(dtype).eval()
    x = torch.randn(4, *((6,) if make is mlp else (3, 5, 5))).to(dtype)
    extended = extend(model, (x,))
    assert torch.equal(extended(x), model(x))
    assert torch.equal(copy.deepcopy(extended)(x), model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extended(x), model(x))


def test_every_call_is_a_site() -> None:
    assert len(extend(Functional(), (torch.randn(2, 3, 5, 5),)).sites) == 5


def test_strict_stands_between_dense_layers() -> None:
    assert [(s.first, s.second) for s in extend(mlp(), (torch.randn(2, 6),)).sites] == [("0", "2"), ("2", "4")]
    assert not any(s.strict for s in extend(mlp(), (torch.randn(2, 6),), form="relaxed").sites)


def test_the_gradient_along_d_is_not_zero() -> None:
    extended = extend(mlp(), (torch.randn(2, 6),))
    extended(torch.randn(4, 6)).square().sum().backward()
    assert all(delta.grad is not None and bool(delta.grad.any()) for delta in extended.deltas)


def test_projection_is_exact_where_adw_is_zero_though_d_is_not() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].weight[:5] = 0  # rows of W and columns of A between them let D go free
        model[2].weight[:, 5:] = 0
    extended = extend(model, (torch.randn(2, 6).double(),))
    site = extended.sites[0]
    with torch.no_grad():
        extended.psi(site).delta.copy_(torch.randn(8).double())
        extended.psi(site).delta.mul_(9 / extended.psi(site).delta.norm())
    x = torch.randn(64, 6).double()
    before, without = extended(x), model(x)
    assert comeback(extended, site).item() == 0
    project(extended, site)
    assert (model(x) - before).abs().max() < 1e-13
    assert (without - before).abs().max() > 0.1


@pytest.mark.parametrize("method", ["radius", "proximal", "controlled", "penalty"])
def test_a_contraction_ends_exact_or_says_that_it_did_not(method: Method) -> None:
    model, x = mlp(), torch.randn(32, 6)
    extended = extend(model, (x,))
    with torch.no_grad():
        for delta in extended.deltas:
            delta.normal_()
    contraction = ContractionSchedule(extended, ContractionSettings(method, gamma=1.0), steps=50)
    optimizer = torch.optim.SGD(extended.parameters(), lr=0.01)
    for _ in range(50):
        if contraction.met:
            break
        loss = extended(x).square().mean() + (contraction.penalty() if method == "penalty" else 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        contraction.step(0.01)
    if method != "penalty":
        assert contraction.met
    if contraction.met:
        assert torch.equal(extended(x), model(x))
    else:
        assert any(bool(delta.any()) for delta in extended.deltas)


@pytest.mark.parametrize("lr", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("method", ["proximal", "controlled"])
def test_the_weight_that_is_not_given_fits_the_rate_and_the_steps(method: Method, lr: float) -> None:
    extended = extend(mlp(), (torch.randn(2, 6),))
    with torch.no_grad():
        for delta in extended.deltas:
            delta.normal_()
    contraction = ContractionSchedule(extended, ContractionSettings(method), steps=40)
    for _ in range(40):
        if not contraction.met:
            contraction.step(lr)
    assert contraction.met
    assert 18 <= contraction.done <= 21


def test_in_your_own_loop_with_carried_optimizer_state() -> None:
    model, x = mlp(), torch.randn(32, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    bypass = Bypass(model, (x,), opt_1=5, opt_2=5)
    optimizer.add_param_group({"params": bypass.deltas})
    with pytest.raises(UsageError, match="nothing to contract yet"):
        bypass.contract()
    for _ in range(10):
        bypass.model(x).square().mean().backward()
        optimizer.step()
        bypass.step()
        optimizer.zero_grad()
    assert bypass.done
    assert bypass.contract().largest == 0


def test_what_cannot_be_traced_is_refused_by_name() -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() if x.sum() > 0 else x

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Branches(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with pytest.raises(TraceError, match="Whole cannot be extended"):
        extend(Whole(), (torch.randn(2, 2),))
    with pytest.raises(UsageError, match="no activation"):
        extend(nn.Sequential(nn.Linear(2, 2)), (torch.randn(2, 2),))


def test_a_falling_loss_has_a_slope_and_noise_has_none() -> None:
    torch.manual_seed(0)
    noise = torch.randn(300) * 0.01
    assert abs(slope((1 + noise).tolist()).t) < 3
    falling = slope((1 - torch.arange(300) / 1000 + noise).tolist())
    assert falling.t > 10
    assert falling.relative == pytest.approx(1.18, abs=0.05)


def test_dead_units_are_counted_and_those_that_hardly_fire() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].bias[:3] = -100
        model[0].weight[3] = torch.tensor([1.0, 0, 0, 0, 0, 0])
        model[0].bias[3] = -9.0
    extended = extend(model, (torch.randn(2, 6),))
    x = torch.randn(500, 6)
    x[0, 0] = 10.0  # the one input at which unit 3 fires
    found = dead_units(extended, lambda: [(x,)])
    assert found["_1"] == UnitCounts(dead=3, nearly=1, units=8)
    assert found["_3"].dead == 0


@pytest.mark.parametrize("shape", [(5, 8), (3, 8, 6, 7), (3, 8, 2, 2), (2, 8, 9)])
def test_the_fused_rectifier_has_the_gradients_of_its_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    broadcast = (1, 8, *(1,) * (len(shape) - 2))
    x, delta = torch.randn(shape, requires_grad=True), torch.randn(broadcast, requires_grad=True)
    weight = torch.randn(shape)
    found = torch.autograd.grad((Rectified.apply(x, delta) * weight).sum(), (x, delta))
    wanted = torch.autograd.grad(((delta * x + x.relu()) * weight).sum(), (x, delta))
    for got, right in zip(found, wanted, strict=True):
        assert (got - right).abs().max() <= EXACT * right.abs().max()
    doubled = x.detach().double().requires_grad_(), delta.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(Rectified.apply, doubled)
    assert torch.autograd.gradgradcheck(Rectified.apply, doubled)


def test_the_fused_rectifier_stacks() -> None:
    torch.manual_seed(0)
    x, delta = torch.randn(4, 3, 8).double(), torch.randn(4, 1, 8).double()
    one_by_one = torch.stack([Rectified.apply(one, own) for one, own in zip(x, delta, strict=True)])
    torch.testing.assert_close(torch.func.vmap(Rectified.apply)(x, delta), one_by_one)
    shared = torch.func.vmap(Rectified.apply, (0, None))(x, delta[0])
    torch.testing.assert_close(shared[2], Rectified.apply(x[2], delta[0]))


class Untraceable(nn.Module):
    """Asks for the shape of its data. One activation works in place, one is called twice, one is a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.relu, self.twice, self.softmax = nn.ReLU(inplace=True), nn.Tanh(), nn.Softmax(-1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x)) if x.shape[0] > 0 else x
        return self.third(self.softmax(self.twice(self.dropout(self.twice(self.second(x))))))


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **sizes))


SWAPPED = {
    "untraceable": (Untraceable, lambda: torch.randn(4, 6), ["relu"]),
    "bert": (bert, lambda: torch.randint(0, 50, (4, 7)), [
        "bert_encoder_layer_0_intermediate_intermediate_act_fn",
        "bert_encoder_layer_1_intermediate_intermediate_act_fn",
        "bert_pooler_activation",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", SWAPPED)
def test_where_the_forward_pass_cannot_be_rewritten_activation_modules_are_swapped(name: str) -> None:
    make, inputs, sites = SWAPPED[name]
    torch.manual_seed(0)
    model, x = make().eval(), inputs()
    before = copy.deepcopy(model.state_dict())
    out = lambda module: getattr(module(x), "logits", None) if name == "bert" else module(x)  # noqa: E731
    extended = extend(model, (x,))
    assert [site.name for site in extended.sites] == sites
    assert not any(site.strict for site in extended.sites)
    assert torch.equal(out(extended), out(model))
    out(extended).square().sum().backward()
    assert all(delta.grad is not None and bool(delta.grad.any()) for delta in extended.deltas)
    for delta in extended.deltas:
        nn.init.normal_(delta)
    assert not torch.allclose(out(extended), out(model))
    contraction = ContractionSchedule(extended, steps=1)
    contraction.step(0.1)
    assert torch.equal(out(extended), out(model))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(TraceError):
        extend(model, (x,), form="strict")

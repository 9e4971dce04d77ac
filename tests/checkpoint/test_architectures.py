"""Building by name, and telling the name by the tensors. Nothing is downloaded; code runs only if trusted."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torchvision.models
from torch import nn

from extcon_cli.checkpoint.architectures import build, default_input_shape, identify
from extcon_cli.checkpoint.identify import _skeleton
from extcon_cli.checkpoint.zoo import ZOO, DigitsResNet
from extcon_cli.errors import UsageError


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def refused(arch: str, kwargs: dict[str, object] | None = None, **trust: bool) -> str:
    with pytest.raises(UsageError) as caught:
        build(arch, kwargs or {}, **trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Building -------------------------------------------------------------------------------------------------------


def test_zoo_and_torchvision() -> None:
    assert isinstance(build("zoo:digits_resnet", {"widths": [4, 8], "blocks": 1}), DigitsResNet)
    assert build("torchvision:resnet18", {"num_classes": 3}).fc.out_features == 3


def test_segmentation_models_come_without_their_backbone_weights() -> None:
    assert (
        build("torchvision:lraspp_mobilenet_v3_large", {"num_classes": 2})(torch.rand(2, 3, 32, 32))["out"].shape[1]
        == 2
    )


@pytest.mark.parametrize(
    ("arch", "nearest"),
    [
        ("torchvision:resnet81", "torchvision:resnet18"),
        ("zoo:digit_resnet", "zoo:digits_resnet"),
        ("torchvison:resnet18", "torchvision:resnet18"),
        ("resnet18", "torchvision:resnet18"),
        ("digits_resnet", "zoo:digits_resnet"),
    ],
)
def test_unknown_names_suggest_the_nearest(arch: str, nearest: str) -> None:
    assert f"did you mean {nearest}" in refused(arch)


def test_wrong_arguments() -> None:
    assert "no argument 'num_clases'; did you mean num_classes?" in refused("zoo:digits_resnet", {"num_clases": 3})
    assert "no argument 'num_clases'" in refused("torchvision:resnet18", {"num_clases": 3})
    assert "cannot be built with num_classes='ten'" in refused("torchvision:resnet18", {"num_classes": "ten"})
    assert "cannot be built with widths=[]" in refused("zoo:digits_resnet", {"widths": []})
    assert "cannot be built" in refused("torchvision:resnet18", {"num_classes": 10**15})
    assert len(refused("zoo:mlp", {"activation": "x" * 10**5})) < 500


@pytest.mark.parametrize(
    "kwargs",
    [
        {"weights": "DEFAULT"},
        {"pretrained": True},
        {"checkpoint_path": "/etc/passwd"},
        {"a": [{"pretrained_cfg": {"url": "x"}}]},
    ],
)
def test_arguments_that_would_fetch_weights(kwargs: dict[str, object]) -> None:
    for arch in ("torchvision:resnet18", "timm:resnet18", "transformers:ViTModel"):
        assert "would fetch weights" in refused(arch, kwargs)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_library_that_is_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extcon_cli.checkpoint.architectures.find_spec", lambda name: None)
    assert f"pip install {library}" in refused(f"{library}:anything")


def test_timm_is_asked_for_fresh_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        assert not pretrained
        return nn.Linear(2, num_classes)

    timm = SimpleNamespace(create_model=create_model, is_model=lambda n: n == "vit", list_models=lambda: ["vit"])
    monkeypatch.setattr("extcon_cli.checkpoint.architectures._library", lambda name: timm)
    assert build("timm:vit", {"num_classes": 3}).out_features == 3
    assert "timm has no architecture 'hf-hub:someone/vit'" in refused("timm:hf-hub:someone/vit")


def test_transformers_are_built_from_their_config(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Linear):
        config_class = SimpleNamespace

        def __init__(self, config: SimpleNamespace) -> None:
            super().__init__(config.hidden_size, 2)

    library = SimpleNamespace(ViTModel=Net, AutoModel=object)
    monkeypatch.setattr("extcon_cli.checkpoint.architectures._library", lambda name: library)
    assert build("transformers:ViTModel", {"hidden_size": 5}).in_features == 5
    assert "did you mean transformers:ViTModel" in refused("transformers:VitModel")
    assert "no architecture 'AutoModel'" in refused("transformers:AutoModel")


# The user's code --------------------------------------------------------------------------------------------------

FACTORY = """
import torch
import sibling
def make(width=3): return torch.nn.Linear(width, sibling.OUT)
def listed(): return []
"""


def test_a_factory_in_a_file_runs_only_if_trusted(tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text("OUT = 2\n")
    (tmp_path / "net.py").write_text(FACTORY)
    arch = f"{tmp_path}/net.py:make"
    assert "--trust-code" in refused(arch)
    assert "sibling" not in sys.modules
    assert build(arch, {"width": 5}, trust_code=True).in_features == 5
    assert build("moved/net.py:make", {}, trust_code=True, beside=tmp_path).in_features == 3
    assert str(tmp_path) not in sys.path
    assert "no argument 'widht'; did you mean width?" in refused(arch, {"widht": 1}, trust_code=True)
    assert "did you mean 'make'?" in refused(f"{tmp_path}/net.py:mke", trust_code=True)
    assert "gave list, not a torch.nn.Module" in refused(f"{tmp_path}/net.py:listed", trust_code=True)
    del sys.modules["sibling"]


def test_a_factory_in_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("my_nets")
    package.make = nn.Linear  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_nets", package)
    assert "would run code from my_nets" in refused("my_nets:make")
    assert isinstance(build("my_nets:make", {"in_features": 2, "out_features": 2}, trust_code=True), nn.Linear)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("def f(:", "SyntaxError"),
        ("import nowhere", "nowhere"),
        ("\n1 / 0", "ZeroDivisionError: division by zero (line 2 of net.py)"),
    ],
)
def test_code_that_fails(tmp_path: Path, code: str, what: str) -> None:
    (tmp_path / "net.py").write_text(code)
    assert what in refused(f"{tmp_path}/net.py:make", trust_code=True)


def test_code_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in refused(f"{tmp_path}/net.py:make", trust_code=True)
    assert "cannot be imported" in refused("no_such_package:make", trust_code=True)


# Telling the architecture by the tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [10, 7])
@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.identifiable])
def test_identifies_the_zoo_with_any_number_of_classes(name: str, classes: int) -> None:
    state = ZOO[name].build(num_classes=classes).state_dict()
    [fits] = [c for c in identify(state) if c.score == 1]
    assert fits.arch == f"zoo:{name}"
    assert fits.kwargs.get("num_classes", 10) == classes


@pytest.mark.parametrize(
    "name", ["resnet50", "vgg11_bn", "mobilenet_v2", "squeezenet1_1", "regnet_x_400mf", "vit_b_32"]
)
def test_identifies_torchvision(name: str) -> None:
    with torch.device("meta") if name != "regnet_x_400mf" else torch.device("cpu"):
        state = torchvision.models.get_model(name, num_classes=7).state_dict()
    [fits] = [c for c in identify(state) if c.score == 1]
    assert (fits.arch, fits.kwargs) == (f"torchvision:{name}", {"num_classes": 7})


def test_counters_of_batch_norm_do_not_matter() -> None:
    state = {n: t for n, t in DigitsResNet().state_dict().items() if "num_batches" not in n}
    assert identify(state)[0].score == 1


def test_what_differs_does_not_fit() -> None:
    state = DigitsResNet(widths=[16, 32, 65]).state_dict()
    nearest = identify(state)[0]
    assert nearest.arch == "zoo:digits_resnet"
    assert 0.3 < nearest.score < 1
    extra = {**DigitsResNet().state_dict(), "more": torch.ones(1)}
    assert identify(extra)[0].score < 1
    assert all(c.score < 0.05 for c in identify({"nothing": torch.ones(1)}))


def test_an_mlp_is_never_guessed_since_its_activation_leaves_no_trace() -> None:
    assert not [c for c in identify(ZOO["mlp"].build().state_dict()) if c.score == 1]


def test_identifying_leaves_torch_as_it_was() -> None:
    before, numbers = nn.Module.register_parameter, torch.random.get_rng_state()
    _skeleton.cache_clear()
    identify({"conv1.weight": torch.ones(1)})
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert nn.Module.register_parameter is before
    assert not nn.Linear(2, 2).weight.is_meta


def test_identifying_is_quick() -> None:
    start = time.perf_counter()
    identify(torchvision.models.efficientnet_b0().state_dict())  # of the largest family
    assert time.perf_counter() - start < 15  # 1.5 s on one idle core


def test_customary_inputs() -> None:
    assert default_input_shape("torchvision:resnet18", {}) == (3, 224, 224)
    assert default_input_shape("torchvision:vit_b_16", {"image_size": 64}) == (3, 64, 64)
    assert default_input_shape("zoo:digits_resnet", {"channels": 3}) == (3, 8, 8)
    assert default_input_shape("torchvision:fasterrcnn_resnet50_fpn", {}) is None
    assert default_input_shape("net.py:make", {}) is None

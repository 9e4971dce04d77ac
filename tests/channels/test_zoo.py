"""The networks that people have, of torchvision, timm and transformers: what is dead goes, and all else is as before.

test_real_models.py holds eleven more families of torchvision. Here the smallest member of each other family runs
always, built narrow where the library lets us, and the others are slow but for five whose weights need many gigabytes.
Nothing is downloaded.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.models import convnext, maxvit, swin_transformer
from torchvision.models.detection import backbone_utils

from extcon_cli.channels import ChannelGroup, RemovalPlan, certify, channel_groups, plan_removal, remove
from extcon_cli.channels.analysis import trace as tracing
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.compare import Inputs, call

Remove = Callable[..., Any]
Build = Callable[[], nn.Module]
LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


def image(size: int) -> tuple[Tensor]:
    return (torch.randn(2, 3, size, size),)


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(100, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}


def torchvision_model(name: str, **extra: Any) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        extra["init_weights"] = False
    return torchvision.models.get_model(name, weights=None, **extra)


def segmentation(name: str) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, aux_loss=None)


def timm_model(name: str, **extra: Any) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'extcon[test]'")
    return timm.create_model(name, pretrained=False, num_classes=10, **extra)


def small_mixer() -> nn.Module:
    mixer = pytest.importorskip("timm.models.mlp_mixer", reason="timm is not installed: pip install 'extcon[test]'")
    return mixer.MlpMixer(num_classes=10, img_size=32, patch_size=8, num_blocks=2, embed_dim=32)


def transformers_model(name: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'extcon[test]'"
    )
    model = getattr(transformers, name)
    return model(model.config_class(**config))


class Encoder(nn.Module):
    """T5's encoder and a linear head, which alone is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.t5 = transformers_model(
            "T5EncoderModel", vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
        )
        self.head = nn.Linear(32, 5)

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.head(self.t5(**inputs).last_hidden_state)


def decoder(name: str, **config: Any) -> nn.Module:
    config = {"vocab_size": 100, "num_key_value_heads": 2, "use_cache": False, **WIDTH, **config}
    return transformers_model(name, **config)


def small_alexnet() -> nn.Module:
    module = torchvision_model("alexnet")
    module.classifier[1], module.classifier[4] = nn.Linear(256 * 36, 32), nn.Linear(32, 32)
    module.classifier[6] = nn.Linear(32, 10)
    return module


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)


def small_swin(version: int) -> nn.Module:
    block, merging = swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging
    if version == 2:
        block, merging = swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2
    return swin_transformer.SwinTransformer(
        [4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10, block=block, downsample_layer=merging
    )


def small_convnext() -> nn.Module:
    stages = [convnext.CNBlockConfig(16, 32, 2), convnext.CNBlockConfig(32, None, 2)]
    return convnext.ConvNeXt(stages, num_classes=10)


def small_maxvit() -> nn.Module:
    return maxvit.MaxVit((32, 32), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=10)


class TwoRounds(nn.Module):
    """RAFT with two rounds of refinement, which show what twelve do."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.raft = torchvision_model(name)

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        return self.raft(first, second, num_flow_updates=2)


WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}

# name: how it is built, an example, one of another resolution, the least share of parameters that halves remove
Entry = tuple[Build, Callable[[], Inputs], "Callable[[], Inputs] | None", float]
ALWAYS: dict[str, Entry] = {
    "alexnet": (small_alexnet, lambda: image(64), lambda: image(96), 0.7),
    "convnext": (small_convnext, lambda: image(32), lambda: image(64), 0.5),
    "efficientnet": (
        partial(torchvision_model, "efficientnet_b0", num_classes=10),
        lambda: image(32),
        lambda: image(48),
        0.7,
    ),
    "inception": (
        partial(torchvision_model, "inception_v3", num_classes=10, aux_logits=False),
        lambda: image(80),
        lambda: image(96),
        0.7,
    ),
    "maxvit": (small_maxvit, lambda: image(32), None, 0.3),
    "swin": (partial(small_swin, 1), lambda: image(32), lambda: image(48), 0.3),
    "swin v2": (partial(small_swin, 2), lambda: image(32), lambda: image(48), 0.3),
    "vit": (small_vit, lambda: image(32), None, 0.3),
    "lraspp": (partial(segmentation, "lraspp_mobilenet_v3_large"), lambda: image(32), lambda: image(64), 0.7),
    "deeplabv3": (partial(segmentation, "deeplabv3_mobilenet_v3_large"), lambda: image(32), lambda: image(64), 0.7),
    "pyramid": (
        lambda: backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        lambda: image(32),
        lambda: image(64),
        0.4,
    ),
    "timm convnextv2": (
        partial(timm_model, "convnextv2_atto", dims=(8, 16, 32, 64), depths=(1, 1, 2, 1)),
        lambda: image(32),
        lambda: image(64),
        0.3,
    ),
    "timm vit": (
        partial(timm_model, "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48),
        lambda: image(32),
        None,
        0.3,
    ),
    "timm mixer": (small_mixer, lambda: image(32), None, 0.2),
    "bert": (partial(transformers_model, "BertModel", vocab_size=100, **WIDTH), tokens, None, 0.2),
    "transformers vit": (
        partial(transformers_model, "ViTModel", image_size=16, patch_size=4, **WIDTH),
        lambda: {"pixel_values": image(16)[0]},
        None,
        0.3,
    ),
    "llama": (partial(decoder, "LlamaForCausalLM"), tokens, None, 0.5),
    "mistral": (partial(decoder, "MistralForCausalLM"), tokens, None, 0.5),
    "gemma": (partial(decoder, "GemmaForCausalLM", head_dim=8), tokens, None, 0.5),
    "t5": (Encoder, tokens, None, 0.5),
    "gpt2": (
        partial(
            transformers_model,
            "GPT2LMHeadModel",
            vocab_size=100,
            n_embd=32,
            n_layer=2,
            n_head=4,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
        ),
        tokens,
        None,
        0.2,
    ),
}

GIANTS = ("convnext_large", "regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32")  # for benchmarks/removal.py
CLASSIFIERS = [name for name in torchvision.models.list_models(module=torchvision.models) if name not in GIANTS]
TIMM = {
    "resnet26d": 64, "resnext50_32x4d": 64, "res2net50_14w_8s": 64, "regnetx_002": 64, "regnety_002": 64,
    "densenet121": 64, "efficientnet_b0": 64, "mobilenetv4_conv_small": 64, "ghostnet_100": 64, "convnext_atto": 64,
    "deit_tiny_patch16_224": 224, "swin_tiny_patch4_window7_224": 224, "poolformer_s12": 64, "mixer_s32_224": 224,
    "hrnet_w18_small": 64, "eca_nfnet_l0": 64,
}  # fmt: skip


def pixels(name: str) -> int:
    return {"inception_v3": 96, "maxvit_t": 224}.get(name, 224 if name.startswith("vit") else 64)


SLOW: dict[str, Entry] = {
    **{n: (partial(torchvision_model, n), partial(image, pixels(n)), None, 0.3) for n in CLASSIFIERS},
    **{n: (partial(segmentation, n), partial(image, 64), None, 0.7) for n in ("fcn_resnet50", "deeplabv3_resnet50")},
    **{
        f"timm {n}": (partial(timm_model, n), partial(image, size), None, 0.0 if "nfnet" in n else 0.3)
        for n, size in TIMM.items()
    },
}


@torch.no_grad()
def built(build: Build) -> nn.Module:
    """The network with random weights, of which none are all zeros or all ones, so that constants show."""
    torch.manual_seed(0)
    module = build()
    for parameter in module.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            if parameter.flatten()[0] == 0:
                parameter.normal_(0.0, 0.1)
            else:  # a layer scale of 1e-6 would hide its block
                parameter.uniform_(0.5, 1.5).mul_(1.0 if parameter.flatten()[0] > 0.1 else 0.1)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return module.eval()


@pytest.fixture(scope="module")
def kill_in_every_way(kill_to_constants: Callable[..., None]) -> Callable[..., None]:
    """Halves die: some to zero, some to the constant that a bias of 0.5 leaves; one filter only looks dead."""

    @torch.no_grad()
    def kill(module: nn.Module, channels: Any) -> None:
        kill_to_constants(module, channels, constant=0.5, every=2)
        for child in module.modules():
            if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
                child.weight[0] = LAPLACIAN
                break

    return kill


@pytest.fixture(scope="module", params=ALWAYS, ids=list(ALWAYS))
def shrunk(request: pytest.FixtureRequest, remove_exactly: Remove) -> tuple[Entry, Inputs, Any]:
    """One removal a network: float32 and float64, two batch sizes, two resolutions where it takes them."""
    entry = build, example, other, _ = ALWAYS[request.param]
    torch.manual_seed(0)
    module, inputs = built(build), example()
    return entry, inputs, remove_exactly(module, inputs, others=[other()] if other else [])


def total(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def results(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(call(module, inputs)) if isinstance(leaf, Tensor)]


def test_the_outputs_stay_and_the_network_is_smaller(shrunk: tuple[Entry, Inputs, Any]) -> None:
    (_, _, _, share), _, removal = shrunk
    assert removal.gone >= share * total(removal.before)


def test_the_attributes_tell_the_truth(shrunk: tuple[Entry, Inputs, Any]) -> None:
    after = shrunk[2].after
    for name, child in after.named_modules():
        if isinstance(child, nn.Conv2d):
            assert (child.out_channels, child.in_channels // child.groups) == child.weight.shape[:2], name
            assert f"Conv2d({child.in_channels}, {child.out_channels}, " in repr(child)
        elif isinstance(child, nn.Linear):
            assert child.weight.shape == (child.out_features, child.in_features), name
            assert f"out_features={child.out_features}" in repr(child)
        elif isinstance(child, nn.LayerNorm):
            assert child.weight is None or tuple(child.weight.shape) == tuple(child.normalized_shape), name
        elif isinstance(child, nn.BatchNorm2d):
            assert len(child.running_mean) == child.num_features, name


def test_a_fresh_network_takes_the_plan_and_the_weights_and_gives_the_same_bits(
    shrunk: tuple[Entry, Inputs, Any],
) -> None:
    (build, *_), inputs, removal = shrunk
    fresh = built(build)
    remove(fresh, RemovalPlan.from_json(json.loads(json.dumps(removal.plan.to_json()))))
    fresh.load_state_dict(removal.after.state_dict())
    expected = results(removal.after, inputs)
    for module in (fresh, copy.deepcopy(removal.after)):
        assert all(torch.equal(*pair) for pair in zip(results(module, inputs), expected, strict=True))
    assert repr(fresh) == repr(removal.after)


def test_it_trains(shrunk: tuple[Entry, Inputs, Any]) -> None:
    _, inputs, removal = shrunk
    module = copy.deepcopy(removal.after).train()
    untouched = {
        name for name, gradient in gradients(copy.deepcopy(removal.before).train(), inputs) if gradient is None
    }
    for name, gradient in gradients(module, inputs):
        assert (gradient is None) == (name in untouched), name
    nn.utils.clip_grad_norm_(module.parameters(), 1e-3)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert all(bool(leaf.isfinite().all()) for leaf in results(module.eval(), inputs))


def gradients(module: nn.Module, inputs: Inputs) -> list[tuple[str, Tensor | None]]:
    leaves = [leaf for leaf in tree_leaves(call(module, inputs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    sum(leaf.square().mean() for leaf in leaves).backward()  # type: ignore[union-attr]
    return [(name, parameter.grad) for name, parameter in module.named_parameters()]


def test_it_exports(shrunk: tuple[Entry, Inputs, Any]) -> None:
    _, inputs, removal = shrunk
    args, named = ((), dict(inputs)) if isinstance(inputs, Mapping) else (inputs, {})
    program = torch.export.export(removal.after, args, named, strict=False).module()
    for found, expected in zip(results(program, inputs), results(removal.after, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_raft_which_takes_two_images_and_casts_to_float32(kill_in_every_way: Callable[..., None]) -> None:
    module, inputs = built(partial(TwoRounds, "raft_small")), (*image(128), *image(128))
    channels = channel_groups(module, inputs)
    kill_in_every_way(module, channels)
    after, removal = copy.deepcopy(module), plan_removal(module, channels)
    remove(after, removal)
    certificate = certify(module, after, removal, inputs)
    assert certificate.exact
    assert certificate.double is not None
    assert total(after) < 0.9 * total(module)


@pytest.mark.parametrize("name", ["convnext", "swin", "vit", "bert", "llama"])
def test_constants_go_as_exactly_as_zeros(
    name: str, remove_exactly: Remove, kill_in_every_way: Callable[..., None]
) -> None:
    build, example, other, _ = ALWAYS[name]
    torch.manual_seed(0)
    removal = remove_exactly(built(build), example(), kill_in_every_way, others=[other()] if other else [])
    assert removal.gone > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALWAYS.keys() - {"convnext", "swin", "vit", "bert", "llama"}))
def test_constants_go_as_exactly_as_zeros_in_all(
    name: str, remove_exactly: Remove, kill_in_every_way: Callable[..., None]
) -> None:
    test_constants_go_as_exactly_as_zeros(name, remove_exactly, kill_in_every_way)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_the_others(name: str, remove_exactly: Remove) -> None:
    build, example, _, share = SLOW[name]
    module = built(build)
    removal = remove_exactly(module, example(), sizes=(1, 2))
    assert removal.gone >= share * total(removal.before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "bert"])
def test_it_compiles(name: str, remove_exactly: Remove) -> None:
    build, example, _, _ = ALWAYS[name]
    inputs = example()
    removal = remove_exactly(built(build), inputs)
    compiled = torch.compile(removal.after)
    for found, expected in zip(results(compiled, inputs), results(removal.after, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in (*ALWAYS, *SLOW)]
)
def test_the_recorder_and_torch_export_give_the_same_groups(name: str) -> None:
    build, example, *_ = {**ALWAYS, **SLOW}[name]
    module, inputs = built(build), example()

    recorded = analyse(module, tracing.trace(module, inputs))
    exported = analyse(module, tracing.trace(module, inputs, exported=True))
    assert [described(g) for g in recorded.groups] == [described(g) for g in exported.groups]


def described(group: ChannelGroup) -> tuple[Any, ...]:
    slices = [{(p.parameter, p.dim, p.index.tobytes()) for p in ps} for ps in (group.slices, group.zeroing_slices)]
    return (group.name, group.size, group.prunable, *slices)

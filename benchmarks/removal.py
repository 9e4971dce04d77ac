"""Exact removal on many architectures: seconds, coverage, exactness, beside Torch-Pruning and simplify in one run.

    python benchmarks/removal.py                                  # every model that is installed
    python benchmarks/removal.py torchvision:resnet18 timm:'*nfnet*' --json removal.json
    python benchmarks/removal.py 'transformers:*' --alone         # without the others

Nothing is downloaded: weights are random, and what starts as all zeros or all ones is drawn anew, so that constants
show. Of every prunable group a random half is silenced and removed; outputs are compared in float32 and float64, at
two batch sizes and, where the model takes them, two resolutions. Each model runs in a process of its own.

Torch-Pruning, if it is there, halves every group of its own choice (outputs ignored, heads by number). What it cuts is
read off a copy whose weights are their own positions; those channels are then zero in the reference: every slice of
weight, bias, gamma and beta that it removes as an output. simplify gets the zeros of extcon's groups.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import multiprocessing
import resource
import signal
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import backbone_utils

from extcon_cli.channels import Channels, coverage, difference, plan_removal, remove, zero_channels
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.compare import Inputs, in_double, random_batches
from extcon_cli.channels.dry_run import dry_run
from extcon_cli.channels.removal.certificate import certify

Built = tuple[nn.Module, Inputs]

SIZES = {"inception_v3": 299, "maxvit_t": 224, "vgg*": 32, "densenet*": 32, "vit_h_14": 56}  # pixels; others: 64
TIMM = (
    "resnet18", "resnet26d", "resnext50_32x4d", "res2net50_14w_8s", "regnetx_002", "regnety_002", "densenet121",
    "efficientnet_b0", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "ghostnet_100",
    "ghostnetv2_100", "convnext_atto", "convnextv2_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
    "deit3_small_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "poolformer_s12", "nf_resnet26",
    "eca_nfnet_l0", "dm_nfnet_f0", "hrnet_w18_small", "repvgg_a0", "dla34", "cspresnet50", "mobilevit_xxs",
    "edgenext_xx_small", "resmlp_12_224", "gmlp_ti16_224",
)  # fmt: skip
TIMM_SIZES = {"vit*": 64, "deit*": 64, "mixer*": 64, "resmlp*": 64, "gmlp*": 64, "swin*": 112, "hrnet*": 64}
PROJECTIONS = ("qkv", "q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin")
DECODERS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "gemma": "Gemma"}
TRANSFORMERS = ("bert", "distilbert", "vit", *DECODERS, "t5", "gpt2")


class TwoRounds(nn.Module):
    """RAFT with two rounds of refinement, which show what twelve do."""

    def __init__(self, raft: nn.Module) -> None:
        super().__init__()
        self.raft = raft

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        return self.raft(first, second, num_flow_updates=2)


def models() -> dict[str, Callable[[], Built]]:
    """Every architecture by 'library:name', as a function that builds it with an example input."""
    found: dict[str, Callable[[], Built]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        found[f"torchvision:{name}"] = lambda name=name: _torchvision(name)
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        found[f"segmentation:{name}"] = lambda name=name: _segmentation(name)
    for name in ("resnet18_fpn", "resnet50_fpn", "mobilenet_v3_large_fpn", "mobilenet_v3_small", "ssd300_vgg16"):
        found[f"detection:{name}"] = lambda name=name: _detection(name)
    for name in ("raft_small", "raft_large"):
        found[f"optical_flow:{name}"] = lambda name=name: _raft(name)
    if _installed("timm"):
        found |= {f"timm:{name}": lambda name=name: _timm(name) for name in TIMM}
    if _installed("transformers"):
        found |= {f"transformers:{name}": lambda name=name: _transformers(name) for name in TRANSFORMERS}
    return found


def _installed(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def _image(size: int) -> tuple[Tensor]:
    return (torch.randn(2, 3, size, size),)


def _pixels(name: str, sizes: dict[str, int]) -> int:
    return next((size for pattern, size in sizes.items() if fnmatch.fnmatch(name, pattern)), 64)


def _torchvision(name: str) -> Built:
    size = _pixels(name, SIZES)
    extra: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        extra |= {"init_weights": False}
    return torchvision.models.get_model(name, weights=None, **extra), _image(size)


def _segmentation(name: str) -> Built:
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, aux_loss=None), _image(64)


def _detection(name: str) -> Built:
    if name == "ssd300_vgg16":
        return torchvision.models.get_model(name, weights=None, weights_backbone=None).backbone, _image(300)
    if name.startswith("resnet"):
        backbone = backbone_utils.resnet_fpn_backbone(backbone_name=name.removesuffix("_fpn"), weights=None)
    else:
        backbone = backbone_utils.mobilenet_backbone(
            backbone_name=name.removesuffix("_fpn"), weights=None, fpn=name.endswith("_fpn")
        )
    return backbone, _image(64)


def _raft(name: str) -> Built:
    return TwoRounds(torchvision.models.get_model(name, weights=None)), (*_image(128), *_image(128))


def _timm(name: str) -> Built:
    import timm

    size = _pixels(name, TIMM_SIZES)
    extra = {"img_size": size} if any(fnmatch.fnmatch(name, p) for p in list(TIMM_SIZES)[:-1]) else {}
    return timm.create_model(name, pretrained=False, **extra), _image(size)


def _transformers(name: str) -> Built:
    import transformers as t

    tokens = torch.arange(16).reshape(2, 8)
    text = {"input_ids": tokens, "attention_mask": torch.ones(2, 8, dtype=torch.int64)}
    width = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "bert":
        return t.BertForSequenceClassification(t.BertConfig(vocab_size=100, **width)), text
    if name == "distilbert":
        config = t.DistilBertConfig(vocab_size=100, dim=64, hidden_dim=128, n_layers=2, n_heads=4)
        return t.DistilBertForSequenceClassification(config), text
    if name == "vit":
        config = t.ViTConfig(image_size=32, patch_size=8, **width)
        return t.ViTForImageClassification(config), {"pixel_values": _image(32)[0]}
    if name in DECODERS:
        model = getattr(t, f"{DECODERS[name]}ForCausalLM")
        heads = {"num_key_value_heads": 2, "head_dim": 16}
        return model(model.config_class(vocab_size=100, use_cache=False, **heads, **width)), text
    if name == "t5":
        config = t.T5Config(vocab_size=100, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, num_labels=3)
        return t.T5ForTokenClassification(config), text
    config = t.GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, use_cache=False)
    return t.GPT2LMHeadModel(config), text


@torch.no_grad()
def draw(module: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that start as one number get many, and batch norms statistics unlike those they start with."""
    torch.manual_seed(seed)
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


def ours(module: nn.Module, example: Inputs) -> dict[str, Any]:
    """Seconds of each part, coverage, what is frozen, and the difference with every prunable group halved."""
    start = time.perf_counter()
    graph = trace(module, example)
    traced = time.perf_counter()
    analysed = analyse(module, graph)
    grouped = time.perf_counter()
    channels = dry_run(module, analysed, example)
    tried = time.perf_counter()
    before = copy.deepcopy(module)
    _halve(before, channels)
    after = copy.deepcopy(before)
    begin = time.perf_counter()
    removal = plan_removal(after, channels)
    remove(after, removal)
    removed = time.perf_counter()
    certificate = certify(before, after, removal, example)
    frozen = Counter()
    for group in channels.groups:
        if not group.prunable:
            frozen[group.reason] += 1
    return {
        "trace": traced - start,
        "groups": grouped - traced,
        "trial": tried - grouped,
        "removal": removed - begin,
        "coverage": coverage(module, channels),
        "gone": 1 - _parameters(after) / _parameters(module),
        "prunable": sum(group.prunable for group in channels.groups),
        "frozen": dict(frozen.most_common()),
        "single": certificate.random.relative,
        "double": certificate.double.relative if certificate.double else None,
        "exact": certificate.exact,
        "scale": certificate.random.scale,
    }


def _halve(module: nn.Module, channels: Channels) -> None:
    generator = np.random.default_rng(1)
    for group in channels.groups:
        if group.prunable:
            zero_channels(module, group, np.sort(generator.permutation(group.size)[: group.size // 2]))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def theirs(module: nn.Module, example: Inputs) -> dict[str, Any]:
    """The same of Torch-Pruning: its groups halved at random, the difference to those channels set to zero."""
    seconds, _ = _torch_pruning(copy.deepcopy(module), example)
    numbered = copy.deepcopy(module).double()
    for parameter in numbered.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
    doubled = next(iter(random_batches(example, sizes=(2,), dtype=torch.float64)))
    _, cut = _torch_pruning(numbered, doubled)
    zeroed, small = copy.deepcopy(module), copy.deepcopy(cut).float()
    values = dict(module.named_parameters())
    reached, total = 0.0, 0
    with torch.no_grad():
        for name, kept in cut.named_parameters():
            value = values[name]
            positions = kept.detach().long()
            small.get_parameter(name).copy_(value.flatten()[positions])
            total += value.numel()
            shares, places = 1.0, np.unravel_index(positions.numpy().ravel(), value.shape)
            for dim, (place, size) in enumerate(zip(places, value.shape, strict=True)):
                gone = np.setdiff1d(np.arange(size), place)
                shares *= max(0.0, 1 - 2 * len(gone) / size)
                if dim == 0 and len(gone):
                    zeroed.get_parameter(name)[torch.from_numpy(gone)] = 0.0
            reached += (1 - shares) * value.numel()
    _keep_statistics(module, small, cut)
    single = difference(zeroed, small, random_batches(example))
    double = difference(in_double(zeroed), in_double(small), random_batches(example, dtype=torch.float64))
    exact = single.relative <= 1e-5 and double.relative <= 1e-10
    return {
        "seconds": seconds,
        "coverage": reached / total,
        "gone": 1 - _parameters(cut) / _parameters(module),
        "single": single.relative,
        "double": double.relative,
        "exact": exact,
    }


def simplified(module: nn.Module, example: Inputs) -> dict[str, Any]:
    """The same of simplify, which removes zeros where it finds them: those of extcon's groups."""
    import simplify

    channels = dry_run(module, analyse(module, trace(module, example)), example)
    before = copy.deepcopy(module)
    _halve(before, channels)
    after = copy.deepcopy(before)
    (image,) = example  # it takes one tensor
    start = time.perf_counter()
    simplify.simplify(after, torch.zeros(1, *image.shape[1:]))
    seconds = time.perf_counter() - start
    single = difference(before, after, random_batches(example))
    return {
        "seconds": seconds,
        "gone": 1 - _parameters(after) / _parameters(module),
        "single": single.relative,
        "exact": single.relative <= 1e-5,
    }


def _keep_statistics(module: nn.Module, small: nn.Module, cut: nn.Module) -> None:
    """Batch norm's buffers of the kept channels, by the positions that its gamma says."""
    for name, child in cut.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.weight is not None:
            positions, old, new = child.weight.detach().long(), module.get_submodule(name), small.get_submodule(name)
            new.running_mean, new.running_var = old.running_mean[positions], old.running_var[positions]


def _torch_pruning(module: nn.Module, example: Inputs) -> tuple[float, nn.Module]:
    import torch_pruning as tp

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    heads = {}
    for child in module.modules():
        count = getattr(child, "num_heads", getattr(child, "num_attention_heads", None))
        if isinstance(count, int):
            heads |= {linear: count for name, linear in child.named_children() if name in PROJECTIONS}
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        module,
        example,
        importance=lambda group: torch.rand(len(group[0].idxs), generator=generator),
        pruning_ratio=0.5,
        ignored_layers=_outputs(module, example),
        num_heads=heads,
        prune_num_heads=bool(heads),
    )
    pruner.step()
    return time.perf_counter() - start, module


def _outputs(module: nn.Module, example: Inputs) -> list[nn.Module]:
    """The last linear maps before the outputs, which Torch-Pruning wants to be told."""
    last = [child for child in module.modules() if isinstance(child, (nn.Linear, nn.Conv2d))][-1]
    return [last]


def _late(*_: object) -> None:
    raise TimeoutError("did not finish in the time given")


def measure(name: str, alone: bool, limit: int = 300) -> dict[str, Any]:
    """Both libraries on one model."""
    torch.manual_seed(0)
    module, example = models()[name]()
    draw(module)
    found: dict[str, Any] = {"model": name, "parameters": _parameters(module)}
    others = {"torch_pruning": theirs, "simplify": simplified}
    for key, run in {"extcon": ours, **{k: run for k, run in others.items() if not alone and _installed(k)}}.items():
        signal.signal(signal.SIGALRM, _late)
        signal.alarm(limit)
        try:
            found[key] = run(module, example)
        except Exception as error:  # the line that stands in the table is what a user would see
            found[key] = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"}
            found[key]["where"] = traceback.format_exc()[-1500:]
        signal.alarm(0)
        found[key]["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def _child(name: str, alone: bool, limit: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    warm_up(alone)
    pipe.send(measure(name, alone, limit))


def warm_up(alone: bool) -> None:
    """Both libraries once on next to nothing: what they import on first use is nobody's time."""
    module, example = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)), _image(4)
    ours(module, example)
    if not alone and _installed("torch_pruning"):
        _torch_pruning(module, example)


def in_a_process(name: str, alone: bool, limit: int) -> dict[str, Any]:
    """Measure in a process of its own: a crash or a model without end is one line of the table."""
    context = multiprocessing.get_context("fork")
    mine, yours = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, alone, limit, yours))
    process.start()
    yours.close()
    try:
        return mine.recv() if mine.poll(3 * limit) else {"model": name, "extcon": {"error": "was stopped"}}
    except EOFError:
        return {"model": name, "extcon": {"error": "the process died"}}
    finally:
        process.kill()
        process.join()


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    mine, other = found["extcon"], found.get("torch_pruning", {})
    if "error" in mine:
        return f"{found['model']:44} {mine['error']}"
    spent = sum(mine[key] for key in ("trace", "groups", "removal"))
    double = "-" if mine["double"] is None else f"{mine['double']:.0e}"
    text = (
        f"{found['model']:44} {found['parameters'] / 1e6:7.2f} M  trace {mine['trace']:5.2f} "
        f"groups {mine['groups']:5.2f} trial {mine['trial']:5.2f} removal {mine['removal']:5.2f} s  "
        f"covers {mine['coverage']:6.1%}  {mine['single']:.0e} {double} {'exact' if mine['exact'] else 'WRONG'}"
    )
    if "error" in other:
        text += f" | {other['error'][:80]}"
    elif other:
        text += (
            f" | x{spent / other['seconds']:.2f} covers {other['coverage']:6.1%} {other['single']:.0e} "
            f"{'exact' if other['exact'] else 'not exact'}"
        )
    third = found.get("simplify", {})
    if "gone" in third:
        text += f" | simplify x{spent / third['seconds']:.2f} gone {third['gone']:.1%} of {mine['gone']:.1%}"
        text += f" {third['single']:.0e}"
    return text


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The figures over all models."""
    done = [row for row in rows if "error" not in row["extcon"]]
    yield f"{sum(row['extcon']['exact'] for row in done)} exact of {len(rows)} tried"
    if done:
        yield f"worst difference {max(row['extcon']['single'] for row in done):.1e} in float32"
        yield f"worst difference {max(row['extcon']['double'] or 0.0 for row in done):.1e} in float64"
        yield f"highest peak {max(row['extcon']['peak'] for row in done):.1f} GiB"
    both = [row for row in done if row.get("torch_pruning") and "error" not in row["torch_pruning"]]
    if both:
        spent = [sum(row["extcon"][key] for key in ("trace", "groups", "removal")) for row in both]
        ratios = [mine / row["torch_pruning"]["seconds"] for mine, row in zip(spent, both, strict=True)]
        yield f"time against Torch-Pruning: median x{statistics.median(ratios):.2f}, worst x{max(ratios):.2f}"
        exact = sum(row["torch_pruning"]["exact"] for row in both)
        yield f"Torch-Pruning: {exact} exact, {len(both)} run to the end, of {len(rows)}"
        less = [row["model"] for row in both if row["extcon"]["coverage"] < row["torch_pruning"]["coverage"] - 0.005]
        third = [row["simplify"] for row in rows if "simplify" in row]
        yield f"simplify: {sum(row.get('exact', False) for row in third)} exact of {len(third)}"
        yield f"covers less than Torch-Pruning: {', '.join(less) or 'none'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="models, e.g. 'torchvision:resnet*'")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one model and library")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    names = [name for name in models() if any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns)]
    rows = []
    for name in names:
        rows.append(in_a_process(name, options.alone, options.limit))
        print(line(rows[-1]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print(*summary(rows), sep="\n")


if __name__ == "__main__":
    main()

"""Exports passed of tried: the smallest network of each family, to every format, run in its own runtime.

    python benchmarks/export.py [NAME...] [--keep FILE.jsonl] [--write docs/results/export.md]

Each network has random weights (nothing is downloaded). It is traced once, written in each format, and run in a process
without extcon on random inputs: batches of 1, 2 and 3, and another resolution or length where that is free. "Passed" is
within 1e-4 of the largest output. `--keep` goes on where a run before has stopped. Formats whose packages are not
installed are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from extcon_cli.channels.compare import Inputs, batch_size, call, compare, outputs, results
from extcon_cli.checkpoint.architectures import build
from extcon_cli.errors import ExtconError
from extcon_cli.export.elsewhere import Elsewhere
from extcon_cli.export.formats import FORMATS, named
from extcon_cli.export.module import ExportedModule
from extcon_cli.export.program import program, varied

MAX_DIFF = 1e-4


def image(arch: str, *shape: int, **kwargs: Any) -> Callable[[], tuple[nn.Module, Inputs]]:
    """A network of a library with two pictures."""
    return lambda: (build(arch, kwargs), (torch.randn(2, *shape),))


def tokens(arch: str, **kwargs: Any) -> Callable[[], tuple[nn.Module, Inputs]]:
    """A tiny transformer with two sentences of 12 tokens."""
    ids = torch.randint(1, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    small = {"vocab_size": 50, "use_cache": False, **kwargs}
    return lambda: (build(arch, small), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NETWORKS: Mapping[str, Callable[[], tuple[nn.Module, Inputs]]] = {
    "zoo:mlp": image("zoo:mlp", 1, 8, 8, in_features=64, widths=[16]),
    "zoo:convnet": image("zoo:convnet", 3, 32, 32),
    "zoo:digits_resnet": image("zoo:digits_resnet", 1, 8, 8),
    "zoo:cifar_resnet20": image("zoo:cifar_resnet20", 3, 32, 32),
    "transformers:BertForSequenceClassification": tokens("transformers:BertForSequenceClassification", **BERT),
    "transformers:GPT2LMHeadModel": tokens("transformers:GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=2),
    "torchvision:squeezenet1_1": image("torchvision:squeezenet1_1", 3, 96, 96),
    "torchvision:resnet18": image("torchvision:resnet18", 3, 96, 96),
    "torchvision:mobilenet_v3_small": image("torchvision:mobilenet_v3_small", 3, 96, 96),
    "torchvision:shufflenet_v2_x0_5": image("torchvision:shufflenet_v2_x0_5", 3, 96, 96),
    "torchvision:mnasnet0_5": image("torchvision:mnasnet0_5", 3, 96, 96),
    "torchvision:mobilenet_v2": image("torchvision:mobilenet_v2", 3, 96, 96),
    "torchvision:regnet_y_400mf": image("torchvision:regnet_y_400mf", 3, 96, 96),
    "torchvision:efficientnet_b0": image("torchvision:efficientnet_b0", 3, 96, 96),
    "torchvision:lraspp_mobilenet_v3_large": image("torchvision:lraspp_mobilenet_v3_large", 3, 96, 96),
    "timm:vit_tiny_patch16_224": image("timm:vit_tiny_patch16_224", 3, 224, 224),
    "timm:convnext_atto": image("timm:convnext_atto", 3, 96, 96),
    "timm:mixer_s32_224": image("timm:mixer_s32_224", 3, 224, 224),
    "torchvision:googlenet": image("torchvision:googlenet", 3, 96, 96, init_weights=False),
    "torchvision:densenet121": image("torchvision:densenet121", 3, 96, 96),
    "torchvision:swin_t": image("torchvision:swin_t", 3, 96, 96),
    "torchvision:convnext_tiny": image("torchvision:convnext_tiny", 3, 96, 96),
    "torchvision:vgg11": image("torchvision:vgg11", 3, 224, 224),
    "torchvision:inception_v3": image("torchvision:inception_v3", 3, 299, 299, init_weights=False),
    "torchvision:maxvit_t": image("torchvision:maxvit_t", 3, 224, 224),
}


def formats() -> list[str]:
    """Those that can be tried here; a state dict runs nothing."""
    found = []
    for name in FORMATS:
        try:
            named(name)
        except ExtconError:
            continue
        found += [name] if name != "state-dict" else []
    return found


def tried(name: str) -> dict[str, Any]:
    """What became of one network in each format."""
    torch.manual_seed(0)
    module, example = NETWORKS[name]()
    module.eval()
    for parameter in module.parameters():
        if not parameter.any() and parameter.dim() > 1:  # a head that begins at zero would hide every difference
            nn.init.normal_(parameter, std=0.02)
    row: dict[str, Any] = {"name": name, "formats": {}}
    began = time.monotonic()
    try:
        found = program(module, example)
    except ExtconError as error:
        return {**row, "problem": str(error)}
    row["trace seconds"] = round(time.monotonic() - began, 1)
    row["shapes"] = [" x ".join(map(str, shape)) for shape in found.shapes()]
    with tempfile.TemporaryDirectory() as folder:
        for format in formats():
            kind, path = named(format), Path(folder, f"net{FORMATS[format][1]}")
            try:
                written = kind.write(found, path)  # type: ignore[attr-defined]
                with Elsewhere(str(kind.__file__), str(path), torch.get_num_threads()) as process:
                    far = ExportedModule(written, process)
                    gap = compare(
                        (outputs(module, x), results(call(far, x)), batch_size(x))
                        for x in varied(written.example, written.free)
                    ).relative
                row["formats"][format] = {"gap": gap, "free": sorted({n for d in written.free for n in d.values()})}
            except Exception as error:  # an exporter's or a runtime's own: any kind
                row["formats"][format] = {
                    "problem": (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
                }
    return row


def document(rows: list[dict[str, Any]]) -> str:
    """Passed of tried, and each network with the sizes that are free and the largest difference in each format."""
    names = [name for name in FORMATS if any(name in row["formats"] for row in rows)]
    passed = {name: sum(row["formats"].get(name, {}).get("gap", 1.0) <= MAX_DIFF for row in rows) for name in names}
    lines = [
        "# Results: exports",
        "",
        "`python benchmarks/export.py`: the smallest network of each family with random weights, run in its own",
        "runtime in a process without extcon. Shown is the largest difference, as a share of the largest output, over",
        "batches of 1, 2 and 3 and another resolution or length where that is free.",
        f"torch {torch.__version__.partition('+')[0]}.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        "| passed of tried | " + " | ".join(f"{passed[name]} of {len(rows)}" for name in names) + " |",
        "",
        "| network | inputs | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for row in rows:
        cells = [_cell(row["formats"].get(name, {}), row) for name in names]
        lines.append(f"| {row['name']} | {'; '.join(row.get('shapes', ['-']))} | " + " | ".join(cells) + " |")
    if left := [name for name in NETWORKS if name not in {row["name"] for row in rows}]:
        lines += ["", f"Not tried, or not finished in the time that there was: {', '.join(left)}."]
    return "\n".join(lines)


def _cell(found: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if "gap" in found:
        return f"{found['gap']:.1e}"
    return str(found.get("problem", row.get("problem", "-"))).replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    kept = (
        [json.loads(line) for line in given.keep.read_text().splitlines()] if given.keep and given.keep.exists() else []
    )
    rows = {row["name"]: row for row in kept}
    for name in given.names or NETWORKS:
        if name not in rows:
            rows[name] = tried(name)
            print(json.dumps(rows[name]), flush=True)
            if given.keep:
                with given.keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[name]) + "\n")
    text = document([rows[name] for name in NETWORKS if name in rows])
    print(text)
    if given.write:
        given.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

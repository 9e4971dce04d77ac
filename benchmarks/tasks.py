"""A row for each task that is no classification: trained, pruned and measured through the command line.

    python benchmarks/tasks.py [--ratio 0.4] [--out FOLDER] [segmentation] [detection] [causal_lm] [masked_lm]

The data are made here (shapes, and the standard library's own source files); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CODE = '''
"""Networks and data of benchmarks/tasks.py."""
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

TOKENS = 32


def shapes(count, size, seed):
    """Pictures of one to three filled boxes (1) and discs (2) on noise: pictures, masks, boxes, classes."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures, masks, boxes, kinds = [], [], [], []
    for _ in range(count):
        picture, mask = torch.rand(3, size, size, generator=draw) * 0.6, torch.zeros(size, size, dtype=torch.long)
        found, classes = [], []
        for _ in range(int(torch.randint(1, 4, (), generator=draw))):
            half = int(torch.randint(size // 10, size // 5, (), generator=draw))
            y, x = (int(torch.randint(half, size - half, (), generator=draw)) for _ in range(2))
            kind = int(torch.randint(1, 3, (), generator=draw))
            down, right = (rows - y).abs(), (columns - x).abs()
            near = down.maximum(right) if kind == 1 else torch.hypot(down.float(), right.float())
            inside = near <= half
            if (mask[inside] > 0).any():
                continue
            mask[inside] = kind
            picture[:, inside] = 0.4 * picture[:, inside] + 0.6 * torch.rand(3, 1, generator=draw)
            found.append([x - half, y - half, x + half + 1, y + half + 1])
            classes.append(kind)
        pictures.append(picture), masks.append(mask)
        boxes.append(torch.tensor(found, dtype=torch.float32)), kinds.append(torch.tensor(classes))
    return torch.stack(pictures), torch.stack(masks), boxes, kinds


def masks():
    return tuple(TensorDataset(*shapes(count, 32, seed)[:2]) for count, seed in ((400, 1), (100, 2)))


class Boxes(Dataset):
    def __init__(self, count, seed):
        self.pictures, _, self.boxes, self.kinds = shapes(count, 64, seed)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index], {"boxes": self.boxes[index], "labels": self.kinds[index]}


def boxes():
    return Boxes(400, 1), Boxes(80, 2)


class Tokens(Dataset):
    """Rows of bytes of source files; for the task masked_lm extcon masks them."""

    def __init__(self, tokens):
        self.rows = tokens[: len(tokens) // TOKENS * TOKENS].view(-1, TOKENS)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return {"input_ids": row, "attention_mask": torch.ones_like(row)}, row


def text():
    folder = Path(sysconfig.get_path("stdlib"))
    train, test = (
        torch.tensor(list(b"".join((folder / name).read_bytes() for name in names))).clamp_max(127)
        for names in (("argparse.py", "typing.py", "inspect.py"), ("dataclasses.py",))
    )
    return Tokens(train[:100_000]), Tokens(test[:16_000])


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, classes=3, width=16):
        super().__init__()
        self.down = nn.ModuleList([block(3, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.up = nn.ModuleList([block(6 * width, 2 * width), block(3 * width, width)])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        first = self.down[0](x)
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        x = self.down[2](nn.functional.max_pool2d(second, 2))
        for layer, skip in zip(self.up, (second, first)):
            x = layer(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), skip], 1))
        return self.head(x)


def detector():
    """torchvision's Faster R-CNN on a small backbone."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    body = nn.Sequential(block(3, 16), nn.MaxPool2d(2), block(16, 32), nn.MaxPool2d(2), block(32, 64), block(64, 64))
    body.out_channels = 64
    head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 25, 128), nn.ReLU())
    return FasterRCNN(
        body, min_size=64, max_size=64, image_mean=[0.4] * 3, image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(((12, 20),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2), box_head=head, box_predictor=FastRCNNPredictor(128, 3),
        box_batch_size_per_image=64, rpn_post_nms_top_n_train=200, rpn_post_nms_top_n_test=100,
    )


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(n_embd=48, n_layer=2, n_head=4, n_positions=TOKENS, vocab_size=128)
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))


def bert():
    from transformers import BertConfig, BertForMaskedLM

    sizes = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192)
    return BertForMaskedLM(BertConfig(**sizes, vocab_size=257, max_position_embeddings=TOKENS))
'''

ADAM = {"name": "adamw", "lr": 0.001}
ROWS: dict[str, dict[str, Any]] = {
    "segmentation": {"arch": "UNet", "data": "masks", "figure": "miou", "steps": 160, "batch": 16},
    "detection": {"arch": "detector", "data": "boxes", "figure": "map", "steps": 160, "batch": 8},
    "causal_lm": {"arch": "gpt2", "data": "text", "figure": "perplexity", "steps": 300, "batch": 16},
    "masked_lm": {"arch": "bert", "data": "text", "figure": "perplexity", "steps": 300, "batch": 16},
}


def recipe(task: str, code: Path, ratio: float) -> dict[str, Any]:
    """Training with half as many steps again for pruning, split between the bifurcation and the fine-tuning."""
    row = ROWS[task]
    short = {"steps": row["steps"] // 4, "optimizer": {**ADAM, "lr": 0.0005}}
    once = {"evaluate_every": 1000}  # after the last step alone
    return {
        "model": {"arch": f"{code}:{row['arch']}"},
        "task": task,
        "data": {"dataset": f"{code}:{row['data']}", "batch_size": row["batch"], "eval_batch_size": 64, "workers": 0},
        "train": {"steps": row["steps"], "optimizer": {**ADAM, "lr": 0.002}, "clip_grad": 1.0, **once},
        "prune": {"ratio": ratio, "score": {"batches": 10}, "bifurcate": short, "finetune": {**short, **once}},
    }


def extcon(*words: object) -> dict[str, Any]:
    """The command's JSON document."""
    command = [sys.executable, "-c", "from extcon_cli.cli.app import main; main()", *map(str, words)]
    done = subprocess.run([*command, "--trust-code", "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"extcon {' '.join(map(str, words))}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(task: str, folder: Path, ratio: float) -> str:
    """Train and prune; one line of the table."""
    code, text = folder / "made.py", folder / f"{task}.yaml"
    code.write_text(CODE)
    text.write_text(json.dumps(recipe(task, code, ratio)))
    began = time.monotonic()
    trained, small = folder / f"{task}.safetensors", folder / f"{task}_small.safetensors"
    extcon("train", "--recipe", text, "--out", trained, "--force")
    done = extcon("prune", trained, "--recipe", text, "--out", small, "--force")
    again = extcon("evaluate", small, "--recipe", text)
    figure, before, after = ROWS[task]["figure"], done["before"], done["after"]
    assert again["metrics"][figure] == after["metrics"][figure], "what was written gives another figure"
    cells = [
        task,
        f"{figure} {before['metrics'][figure]:.3f}",
        f"{after['metrics'][figure]:.3f}",
        f"{before['params'] / 1e3:.1f} k",
        f"{after['params'] / 1e3:.1f} k",
        f"{before['macs'] / after['macs']:.2f} x",
        f"{done['removal']['relative_difference']:.0e}",
        f"{time.monotonic() - began:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", choices=[*ROWS, []], default=list(ROWS))
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print("| task | before | after | parameters | after | MACs, fewer by | outputs moved | time |")
        print("|---|---|---|---|---|---|---|---|")
        for task in options.tasks:
            print(measure(task, folder, options.ratio), flush=True)


if __name__ == "__main__":
    main()

"""A folder of pictures and somebody's checkpoint, and nothing else: from there to a smaller model.

    python examples/pictures.py

It draws pictures of three kinds into photos/, a folder for each kind, and trains a small network on them in a plain
loop of PyTorch, which saves a plain state dict. From there on it is the command line alone:

    extcon init model.pt --data photos
    extcon prune model.pt --ratio 0.5
    extcon evaluate model.pruned.safetensors
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor

from extcon_cli.checkpoint.zoo import ConvNet

KINDS = ("bar", "disc", "square")
SHORT = ("--set", "prune.score.batches=8", "--set", "prune.bifurcate.epochs=3", "--set", "prune.finetune.epochs=6")


def draw(kind: str) -> Image.Image:
    """One picture, 40 x 40, of a light shape somewhere on a dark ground."""
    picture = Image.new("RGB", (40, 40), tuple(random.randint(0, 90) for _ in range(3)))
    x, y, light = random.randint(2, 18), random.randint(2, 18), tuple(random.randint(160, 255) for _ in range(3))
    size = (x, y, x + 18, y + (5 if kind == "bar" else 18))
    pen = ImageDraw.Draw(picture)
    pen.ellipse(size, light) if kind == "disc" else pen.rectangle(size, light)
    return picture


def paint(folder: Path, number: int) -> None:
    """`number` pictures of each kind, as folder/KIND/0.png and so on."""
    random.seed(0)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for at in range(number):
            draw(kind).save(folder / kind / f"{at}.png")


def train(folder: Path) -> torch.nn.Module:
    """As anybody trains: here on all the pictures that there are."""
    files = [(path, at) for at, kind in enumerate(KINDS) for path in sorted((folder / kind).iterdir())]
    x = torch.stack([pil_to_tensor(Image.open(path).resize((32, 32))) for path, _ in files]).float() / 255
    y = torch.tensor([label for _, label in files])
    torch.manual_seed(0)
    model = ConvNet(num_classes=len(KINDS))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(6):
        for part in torch.randperm(len(y)).split(32):
            loss = functional.cross_entropy(model((x[part] - 0.3) / 0.25), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def extcon(*words: str) -> None:
    """Run a command, and show it."""
    print("$ extcon", *words, flush=True)
    subprocess.run([sys.executable, "-m", "extcon_cli", *words], check=True)


if __name__ == "__main__":
    paint(Path("photos"), 80)
    torch.save(train(Path("photos")).state_dict(), "model.pt")
    extcon("init", "model.pt", "--data", "photos")
    extcon("prune", "model.pt", "--ratio", "0.5", "--set", "data.batch_size=32", *SHORT)
    extcon("evaluate", "model.pruned.safetensors")

"""The networks of selection.py: what they are, what they read, and which of their channels may go.

    python benchmarks/selection_nets.py fashion_mobile fashion_mnist.npz mobile.pt
    python benchmarks/selection_nets.py fashion_vit fashion_mnist.npz vit.pt

trains the two small networks for Fashion-MNIST, with the rate and the steps that stand below. The CIFAR-10 ResNets are
public checkpoints. Nothing here prunes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.data.augment import crop_and_flip


@dataclass(frozen=True)
class Subject:
    """A network, and how its images come to it."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int  # of the random crop
    inner: str  # how the names of the groups end that may go: those inside of blocks

    def normalized(self, pixels: Tensor) -> Tensor:  # (B, C, H, W) uint8
        """What the network reads."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float().div_(255) - mean) / std

    def augmented(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The same of a random crop, mirrored at random."""
        down, right = torch.randint(2 * self.padding + 1, (2, len(pixels)), generator=generator)
        mirror = torch.randint(2, (len(pixels),), generator=generator).bool()
        return self.normalized(crop_and_flip(pixels, down, right, mirror, self.padding))

    def may_go(self, name: str) -> bool:
        """Whether the channels of a group are inside of a block."""
        return name.endswith(self.inner) and "." in name

    def load(self, path: Path) -> nn.Module:
        """A checkpoint, bare or under `state_dict` with `module.` before its names, tensor by tensor."""
        model = self.build()
        state = torch.load(path, map_location="cpu", weights_only=False)
        held = {name.removeprefix("module."): tensor for name, tensor in state.get("state_dict", state).items()}
        model.load_state_dict({name: held[name] for name in model.state_dict() if name in held}, strict=False)
        return model.eval()


class Inverted(nn.Module):
    """Expand with 1x1, filter each channel by itself with 3x3, project with 1x1 (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 4 * inputs
        self.expand = normalised(nn.Conv2d(inputs, inner, 1, bias=False), nn.ReLU6())
        self.depth = normalised(nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.ReLU6())
        self.project = normalised(nn.Conv2d(inner, outputs, 1, bias=False))
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.project(self.depth(self.expand(x)))
        return x + y if self.same else y


class Mobile(nn.Module):
    """Five inverted residual blocks between a strided stem and a linear layer; 29,370 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normalised(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.ReLU6())
        sizes = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1))
        self.blocks = nn.Sequential(*(Inverted(*size) for size in sizes))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) -> (N, 10)."""
        y: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return y


class ViTBlock(nn.Module):
    """Attention and an MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) -> (N, tokens, width)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return y


class ViT(nn.Module):
    """Four blocks of width 64 over 49 patches of 4x4, the mean of the tokens, a linear layer; 0.21 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(49, 64))
        self.blocks = nn.Sequential(*(ViTBlock(64, 4, 256) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) -> (N, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        y: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return y


def normalised(conv: nn.Conv2d, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), *after)


CIFAR = Subject(
    ZOO["cifar_resnet20"].build, (3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), padding=4, inner="conv1"
)
FASHION = Subject(Mobile, (1, 28, 28), (0.286,), (0.353,), padding=2, inner="expand.0")
SUBJECTS = {
    "cifar_resnet20": CIFAR,
    "cifar_resnet56": replace(CIFAR, build=ZOO["cifar_resnet56"].build),
    "fashion_mobile": FASHION,
    "fashion_vit": replace(FASHION, build=ViT, inner="fc1"),
}
TRAINING = {"fashion_mobile": (0.1, 1200), "fashion_vit": (1e-3, 800)}  # rate, steps of 128


def pixels_and_labels(path: Path, part: str) -> tuple[Tensor, Tensor]:
    """Of a part, train or test: (N, C, H, W) uint8 and (N,) int64."""
    arrays = np.load(path)
    pixels = torch.from_numpy(arrays[f"x_{part}"])
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.contiguous(), torch.from_numpy(arrays[f"y_{part}"]).long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=TRAINING)
    parser.add_argument("data", type=Path, help=".npz with x_train, y_train, x_test, y_test, images as uint8")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    subject, (rate, steps) = SUBJECTS[args.network], TRAINING[args.network]
    torch.manual_seed(0)
    model, generator = subject.build(), torch.Generator().manual_seed(0)
    pixels, labels = pixels_and_labels(args.data, "train")
    pixels, labels = pixels[:-2000], labels[:-2000]  # the last are held out in selection.py
    if args.network == "fashion_vit":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * factor
        picked = torch.randint(len(pixels), (128,), generator=generator)
        loss = F.cross_entropy(model(subject.augmented(pixels[picked], generator)), labels[picked])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0:
            print(f"step {step}, loss {float(loss.detach()):.3f}", flush=True)
    torch.save(model.state_dict(), args.out)


if __name__ == "__main__":
    main()

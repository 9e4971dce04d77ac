"""Catalyst and Bypass in a training loop of your own, on the digits that come with extcon. Takes seconds on a CPU.

    python examples/own_loop.py [FOLDER]      # writes the two models there, . by default

The loop here is plain PyTorch: replace `digits()` and `accuracy()` by what is yours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import extcon_cli
from extcon_cli.checkpoint.zoo import MLP

SAMPLES = Path(__file__).parents[1] / "sample_models"


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images (n, 1, 8, 8), normalised, and labels (n,), to train and to test on."""
    with np.load(Path(extcon_cli.__file__).parent / "data" / "digits.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    mean, std = (arrays["x_train"] / 255).mean(), (arrays["x_train"] / 255).std()
    return {
        split: ((arrays[f"x_{split}"][:, None] / 255 - mean) / std, arrays[f"y_{split}"].long())
        for split in ("train", "test")
    }


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers, in eval mode."""
    return float((model.eval()(images).argmax(1) == labels).float().mean())


def smaller(out: Path) -> None:
    """Half of the filters go. The loop is yours; Catalyst takes one line in it."""
    data, checkpoint = digits(), SAMPLES / "digits_resnet.pt"
    images, labels = data["train"]
    model = extcon_cli.load(checkpoint)
    print(f"accuracy {accuracy(model, *data['test']):.2%}, {parameters(model):,} parameters")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    catalyst = extcon_cli.Catalyst(model, (images[:2],), ratio=0.5, score_steps=20, shrink_steps=40)
    while not catalyst.done:
        train_step(model, optimizer, images, labels)
        catalyst.step()
    report = catalyst.contract()  # the parameters are new tensors from here on
    print(f"{report.filters} filters removed, outputs moved by {report.difference.relative:.1e} of the largest")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(60):
        train_step(model, optimizer, images, labels)
    print(f"accuracy {accuracy(model, *data['test']):.2%}, {parameters(model):,} parameters")

    extcon_cli.save(model, out, like=checkpoint, plans=[report.plan], force=True)
    assert extcon_cli.verify(model, extcon_cli.load(out), (images[:2],)).relative == 0


def unstuck(out: Path) -> None:
    """Most units of this model are dead. It trains on in a larger space and comes back in its own shapes."""
    data, checkpoint = digits(), SAMPLES / "digits_mlp_stalled.pt"
    images, labels = data["train"]
    model = MLP(64, [16], 10)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    before = accuracy(model, *data["test"])

    bypass = extcon_cli.Bypass(model, (images[:2],), opt_1=300, opt_2=300, method="mirror")
    optimizer = torch.optim.Adam([*model.parameters(), *bypass.deltas], lr=0.01)  # with D, which starts at zero
    while not bypass.done:
        train_step(bypass.model, optimizer, images, labels)
        if bypass.step():  # `bypass.model` is another module now
            optimizer = torch.optim.Adam(bypass.model.parameters(), lr=0.01)
    bypass.contract()  # `model` gives what `bypass.model` gave, and is as it was built
    after = accuracy(model, *data["test"])
    print(f"accuracy {before:.2%} where it had stalled, {after:.2%} after the bypass")

    torch.save(model.state_dict(), out)  # the architecture is the old one: a plain state dict says all


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """One step on 64 random images. The gradients stay until the next one: the methods read them."""
    chosen = torch.randint(len(images), (64,))
    optimizer.zero_grad()
    functional.cross_entropy(model.train()(images[chosen]), labels[chosen]).backward()
    optimizer.step()


def parameters(model: nn.Module) -> int:
    """How many numbers the model holds."""
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    torch.manual_seed(0)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    smaller(folder / "digits_smaller.safetensors")
    unstuck(folder / "digits_unstuck.pt")

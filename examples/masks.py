"""Masks of your own, made with torch.nn.utils.prune, become a smaller module with the same outputs.

    python examples/masks.py [FOLDER]         # writes the smaller model there, . by default

Any other pruner will do as well: what counts are the zeros in the weights. No data, no training. Seconds on a CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune

import extcon_cli

CHECKPOINT = Path(__file__).parents[1] / "sample_models" / "digits_resnet.pt"
AMOUNT = 0.4  # share of the channels inside each residual block


def mask(model: nn.Module) -> None:
    """Zero the filters of least L2 norm inside every residual block, and their batch norm, as a pruner would."""
    for block in model.modules():
        conv, norm = getattr(block, "conv1", None), getattr(block, "bn1", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            prune.ln_structured(conv, "weight", amount=AMOUNT, n=2, dim=0)
            kept = conv.weight_mask[:, 0, 0, 0]
            for name in ("weight", "bias"):
                prune.custom_from_mask(norm, name, kept)
            for owner, name in ((conv, "weight"), (norm, "weight"), (norm, "bias")):
                prune.remove(owner, name)  # from now on the zeros stand in the weights themselves


def main(out: Path) -> None:
    """Mask, remove, verify, save."""
    model, example = extcon_cli.load(CHECKPOINT), (torch.randn(2, 1, 8, 8),)
    for group in extcon_cli.prunable_groups(model, example):
        print(f"{group.name}: {group.size} channels, {group.reason or 'can go'}")

    mask(model)
    removal = extcon_cli.remove_zeros(model, example)  # a copy; `model` keeps its zeros
    small = removal.module
    print(f"{removal.filters} channels removed")

    found = extcon_cli.verify(model, small, example)
    print(f"outputs moved by {found.relative:.1e} of the largest, arg-max agrees on {found.random.agreement:.0%}")
    assert found.exact

    extcon_cli.save(small, out, like=CHECKPOINT, plans=[removal.plan], force=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "digits_masked.safetensors")

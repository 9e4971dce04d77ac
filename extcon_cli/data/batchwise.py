"""Random changes of a whole batch: mixup, and the masks of a masked language model. Pure functions of a seed."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from extcon_cli.data.plan import Batch

IGNORED = -100
"""A target that does not count, as in torch's cross entropy."""


def mixup(batch: Batch, seed: int, *, classes: int, alpha: float) -> Batch:
    """Each input with a share of another one's, and so the targets: (B,) int64 classes -> (B, classes) shares."""
    x, y = batch
    generator = np.random.default_rng(seed)
    share = float(generator.beta(alpha, alpha))
    others = torch.as_tensor(generator.permutation(len(y)), device=y.device)
    y = functional.one_hot(y, classes).float()
    return share * x + (1 - share) * x[others], share * y + (1 - share) * y[others]


def mask_tokens(batch: Batch, seed: int, *, share: float, mask: int, vocabulary: int) -> Batch:
    """A share of the tokens becomes targets, all others -100; of these 80 % read `mask`, 10 % a random token.

    Positions whose target is -100 already, such as padding, are never chosen.
    """
    x, y = batch
    ids = x["input_ids"] if isinstance(x, dict) else x  # (B, T) int64
    generator = torch.Generator().manual_seed(seed)
    drawn, kind = torch.rand(2, *ids.shape, generator=generator).to(ids.device)
    words = torch.randint(vocabulary, ids.shape, generator=generator).to(ids.device)
    chosen = (drawn < share) & (y != IGNORED)
    read = torch.where(chosen & (kind < 0.8), mask, torch.where(chosen & (kind >= 0.9), words, ids))
    x = {**x, "input_ids": read} if isinstance(x, dict) else read
    return x, torch.where(chosen, y, IGNORED)

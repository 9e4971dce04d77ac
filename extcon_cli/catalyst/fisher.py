"""S = E[sum over positions of g g^T], g the gradient at the outputs of a map; or a random sketch of it.

A sketch is R with r rows and E[R^T R] = S: each row is a sum of the g with random signs. It is what takes the place of
S where the outputs are too many, or the memory too little. Knows no maps.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGLIGIBLE = 1e-9  # of the largest eigenvalue of S: a direction with less curvature prices nothing


class Fisher:
    """S added up batch by batch, on the CPU: in float64, a sketch in float32.

    Args:
        rows: of the sketch; None: S as a whole.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows
        self.samples = 0
        self._sum: Tensor | None = None  # (o, o) of S, or (r, o) of R
        self._root: Tensor | None = None
        self._generator = torch.Generator().manual_seed(0)

    @property
    def reached(self) -> bool:
        """Whether any gradient came."""
        return self._sum is not None

    def add(self, g: Tensor) -> None:  # (positions, o)
        """Take more positions in."""
        left = g if self.rows is None else self._signs(len(g)).to(g)
        part = (left.T @ g).cpu()
        part = part.double() if self.rows is None else part.float()
        self._sum = part if self._sum is None else self._sum + part

    def root(self) -> Tensor:  # (its rank or r, o)
        """R with R^T R = S, or its estimate; no position may be added after. `samples` is what the mean is over."""
        assert self._sum is not None
        if self.rows is not None:
            return self._sum.double() / self.samples**0.5
        if self._root is None:
            values, vectors = torch.linalg.eigh(self._sum / self.samples)
            counting = values > NEGLIGIBLE * values[-1]  # no more than the positions that came
            self._root = self._sum = (vectors[:, counting] * values[counting].sqrt()).T
        return self._root

    def _signs(self, positions: int) -> Tensor:
        """+-1 / sqrt(r): (positions, r)."""
        assert self.rows is not None
        drawn = torch.randint(2, (positions, self.rows), generator=self._generator, dtype=torch.int8)
        return (2.0 * drawn - 1.0) / self.rows**0.5

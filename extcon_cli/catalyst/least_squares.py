"""Ridge regression from its normal equations, centred where a bias can take the mean; moments. Mathematics only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class NormalEquations:
    """Sums over positions of x x^T, x r^T, x and r, for g groups at once; added up in float64.

    Where r is given, positions are kept as they are as long as they are fewer than the columns: then they are the
    smaller of the two, and so is the system that `solve` solves.
    """

    count: int = 0
    xx: Tensor | float = field(default=0.0)  # (g, c, c)
    xr: Tensor | float = field(default=0.0)  # (g, c, o)
    x: Tensor | float = field(default=0.0)  # (g, c)
    r: Tensor | float = field(default=0.0)  # (g, o)
    rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # x (g, positions, c) and r (g, positions, o)

    def add(
        self,
        x: Tensor,  # (positions, g, c) what the map reads
        r: Tensor | None = None,  # (positions, g, o) what its outputs lack
    ) -> None:
        """Take more positions in."""
        wide = torch.promote_types(x.dtype, torch.float32)
        x = x.to(wide).transpose(0, 1)
        self.count += x.shape[1]
        if r is None:
            self._sum(x)
            return
        self.rows.append((x, r.to(wide).transpose(0, 1)))
        if self.count >= x.shape[2]:
            for given in self.rows:
                self._sum(*given)
            self.rows.clear()

    def _sum(self, x: Tensor, r: Tensor | None = None) -> None:
        self.xx = self.xx + (x.transpose(1, 2) @ x).double()
        self.x = self.x + x.sum(1).double()
        if r is not None:
            self.xr = self.xr + (x.transpose(1, 2) @ r).double()
            self.r = self.r + r.sum(1).double()

    def covariance(self, *, centred: bool = True) -> Tensor:
        """E[(x - m)(x - m)^T], m = E[x] or 0: (g, c, c)."""
        assert isinstance(self.xx, Tensor)
        return self._centred(self.xx, self.x, self.x, centred)

    def solve(self, ridge: float, *, centred: bool) -> tuple[Tensor, Tensor]:
        """The change D of a weight, (g, o, c), and that of the bias, (g, o), that bring r nearest to zero:

            min over D, e:  E ||r - D x - e||^2 + ridge * mean(diag C) * ||D||^2,   C = cov(x).

        D = cov(r, x) (C + ridge mean(diag C))^-1, and e = E[r] - D E[x]; without `centred` e = 0, and moments
        about zero stand for covariances. The mean of the diagonal is over what varies.
        """
        if self.rows:
            return self._solve_rows(ridge, centred)
        assert isinstance(self.xr, Tensor)
        assert isinstance(self.r, Tensor)
        gram = self.covariance(centred=centred)
        cross = self._centred(self.xr, self.x, self.r, centred)
        varies, mean = _varying(gram.diagonal(dim1=1, dim2=2))
        pull = torch.where(varies, ridge * mean[:, None], mean[:, None].clamp_min(1e-30))
        found = torch.linalg.solve(gram + torch.diag_embed(pull), cross).transpose(1, 2)
        found = found * varies[:, None]
        if not centred:
            return found, torch.zeros_like(self.r)
        return found, (self.r - (found @ torch.as_tensor(self.x)[..., None]).squeeze(-1)) / self.count

    def _solve_rows(self, ridge: float, centred: bool) -> tuple[Tensor, Tensor]:
        """The same from n rows X and R, by D = R^T (X X^T + n ridge mean(diag C))^-1 X."""
        x, r = (torch.cat(parts, 1).double() for parts in zip(*self.rows, strict=True))
        about, lack = (part.mean(1) * centred for part in (x, r))
        x, r = x - about[:, None], r - lack[:, None]
        varies, mean = _varying(x.square().mean(1))
        x = x * varies[:, None]
        pull = (self.count * ridge * mean).clamp_min(1e-30)[:, None].expand(-1, self.count)
        found = torch.linalg.solve(x @ x.transpose(1, 2) + torch.diag_embed(pull), r).transpose(1, 2) @ x
        return found, lack - (found @ about[..., None]).squeeze(-1)

    def _centred(self, sums: Tensor, left: Tensor | float, right: Tensor | float, centred: bool) -> Tensor:
        mean = sums / self.count
        if not centred:
            return mean
        left, right = torch.as_tensor(left), torch.as_tensor(right)
        return mean - (left / self.count)[..., None] * (right / self.count)[:, None]


def _varying(diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Which columns vary, (g, c), and the mean of the diagonal over them, (g,)."""
    varies = diagonal > 1e-12 * diagonal.amax(1, keepdim=True).clamp_min(1e-300)
    return varies, (diagonal * varies).sum(1) / varies.sum(1).clamp_min(1)


def moments(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance along dimension 1 of all tensors together, in float64: (channels,) each."""
    count = sum(value.numel() // value.shape[1] for value in values)
    over = [dim for dim in range(values[0].dim()) if dim != 1]
    mean = torch.stack([value.sum(over).double() for value in values]).sum(0) / count
    shaped = mean.reshape(-1, *(1,) * (len(over) - 1)).to(values[0])
    squares = [(value - shaped).square().sum(over).double() for value in values]
    return mean, torch.stack(squares).sum(0) / max(1, count - 1)

"""How the decided filters reach exactly zero: along the flow, by proximal steps, or under the penalty.

The gradient flow of R(F, d) = sum |d_i| ||F_i|| in u = ||F_i||, v = |d_i| is u' = -v, v' = -u (in units of lambda):
u^2 - v^2 is conserved, and v_0 = chi u_0 > u_0 ends with F_i = 0 at tau = atanh(1 / chi) (docs/method/catalyst.md).

Each class takes decided filters through training: `step` after every optimizer step. Nothing here decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters, norms, scale
from extcon_cli.catalyst.regulariser import catalyst_penalty


def norm_on_flow(tau: float, chi: float) -> float:
    """u / u_0 at time tau from v_0 = chi u_0: cosh tau - chi sinh tau, 0 from tau = atanh(1 / chi) on."""
    return max(0.0, math.cosh(tau) - chi * math.sinh(tau))


def catalyst_on_flow(tau: float, chi: float) -> float:
    """v / u_0 at time tau: chi cosh tau - sinh tau; it ends at sqrt(chi^2 - 1)."""
    return chi * math.cosh(tau) - math.sinh(tau)


@dataclass
class Bifurcation:
    """The decided filters and how far they have come. A filter at zero is held there."""

    module: nn.Module
    filters: Filters
    decided: Tensor  # (n,) mask of the filters that go; the others have d = 0
    chi: float = 1.25
    start: Tensor = field(init=False)  # (n,) u_0
    share: Tensor = field(init=False)  # (n,) what is left of u_0, as far as it has fallen
    d: Tensor = field(init=False)  # (n,) |d_i|
    done: int = field(init=False, default=0)
    number: int = field(init=False)  # of filters that go

    def __post_init__(self) -> None:
        self.number = int(self.decided.sum())
        self.start = norms(self.module, self.filters)
        self.decided = self.decided.to(self.start.device)
        self.share = torch.ones_like(self.start)
        self.d = torch.where(self.decided, self.chi * self.start, 0.0)

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """Shrink the decided filters once. lr: of the optimizer step before.

        Returns by how much of u_0 each filter fell: (n,).
        """
        self.done += 1
        now = norms(self.module, self.filters)
        factors = torch.where(self.decided, self._factors(now, lr), 1.0)
        factors = torch.where(self.share == 0, 0.0, factors)
        scale(self.module, self.filters, factors)
        left = torch.minimum(self.share, now * factors / self.start.clamp_min(1e-30))
        fallen = torch.where(self.decided, self.share - left, 0.0)
        self.share = self.share - fallen
        return fallen

    def _factors(self, now: Tensor, lr: float) -> Tensor:
        """What multiplies each F_i, and the new d: (n,)."""
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """A term that the training loss needs, None for none."""
        return None

    def finish(self) -> None:
        """Called after the last step."""

    @property
    def dead(self) -> int:
        """How many of the decided filters are exactly zero."""
        return int((self.decided & (self.share == 0)).sum())

    @property
    def missing(self) -> int:
        """How many of the decided filters are still alive."""
        return self.number - self.dead

    def state_dict(self) -> dict[str, Any]:
        """What a resumed bifurcation needs."""
        return {"start": self.start, "share": self.share, "d": self.d, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stopped."""
        for name, value in state.items():
            setattr(self, name, value.to(self.start.device) if isinstance(value, Tensor) else value)


@dataclass
class Flow(Bifurcation):
    """F_i is clamped under the flow, and the task moves it freely below: zero after exactly `steps` steps.

    The clamp is our departure from the paper: descending R lets the task pull decided filters back.
    """

    steps: int = 1  # over which tau grows to atanh(1 / chi); 1: zero at once

    @property
    def dead(self) -> int:
        """All arrive together; known without asking the device."""
        return self.number if self.done >= self.steps else 0

    def _factors(self, now: Tensor, lr: float) -> Tensor:
        tau = math.atanh(1 / self.chi) * min(1.0, self.done / self.steps)
        bound = 0.0 if self.done >= self.steps else norm_on_flow(tau, self.chi)
        self.d = torch.where(self.decided, self.start * catalyst_on_flow(tau, self.chi), 0.0)
        return (bound * self.start / now.clamp_min(1e-30)).clamp(max=1.0)


@dataclass
class Proximal(Bifurcation):
    """The proximal step of lambda |d_i| ||F_i|| in both: each loses lr lambda times the other, down to zero."""

    strength: float = 1.0  # lambda

    def _factors(self, now: Tensor, lr: float) -> Tensor:
        lost = lr * self.strength * self.d
        self.d = torch.where(self.decided, (self.d - lr * self.strength * now).clamp_min(0.0), 0.0)
        return ((now - lost) / now.clamp_min(1e-30)).clamp(0.0, 1.0)


@dataclass
class Penalty(Bifurcation):
    """The paper's form: lambda sum |d_i| ||F_i|| in the loss, d by its own gradient step.

    A subgradient chatters about zero; at the end norms under epsilon are set to it.
    """

    strength: float = 1.0  # lambda
    epsilon: float = 0.01

    def _factors(self, now: Tensor, lr: float) -> Tensor:
        self.d = torch.where(self.decided, (self.d - lr * self.strength * now).clamp_min(0.0), 0.0)
        return torch.ones_like(now)

    def penalty(self) -> Tensor:
        return self.strength * catalyst_penalty(self.module, self.filters, self.d)

    def finish(self) -> None:
        now = norms(self.module, self.filters)
        under = self.decided & (now < self.epsilon)
        scale(self.module, self.filters, torch.where(under, 0.0, 1.0))
        self.share = torch.where(under, 0.0, self.share)

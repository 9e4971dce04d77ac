"""The bifurcation along the gradient flow of R(F, d) = sum |d_i| ||F_i|| (DESIGN.md, section 3).

With u = ||F_i|| and v = |d_i| the flow is u' = -v, v' = -u: u^2 - v^2 is conserved, and v_0 = chi u_0 > u_0 ends
with F_i = 0 exactly at tau = atanh(1 / chi), in units of lambda. Clamping to the flow instead of descending R keeps
the task from pulling decided filters back; the clamp is our departure from the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters, norms, scale


def norm_on_flow(tau: float, chi: float) -> float:
    """u / u_0 at time tau from v_0 = chi u_0: cosh tau - chi sinh tau, 0 from tau = atanh(1 / chi) on."""
    return max(0.0, math.cosh(tau) - chi * math.sinh(tau))


def catalyst_on_flow(tau: float, chi: float) -> float:
    """v / u_0 at time tau: chi cosh tau - sinh tau; it ends at sqrt(chi^2 - 1)."""
    return chi * math.cosh(tau) - math.sinh(tau)


@dataclass
class Flow:
    """Takes the decided filters to exactly zero in `steps` steps and holds them there; the others have d = 0.

    Call `step` after each optimizer step: F_i is clamped to the flow, the task moves it freely below.
    """

    module: nn.Module
    filters: Filters
    decided: Tensor  # (n,) mask of the filters that go
    steps: int  # over which tau grows to atanh(1 / chi); 1: zero at once
    chi: float
    start: Tensor  # (n,) u_0 = ||F_i|| when the flow began
    share: Tensor  # (n,) how much of u_0 the decided filters have left
    done: int = 0

    @classmethod
    def begin(cls, module: nn.Module, filters: Filters, decided: Tensor, *, steps: int, chi: float = 1.25) -> Flow:
        """The flow from the filters as they are now, with v_0 = chi u_0 for the decided ones."""
        start = norms(module, filters)
        return cls(module, filters, decided.to(start.device), steps, chi, start, torch.ones_like(start))

    @property
    def tau(self) -> float:
        """Time on the flow after the steps done, in units of lambda."""
        return math.atanh(1 / self.chi) * min(1.0, self.done / self.steps)

    @property
    def catalyst(self) -> Tensor:
        """|d_i| of every filter: (n,)."""
        return torch.where(self.decided, self.start * catalyst_on_flow(self.tau, self.chi), 0.0)

    @property
    def dead(self) -> int:
        """How many of the decided filters have arrived at zero."""
        return int(self.decided.sum()) if self.done >= self.steps else 0

    @torch.no_grad()
    def step(self) -> Tensor:
        """Clamp every decided filter to the flow. Returns by how much of u_0 each fell in this step: (n,)."""
        self.done += 1
        bound = 0.0 if self.done >= self.steps else norm_on_flow(self.tau, self.chi)
        now = norms(self.module, self.filters)
        factors = torch.where(self.decided, (bound * self.start / now.clamp_min(1e-30)).clamp(max=1.0), 1.0)
        scale(self.module, self.filters, factors)
        left = torch.minimum(self.share, now * factors / self.start.clamp_min(1e-30))
        fallen = torch.where(self.decided, self.share - left, 0.0)
        self.share = self.share - fallen
        return fallen

    def state_dict(self) -> dict[str, object]:
        """What a resumed flow needs."""
        return {"done": self.done, "start": self.start, "share": self.share}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on where another flow stopped."""
        for name, value in state.items():
            setattr(self, name, value)

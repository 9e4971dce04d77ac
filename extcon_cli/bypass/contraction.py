"""opt_2: how D comes back. ||A D W|| (strict) or ||D|| (relaxed), the schedules that let it vanish, proj of eq. 15.

`radius`, `proximal` and `controlled` end at D = 0 exactly. `penalty` is the paper's, and may miss its epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from extcon_cli.bypass.extension import Extended, Site
from extcon_cli.channels.compare import Inputs, call, tensors_in
from extcon_cli.channels.modules import evaluating

Method = Literal["radius", "proximal", "penalty", "controlled"]


def comeback(extended: Extended, site: Site) -> Tensor:
    """||A D W|| of a strict site (Frobenius), ||D|| of a relaxed one; ()."""
    delta = extended.psi(site).delta
    if site.first is None or site.second is None:
        return delta.norm()
    w, a = (_dense(extended, name).weight for name in (site.first, site.second))  # (s_W, s_I), (s_A, s_W)
    return ((a * delta) @ w).norm()


def _dense(extended: Extended, name: str) -> nn.Linear:
    found = extended.fit.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


@torch.no_grad()
def project(extended: Extended, site: Site) -> None:
    """b_A <- b_A + A D b_W (strict), then D <- 0; D is trained no more. Exact where A D W = 0, or D = 0."""
    delta = extended.psi(site).delta
    if site.first is not None and site.second is not None:
        w, a = (_dense(extended, name) for name in (site.first, site.second))
        if w.bias is not None:
            a.bias.add_(a.weight @ (delta * w.bias))
    delta.zero_()
    delta.requires_grad_(False)
    delta.grad = None


@dataclass(frozen=True)
class ContractionSettings:
    """How D is brought back."""

    method: Method = "radius"
    gamma: float | None = None
    """Growth k of the weight gamma(t) = k t (not `radius`). None: 0.005 for `penalty`; for `proximal` and `controlled`
    as much as takes D to zero in half of the steps where the loss does not pull."""
    raised: tuple[int, float] | None = None
    """(step, growth from then on). None: it stays."""
    epsilon: float = 1e-4
    """`penalty` projects below it; the others at zero."""
    bound: float = float("inf")
    """The loss at theta*; `controlled` lets the weight grow only while the task loss is under it."""


class ContractionSchedule:
    """opt_2, one `step` after each optimizer step; each site is projected the moment its constraint is met.

    Args:
        steps: T of `radius`; the cap of the others.
        example: inputs on which `jump` is measured: by how much projecting the sites of one step moved an output, as a
            share of the largest. None: it is not measured.
    """

    def __init__(
        self,
        extended: Extended,
        settings: ContractionSettings = ContractionSettings(),
        *,
        steps: int,
        example: Inputs | None = None,
    ) -> None:
        self.extended, self.settings, self.steps, self.example = extended, settings, steps, example
        self.gamma = settings.gamma
        self.done, self.weight, self.jump = 0, 0.0, 0.0
        self.start = [delta.detach().norm() for delta in extended.deltas]  # () each, on the device
        self.open = list(range(len(extended.sites)))

    @property
    def met(self) -> bool:
        """Whether every site is back in the original space."""
        return not self.open

    def penalty(self) -> Tensor:
        """gamma(t) sum ||.|| over the open sites, for the loss (`penalty` only)."""
        return self.weight * torch.stack([comeback(self.extended, self.extended.sites[i]) for i in self.open]).sum()

    @torch.no_grad()
    def step(self, lr: float, loss: float = 0.0) -> None:
        """After an optimizer step with learning rate `lr`; `loss` is the task's."""
        method, raised = self.settings.method, self.settings.raised
        if self.gamma is None:  # lr k (1 + ... + T/2) = r0
            self.gamma = 0.005 if method == "penalty" else 8 * float(max(self.start)) / (lr * self.steps**2)
        self.done += 1
        if method != "controlled" or loss <= self.settings.bound:
            self.weight += raised[1] if raised is not None and self.done > raised[0] else self.gamma
        if method != "penalty":
            self._shrink(lr)
        if met := [index for index in self.open if self._is_met(index)]:
            before = self._outputs()
            for index in met:
                project(self.extended, self.extended.sites[index])
            self.open = [index for index in self.open if index not in met]
            for old, new in zip(before, self._outputs(), strict=True):
                scale = float(old.abs().max().clamp_min(torch.finfo(old.dtype).tiny))
                self.jump = max(self.jump, float((old - new).abs().max()) / scale)

    def _is_met(self, index: int) -> bool:
        """Whether a site is back: at zero, or below epsilon."""
        site = self.extended.sites[index]
        # radius knows when it ends; to ask the tensor would make a GPU wait at every step
        at_end = self.done >= self.steps
        if at_end if self.settings.method == "radius" else not bool(self.extended.psi(site).delta.any()):
            return True
        return self.settings.method == "penalty" and float(comeback(self.extended, site)) < self.settings.epsilon

    def _outputs(self) -> list[Tensor]:
        if self.example is None:
            return []
        with evaluating(self.extended):
            return tensors_in(call(self.extended, self.example))

    def _shrink(self, lr: float) -> None:
        """Scale the diagonals of the open sites to the norms that they may have."""
        every = self.extended.deltas
        deltas: list[Tensor] = [every[index] for index in self.open]
        norms = torch.stack(torch._foreach_norm(deltas))
        if self.settings.method == "radius":
            start = torch.stack([self.start[index] for index in self.open])
            allowed = start * max(0.0, 1 - self.done / self.steps)
        else:
            allowed = (norms - lr * self.weight).clamp_min(0.0)  # the proximal step of lr gamma ||D||
        factors = (allowed / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)
        torch._foreach_mul_(deltas, [*factors.unbind()])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed contraction needs."""
        names = ("done", "weight", "jump", "start", "open", "gamma")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stopped."""
        self.done, self.weight, self.jump = state["done"], state["weight"], state["jump"]
        self.open, self.gamma = list(state["open"]), state["gamma"]
        self.start = [norm.to(delta) for norm, delta in zip(state["start"], self.extended.deltas, strict=True)]
        for index, delta in enumerate(self.extended.deltas):
            delta.requires_grad_(index in self.open)

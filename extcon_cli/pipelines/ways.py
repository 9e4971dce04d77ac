"""The ways from theta* that `extcon bypass` compares: going on, or an extension and the way back from it.

Each is a module to train for opt_1 + opt_2 + train_3 steps, what happens after each of them, and a model of the
original architecture at the end. What embedding and contracting did to the outputs is measured, never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.constraint import Contraction, comeback
from extcon_cli.bypass.extension import Extended, extend
from extcon_cli.bypass.mirror import extend_mirrored, mirror
from extcon_cli.bypass.revive import constants_on, revive
from extcon_cli.bypass.units import units
from extcon_cli.bypass.widen import Narrowing, widen
from extcon_cli.channels import Channels, difference
from extcon_cli.channels.compare import EXACT, random_batches
from extcon_cli.errors import GateError, UsageError
from extcon_cli.pipelines.trace import Trace
from extcon_cli.recipe.schema import BypassSpec
from extcon_cli.training.loop import Step
from extcon_cli.training.optim import total_steps

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Given:
    """What a way is made from."""

    model: Callable[[], nn.Module]  # a new copy of theta*, on the device
    channels: Callable[[], Channels]  # its channel groups
    example: Inputs
    data: Callable[[], Iterable[Inputs]]  # all training inputs
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]  # some training batches
    loss: Callable[[nn.Module, Any], Tensor]  # of a batch
    lengths: tuple[int, int, int]  # steps of opt_1, opt_2, train_3
    epoch: int  # steps of one pass over the training data
    spec: BypassSpec
    bound: float  # the loss at theta*
    seed: int


class Way:
    """Going on as before; `rate` multiplies the learning rate."""

    title = "Going on"
    rate = 1.0

    def __init__(self, given: Given) -> None:
        self.given = given
        self.module = given.model()
        self.trace = self._trace()

    def _trace(self) -> Trace:
        return Trace(self.module.parameters())

    def step(self, step: Step) -> dict[str, float]:
        """After each optimizer step; figures to show."""
        self.trace.note(step, *(self._norms() if self.trace.due(step) else ()))
        return {}

    def _norms(self) -> tuple[float, float]:
        """||D|| and ||A D W||."""
        return 0.0, 0.0

    def penalty(self) -> Tensor | None:
        """A term of the training loss, None for none."""
        return None

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        """The model of the original architecture, and what was measured (GateError: there is none)."""
        return self.module, {}

    def state_dict(self) -> Mapping[str, Any]:
        """What a resumed way needs besides its module."""
        return {"trace": self.trace.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stopped."""
        self.trace.load_state_dict(state["trace"])


class Lowered(Way):
    """The control: a lowered learning rate."""

    title = "Lowered learning rate"

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.rate = given.spec.probe.lr_drop


class Perturbed(Way):
    """The control: every weight moved at random, by a share of its tensor's root mean square."""

    title = "Perturbed weights"

    @torch.no_grad()
    def __init__(self, given: Given) -> None:
        super().__init__(given)
        generator = torch.Generator().manual_seed(given.seed)
        for tensor in self.module.parameters():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            tensor.add_(given.spec.perturbation * tensor.square().mean().sqrt() * noise)
        self.trace = self._trace()


class Diagonal(Way):
    """The paper's: psi(x) = D x + sigma(x), opt_2 brings D back, proj."""

    title = "Bypassing"

    def __init__(self, given: Given) -> None:
        self.given = given
        self.original = given.model().eval()  # shares its parameters with the extended model
        self.module: Extended = extend(self.original, given.example, form=given.spec.form, layers=given.spec.layers)
        self.contraction: Contraction | None = None
        self.embedding = difference(self.original, self.module, random_batches(given.example))
        self.trace = self._trace()

    @property
    def met(self) -> bool:
        return self.contraction is not None and self.contraction.met

    def step(self, step: Step) -> dict[str, float]:
        opt_1, opt_2, _ = self.given.lengths
        if opt_1 <= step.index < opt_1 + opt_2 and not self.met:
            if self.contraction is None:
                self.contraction = self._begin()
            task = float(step.loss) if self.given.spec.opt_2.method == "controlled" else 0.0
            self.contraction.step(step.lr, task)
        if step.index + 1 == opt_1 + opt_2 and not self.met:
            raise GateError("opt_2 did not meet its constraint within its steps: raise opt_2.steps or opt_2.gamma")
        super().step(step)
        return {"D": self.trace.rows[-1][1]}

    def _norms(self) -> tuple[float, float]:
        return _size_of(self.module)

    def penalty(self) -> Tensor | None:
        if self.given.spec.opt_2.method != "penalty":
            return None
        if self.contraction is None or self.met:
            return torch.zeros((), device=self.module.deltas[0].device)
        return self.contraction.penalty()

    def _begin(self) -> Contraction:
        spec = self.given.spec.opt_2
        return Contraction(
            self.module,
            spec.method,
            steps=self.given.lengths[1],
            gamma=spec.gamma,
            raised=(total_steps(spec.raised, self.given.epoch), spec.raised.gamma) if spec.raised else None,
            epsilon=spec.epsilon,
            bound=self.given.bound,
            example=self.given.example,
        )

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        gap = _exact(self.module, self.original, self.given, "the contraction is not exact: outputs differ by")
        return self.original, {
            "contracted": self.met,
            "steps_to_contract": self.contraction.done if self.contraction else 0,
            "embed_difference": self.embedding.relative,
            "projection_difference": self.contraction.jump if self.contraction else 0.0,
            "difference_after_contraction": gap,
        }

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "contraction": self.contraction and self.contraction.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if state["contraction"] is not None:
            self.contraction = self._begin()
            self.contraction.load_state_dict(state["contraction"])


class Narrowed(Way):
    """A module with more units; Catalyst's score, flow and exact removal bring the width back."""

    embedded: float  # by how much putting the units in moved an output
    added: dict[str, int]
    narrowing: Narrowing | None = None

    def step(self, step: Step) -> dict[str, float]:
        opt_1 = self.given.lengths[0]
        if step.index + 1 == opt_1:
            (self.narrowing or self._open()).decide(
                self.given.batches(), lambda batch: self.given.loss(self.module, batch)
            )
        elif step.index >= opt_1 and self.narrowing is not None:
            self.narrowing.step()
        super().step(step)
        return {"added": sum(self.added.values())}

    def _open(self) -> Narrowing:
        """What will be contracted; at the end of opt_1 at the latest."""
        self.narrowing = Narrowing(self.module, self.given.example, self.added, steps=self.given.lengths[1])
        return self.narrowing

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        assert self.narrowing is not None
        narrow = self.narrowing.narrow()
        gap = _exact(self.module, narrow, self.given, "the contraction is not exact: outputs differ by")
        return narrow, {
            "contracted": self.narrowing.met,
            "added": self.added,
            "steps_to_contract": self.given.lengths[1],
            "embed_difference": self.embedded,
            "difference_after_contraction": gap,
        }

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "narrowing": self.narrowing and self.narrowing.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["narrowing"] is not None:
            (self.narrowing or self._open()).load_state_dict(state["narrowing"])
        super().load_state_dict(state)


class Widened(Narrowed):
    """New units with zero outgoing weights."""

    title = "Widening"

    def __init__(self, given: Given) -> None:
        self.given = given
        original = given.model().eval()
        self.module, self.added = widen(
            original, given.channels(), given.spec.widen.share, layers=given.spec.widen.layers, seed=given.seed
        )
        self.embedded = _exact(original, self.module, given, "widening changes the outputs by")
        self._open()  # what cannot be contracted is refused before it is trained
        self.trace = self._trace()


class Mirrored(Narrowed):
    """The paper's D in opt_1; then every extended unit becomes itself and its mirror image, and half of these go."""

    title = "Mirroring"

    def __init__(self, given: Given) -> None:
        self.given = given
        self.original = given.model().eval()  # shares its parameters with the extended model
        self.extended, self.chosen = extend_mirrored(
            self.original, given.channels(), given.example, layers=given.spec.layers
        )
        self.module: nn.Module = self.extended
        self.embedded = difference(self.original, self.module, random_batches(given.example)).relative
        self.added = {item.units.name: item.units.group.size for item in self.chosen}
        self.difference = 0.0
        self.trace = self._trace()

    def step(self, step: Step) -> dict[str, float]:
        before = self.module
        shown = super().step(step)
        if self.module is not before:
            self.difference = _exact(before, self.module, self.given, "mirroring changes the outputs by")
        return shown

    def _norms(self) -> tuple[float, float]:
        return _size_of(self.extended) if self.module is self.extended else (0.0, 0.0)

    def _open(self) -> Narrowing:
        deltas = {site: self.extended.psi(site).delta.detach() for site in self.extended.sites}
        self.module, _ = mirror(self.original, self.chosen, deltas)
        start, _ = mirror(self.given.model(), self.chosen, {site: torch.zeros_like(d) for site, d in deltas.items()})
        self.trace = Trace(self.module.parameters(), start.parameters(), self.trace.rows)
        return super()._open()

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        module, measured = super().result()
        return module, {**measured, "mirror_difference": self.difference}

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "difference": self.difference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.difference = state["difference"]


class Revived(Way):
    """Units that give one constant on all training data get new weights; the outputs on these data stay."""

    title = "Reviving"

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        before = given.model().eval()
        found = units(self.module, given.channels())
        self.revived = revive(self.module, found, constants_on(self.module, found, given.data()), seed=given.seed)
        if not self.revived:
            raise UsageError("no unit is dead on the training data: there is nothing to revive")
        self.moved = difference(before, self.module, given.data())
        self.trace = self._trace()

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        return self.module, {"revived": self.revived, "embed_difference": self.moved.relative}


def _exact(before: nn.Module, after: nn.Module, given: Given, complaint: str) -> float:
    """By how much outputs moved, as a share of the largest (GateError: too much)."""
    gap = difference(before, after, random_batches(given.example)).relative
    if gap > EXACT:
        raise GateError(f"{complaint} {gap:.1e} of the largest")
    return gap


@torch.no_grad()
def _size_of(extended: Extended) -> tuple[float, float]:
    """||D|| over all sites, and the sum of ||A D W|| over the strict ones."""
    strict = sum(float(comeback(extended, site)) for site in extended.sites if site.strict)
    return float(torch.stack([delta.norm() for delta in extended.deltas]).norm()), strict


WAYS: dict[str, type[Way]] = {
    "baseline": Way,
    "lr_drop": Lowered,
    "perturbed": Perturbed,
    "diag": Diagonal,
    "mirror": Mirrored,
    "widen": Widened,
    "revive": Revived,
}
CONTROLS = ("lr_drop", "perturbed")
"""Ways that are compared with and never chosen."""
EXTENSIONS = ("diag", "mirror", "widen", "revive")

"""What a way out of a plateau is: the protocol of a strategy, what it is made from, and what it leaves.

A strategy says which module is trained, acts on it after each optimizer step, and gives a module of the original
architecture at the end. It has no loop of its own, and it sees modules and tensors only: no recipe, no data set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from extcon_cli.bypass.contraction import ContractionSettings
from extcon_cli.bypass.extension import Form
from extcon_cli.channels import Channels, difference
from extcon_cli.channels.compare import EXACT, Inputs, random_batches
from extcon_cli.errors import GateError

"""Positional arguments of a forward pass."""
State = Mapping[str, Any]
"""Tensors, numbers and text in dicts and lists, as `torch.load` reads them with `weights_only`."""


@dataclass(frozen=True)
class PhaseSteps:
    """Optimizer steps of the phases that follow theta*."""

    opt_1: int
    opt_2: int
    train_3: int = 0

    @property
    def total(self) -> int:
        return self.opt_1 + self.opt_2 + self.train_3


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes over all phases together."""

    name: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.0
    """Share of the steps over which it rises in a straight line at the start."""


@dataclass(frozen=True)
class RestartSettings:
    """How a model is started anew."""

    rate: float = 3.0
    """Factor of the learning rate."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    average: float = 0.6
    """Share of the steps, the last, whose states are averaged."""
    shrink: float = 0.6
    """Factor of all weights, where they are shrunk."""


@dataclass(frozen=True)
class StrategySettings:
    """How the strategies extend a model and bring it back."""

    form: Form = "auto"
    layers: tuple[str, ...] = ("*",)
    """Name patterns of the activations to extend."""
    contraction: ContractionSettings = field(default_factory=ContractionSettings)
    """How D comes back in opt_2."""
    share: float = 0.5
    """New units of a widened layer, as a share of its units."""
    widened: tuple[str, ...] = ("*",)
    """Name patterns of the layers to widen."""
    lr_drop: float = 0.1
    """Factor of the learning rate of the control."""
    perturbation: float = 0.1
    """How far the control moves each weight, as a share of its tensor's root mean square."""
    restart: RestartSettings = field(default_factory=RestartSettings)


@dataclass(frozen=True)
class Scoring:
    """What units are scored on with frozen weights."""

    batches: Callable[[], Iterable[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    """Of a batch: ()."""


@dataclass(frozen=True)
class StrategyContext:
    """What a strategy is made from."""

    model: Callable[[], nn.Module]
    """theta*: a new copy at each call, or always the module that is to be bypassed itself."""
    channels: Callable[[], Channels]
    """The channel groups of theta*."""
    example: Inputs
    phases: PhaseSteps
    settings: StrategySettings = field(default_factory=StrategySettings)
    scoring: Scoring | None = None
    """None: units are scored by the gradients that training leaves, over the first part of opt_2."""
    data: Callable[[], Iterable[Inputs]] | None = None
    """All training inputs. None: they cannot be had."""
    training: Callable[[], Iterable[Inputs]] | None = None
    """Training inputs as they are trained on: in shuffled batches. None: they cannot be had."""
    seed: int = 0
    """Of what is drawn at random."""


@dataclass(frozen=True)
class StepInfo:
    """What a strategy needs to know of an optimizer step."""

    index: int
    """0 .. steps of all phases - 1."""
    lr: float
    loss: Tensor | float
    """The task's: (). To read a tensor makes a GPU wait."""


@dataclass(frozen=True)
class ContractionReport:
    """A module of the original architecture, and in subclasses what was measured on the way to it."""

    module: nn.Module

    def to_json(self) -> dict[str, object]:
        """What was measured; differences of outputs are shares of the largest output."""
        return {}


class Strategy(ABC):
    """A way from theta*. The defaults are those of a strategy that extends nothing.

    Making one raises TraceError, UsageError or GateError where the model does not allow it: what cannot be contracted
    is refused before it is trained wherever that is known.
    """

    title: ClassVar[str]
    module: nn.Module
    """What is trained now."""
    lr_factor: float = 1.0
    """Factor of the learning rate."""
    rate_schedule: Schedule | None = None
    """How the learning rate changes. None: as the recipe says."""

    def __init__(self, context: StrategyContext) -> None:
        self.context = context
        self.module = context.model()

    @property
    def deltas(self) -> list[nn.Parameter]:
        """The diagonals of D in the module that is trained now, one a site."""
        return []

    @property
    def done(self) -> bool:
        """Whether `contract` has nothing to wait for."""
        return True

    @property
    def figures(self) -> dict[str, float]:
        """What to show while it is trained."""
        return {}

    def penalty(self) -> Tensor | None:
        """A term of the training loss: (). None: there is none."""
        return None

    def after_step(self, step: StepInfo) -> None:
        """Act on the module after an optimizer step; another module may stand in its place then.

        Raises: GateError (it cannot come back any more).
        """
        return

    def norms(self) -> tuple[float, float]:
        """||D|| over all sites, and the sum of ||A D W|| over the strict ones."""
        return 0.0, 0.0

    def origin(self) -> nn.Module:
        """The module that is trained now, as it was at its start; asked for right after it has come."""
        return self.module

    @abstractmethod
    def contract(self) -> ContractionReport:
        """The module of the original architecture that gives what the trained one gives.

        Raises: GateError (there is none: not contracted, not exact).
        """

    def state_dict(self) -> State:
        """What a strategy needs besides its module to go on."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on where another one stopped; before the module's own state, as it may exchange the module."""
        return


def outputs_moved(before: nn.Module, after: nn.Module, example: Inputs) -> float:
    """By how much the outputs of two modules differ on random inputs, as a share of the largest."""
    return difference(before, after, random_batches(example)).relative


def check_exact(before: nn.Module, after: nn.Module, example: Inputs, complaint: str) -> float:
    """`outputs_moved`, held against the product's bound.

    Raises: GateError (`complaint`, and by how much they differ).
    """
    moved = outputs_moved(before, after, example)
    if moved > EXACT:
        raise GateError(f"{complaint} {moved:.1e} of the largest")
    return moved

"""Bypass in a training that somebody else runs: what the callbacks of all trainers share.

The trainer's module stays where it is and under its names. From the begin of opt_1 to the end of opt_2 its forward pass
is that of the extended module; then it is its own again, with what was learnt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from extcon_cli.bypass.attach import Bypass
from extcon_cli.bypass.strategies.revive import NothingDead
from extcon_cli.catalyst.carry_over import carry_over
from extcon_cli.channels import Difference
from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import UsageError

Way = Literal["radius", "proximal", "mirror", "widen", "revive"]
Data = Callable[[], Iterable[Inputs]]


@dataclass(eq=False)
class BypassingCallback:
    """What the callbacks that bypass a plateau are made with; each adds what its trainer asks for.

    Args:
        method: `radius` and `proximal` give activations a diagonal D and bring it back; `mirror`, `widen` and `revive`
            as in `Bypass`.
        start: optimizer step at which it begins.
        opt_1, opt_2: steps in the larger space, and on the way back.
        layers, share, seed: as in `Bypass`.
        data: all training inputs (revive). None: what the trainer loads.
    """

    method: Way = "radius"
    _: KW_ONLY
    start: int = 0
    opt_1: int = 200
    opt_2: int = 200
    layers: tuple[str, ...] = ("*",)
    share: float = 0.5
    data: Data | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.bypassing = Bypassing(self)

    @property
    def report(self) -> Difference | None:
        """How far the outputs moved when the model went back to its own space; None until then."""
        return self.bypassing.report


class Bypassing:
    """A way out of a plateau while a training goes on. UsageError: a callback does not offer the method."""

    def __init__(self, settings: BypassingCallback) -> None:
        if settings.method not in get_args(Way):
            raise UsageError(
                f"method {settings.method!r}: a callback offers radius, proximal, mirror, widen and revive"
            )
        self.settings = settings
        self.bypass: Bypass | None = None
        self.report: Difference | None = None
        self.left_alone = False
        """Whether nothing was found to be done."""
        self.steps = 0

    def check(self, total: float) -> None:
        """UsageError where it does not fit into a training of so many steps."""
        asked = self.settings
        if asked.start + asked.opt_1 + asked.opt_2 >= total and asked.method != "revive":
            text = f"{asked.opt_1} of opt_1 and {asked.opt_2} of opt_2 from step {asked.start} on do not fit in"
            raise UsageError(f"the training takes {total:g} steps; {text}")

    @property
    def wanted(self) -> bool:
        """Whether it is time to begin."""
        return self.bypass is None and not self.left_alone and self.steps >= self.settings.start

    def begin(
        self,
        model: nn.Module,
        example: Inputs,
        optimizer: torch.optim.Optimizer,
        *,
        data: Data | None = None,
        view: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Extend the model; its forward pass is the larger one's from now on.

        Where no unit is dead, that is said in a warning, and the training goes on as it was.

        Args:
            data: all training inputs, where the user gave none.
            view: within, the model is as it is traced and compared.
        """
        asked = self.settings
        try:
            with view(model):
                self.bypass = Bypass(
                    model, example, opt_1=asked.opt_1, opt_2=asked.opt_2, method=asked.method, layers=asked.layers,
                    share=asked.share, data=asked.data or data, seed=asked.seed,
                )  # fmt: skip
        except NothingDead as found:
            self.left_alone = True
            warnings.warn(f"{found}; the training goes on as it was", UserWarning, stacklevel=2)
            return
        self.model, self.view = model, view
        self._direct()
        self._look()
        _exchange(optimizer, dict(model.named_parameters()), self.trained)

    def after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """One step of opt_1 or opt_2; after the optimizer's, before the gradients go."""
        self.steps += 1
        if self.bypass is None or self.report is not None:
            return
        vars(self.model).pop("forward", None)  # strategies copy the model, and its copies have a forward pass of theirs
        exchanged = self.bypass.step(lr=float(optimizer.param_groups[0]["lr"]))
        self._direct()
        if exchanged:
            before = self.trained
            self._look()
            _exchange(optimizer, before, self.trained)
        for parameter in self.others:
            parameter.grad = None  # trainers clear those of the model that they know

    @property
    def due(self) -> bool:
        """Whether opt_2 is over, and the model not its own yet."""
        return self.bypass is not None and self.report is None and self.bypass.done

    def contract(self, optimizer: torch.optim.Optimizer) -> Difference:
        """Go on with the model itself, which gives what the extended one gives. Raises: GateError (it does not)."""
        assert self.bypass is not None
        before = self.trained
        vars(self.model).pop("forward", None)
        alike = type(self.bypass.model) is type(self.model)  # else it stands around the model
        view = self.view if alike else nullcontext
        with view(self.model), view(self.bypass.model):
            self.report = self.bypass.contract()
        removal = getattr(self.bypass.strategy, "removal", None)
        if removal is not None:
            carry_over(optimizer, before, removal.module, removal.plan)
            before = dict(removal.module.named_parameters())
        _exchange(optimizer, before, dict(self.model.named_parameters()))
        return self.report

    def check_over(self) -> None:
        """UsageError where the training has ended before the contraction."""
        if self.report is None and not self.left_alone:
            raise UsageError("the training ended before the model was back in its own space: give fewer steps to opt_2")

    def _look(self) -> None:
        """What is trained now: parameters, those that are the model's own under its names; and which are not its own.

        Of a large model this takes longer than all else that a step does here.
        """
        assert self.bypass is not None
        own = {id(parameter): name for name, parameter in self.model.named_parameters()}
        found = self.bypass.model.named_parameters()
        self.trained = {own.get(id(one), name): one for name, one in found}
        self.others = [one for one in self.trained.values() if id(one) not in own]

    def _direct(self) -> None:
        """Let the model's forward pass be that of the module that is trained now."""
        assert self.bypass is not None
        model, target = self.model, self.bypass.model
        if target is model:
            return

        def forward(*args: Any, **kwargs: Any) -> Any:
            if target.training != model.training:
                target.train(model.training)
            return target(*args, **kwargs)

        vars(model)["forward"] = forward


@torch.no_grad()
def _exchange(
    optimizer: torch.optim.Optimizer, old: Mapping[str, nn.Parameter], new: Mapping[str, nn.Parameter]
) -> None:
    """Give an optimizer other parameters of the same names with their states, filled up with zeros where they grew.

    Those that are new join the group of the first parameter; those that are gone leave with their states.
    """
    held = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    first = next((held[id(one)] for one in old.values() if id(one) in held), optimizer.param_groups[0])
    places: dict[int, nn.Parameter | None] = {}
    for name, parameter in old.items():
        there = new.get(name)
        if there is parameter:
            continue
        places[id(parameter)] = there
        state = optimizer.state.pop(parameter, None)
        if there is not None and state:
            fitted = {key: _fitted(value, parameter, there) for key, value in state.items()}
            if all(value is not None for value in fitted.values()):
                optimizer.state[there] = fitted
    for group in optimizer.param_groups:
        kept = (places.get(id(parameter), parameter) for parameter in group["params"])
        group["params"][:] = [parameter for parameter in kept if parameter is not None]
    frozen = {name for name, parameter in old.items() if id(parameter) not in held}
    first["params"].extend(parameter for name, parameter in new.items() if name not in old and name not in frozen)


def _fitted(value: Any, old: nn.Parameter, new: nn.Parameter) -> Any:
    """Part of a state for a parameter that took the place of another; None: it does not fit."""
    if not isinstance(value, Tensor) or (value.numel() == 1 and old.numel() > 1) or value.shape == new.shape:
        return value
    if value.shape != old.shape or any(then < now for now, then in zip(old.shape, new.shape, strict=True)):
        return None
    filled = value.new_zeros(new.shape)
    filled[tuple(slice(size) for size in value.shape)] = value
    return filled

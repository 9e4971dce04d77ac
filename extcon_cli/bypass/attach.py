"""Bypass for people with their own loop.

    bypass = Bypass(model, (images,), opt_1=200, opt_2=200)
    optimizer.add_param_group({"params": bypass.deltas})     # D's slots start fresh, the rest is carried
    for images, labels in loader:
        criterion(bypass.model(images), labels).backward()   # bypass.model shares the parameters of model
        optimizer.step()
        if bypass.step():                                    # only with method="mirror", once
            optimizer = make_optimizer(bypass.model.parameters())
        optimizer.zero_grad()
    bypass.contract()                                        # model gives what bypass.model gave

It trains nothing itself. Wrap `bypass.model` for torch.compile, or for DDP with `find_unused_parameters=True`: D is
trained no more once it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from extcon_cli.bypass.contraction import ContractionSettings, Method
from extcon_cli.bypass.extension import Form
from extcon_cli.bypass.strategies import EXTENSIONS
from extcon_cli.bypass.strategies.base import PhaseSteps, Scoring, StepInfo, StrategyContext, StrategySettings
from extcon_cli.channels import Difference, channel_groups, difference
from extcon_cli.channels.compare import Inputs, random_batches
from extcon_cli.errors import UsageError

Other = Literal["mirror", "widen", "revive", "identity", "restart", "shrink"]


class Bypass:
    """opt_1 for `opt_1` steps, then opt_2 for `opt_2` steps: one strategy, as `extcon bypass` follows it.

        >>> import torch, extcon_cli
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> x, y = torch.randn(32, 4), torch.randint(2, (32,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> bypass = extcon_cli.Bypass(model, (x,), opt_1=5, opt_2=10)
        >>> optimizer.add_param_group({"params": bypass.deltas})
        >>> while not bypass.done:
        ...     torch.nn.functional.cross_entropy(bypass.model(x), y).backward()
        ...     optimizer.step()
        ...     _ = bypass.step()
        ...     optimizer.zero_grad()
        >>> bypass.contract().largest  # the model gives what bypass.model gave
        0.0

    Args:
        model: at theta*, in any mode, on any device.
        example_inputs: positional arguments of one forward pass.
        method: `radius`, `proximal`, `controlled` and `penalty` bring D back by that schedule. `mirror` lets every
            extended unit become itself and its mirror image at the end of opt_1, and half of these vanish; `widen` adds
            units, and as many vanish. With these two `model` is, from then on and from the start, another module with
            parameters of its own; the original has what was learnt after `contract`. `revive` draws the weights of
            dead units anew, in place and at once; `identity` lets the hidden square layers of a deep plain stack begin
            anew near the identity, likewise, and preserves no output. `restart` and `shrink` give the mean of the last
            weights, `shrink` from smaller ones; the rate is yours to raise: three times the usual one, after a warm-up
            over 5 % of the steps.
        form: of the methods that bring D back, see `extension.extend`.
        layers: name patterns of the activations to extend (of the layers to widen).
        lr: of the optimizer, where `step` is not given one.
        gamma, raised, epsilon, bound: of the schedule, see `contraction.ContractionSettings`.
        share: of `widen`: new units as a share of a layer's.
        scoring: of `mirror` and `widen`: what units are scored on at the end of opt_1. None: a quarter of opt_2 scores
            them by the gradients of training.
        data: of `revive`: all training inputs. Of `restart` and `shrink`, where the model has batch norm: training
            inputs in shuffled batches.
        seed: of what is drawn at random.

    Raises: TraceError; GateError; UsageError (nothing in the model can be extended by this method).
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Inputs,
        *,
        opt_1: int = 200,
        opt_2: int = 200,
        method: Method | Other = "radius",
        form: Form = "auto",
        layers: tuple[str, ...] = ("*",),
        lr: float = 1e-3,
        gamma: float | None = None,
        raised: tuple[int, float] | None = None,
        epsilon: float = 1e-4,
        bound: float = float("inf"),
        share: float = 0.5,
        scoring: Scoring | None = None,
        data: Callable[[], Iterable[Inputs]] | None = None,
        seed: int = 0,
    ) -> None:
        self.original, self.example, self.lr, self.steps = model, example_inputs, lr, 0
        name, schedule = _strategy(method)
        context = StrategyContext(
            model=lambda: model,
            channels=lambda: channel_groups(model, example_inputs),
            example=example_inputs,
            phases=PhaseSteps(opt_1, opt_2),
            settings=StrategySettings(
                form=form,
                layers=layers,
                contraction=ContractionSettings(schedule, gamma, raised, epsilon, bound),
                share=share,
                widened=layers,
            ),
            scoring=scoring,
            data=data,
            training=data,
            seed=seed,
        )
        if name not in EXTENSIONS:
            known = ", ".join(sorted({*get_args(Method), *get_args(Other)}))
            raise UsageError(f"method {method!r}: should be one of {known}")
        self.strategy = EXTENSIONS[name](context)

    @property
    def model(self) -> nn.Module:
        """What to train now."""
        return self.strategy.module

    @property
    def deltas(self) -> list[nn.Parameter]:
        """What to add to the optimizer."""
        return self.strategy.deltas

    @property
    def done(self) -> bool:
        """Whether the model is back in the original space, so that `contract` can be called."""
        return self.strategy.done

    def penalty(self) -> Tensor | None:
        """With `penalty`, the term to add to the loss: (). None: there is none."""
        return self.strategy.penalty()

    def step(self, loss: Tensor | float = 0.0, lr: float | None = None) -> bool:
        """Call after every optimizer step, while the gradients are still there; True: `model` is another module now.

        `loss` counts for `controlled`, `lr` for `proximal` and `controlled`.

        Raises: GateError (D has not come back by the end of opt_2).
        """
        before = self.model
        self.strategy.after_step(StepInfo(self.steps, self.lr if lr is None else lr, loss))
        self.steps += 1
        return self.model is not before

    @torch.no_grad()
    def contract(self) -> Difference:
        """Check that the original module gives what the extended one gives, and go on with it.

        `restart` and `shrink` preserve nothing: the mean of the weights comes in the place of the last, and the
        difference is between these.

        Raises: UsageError (opt_2 is not over), GateError (outputs differ).
        """
        if not self.done:
            raise UsageError(f"nothing to contract yet at step {self.steps}: go on training with .step() until .done")
        result = self.strategy.contract().module
        moved = difference(self.model, result, random_batches(self.example))
        if result is not self.original:
            self.original.load_state_dict(result.state_dict())
        return moved


def _strategy(method: Method | Other) -> tuple[str, Method]:
    """The strategy's name, and how D comes back where it is the diagonal one."""
    match method:
        case "radius" | "proximal" | "controlled" | "penalty":
            return "diag", method
        case _:
            return method, "radius"

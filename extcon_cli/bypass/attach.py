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

from typing import Any, Literal

import torch
from torch import nn

from extcon_cli.bypass.constraint import Contraction, Method
from extcon_cli.bypass.extension import Form, extend
from extcon_cli.bypass.mirror import extend_mirrored, mirror
from extcon_cli.bypass.widen import Narrowing
from extcon_cli.catalyst.scores import taylor_terms
from extcon_cli.channels import Difference, channel_groups, difference
from extcon_cli.channels.compare import EXACT, random_batches
from extcon_cli.errors import GateError, UsageError

SCORED = 4
"""With `mirror`, the part of opt_2, one in so many, over which units are scored before half of them go."""


class Bypass:
    """opt_1 for `opt_1` steps, then opt_2 for `opt_2` steps by `method`.

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

    With `mirror` every extended unit becomes itself and its mirror image, and half of these vanish: `model` is another
    module from then on, with parameters of its own; the original has what was learnt after `contract`.

    Raises: as `extension.extend`; UsageError (`mirror`: no activation can be mirrored).
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        *,
        opt_1: int = 200,
        opt_2: int = 200,
        method: Method | Literal["mirror"] = "radius",
        form: Form = "auto",
        lr: float = 1e-3,
        **more: Any,  # gamma, epsilon, bound of `Contraction`
    ) -> None:
        self.original, self.example, self.lr = model, example_inputs, lr
        self.steps, self.opt_1, self.opt_2 = 0, opt_1, opt_2
        self._method, self._more = method, more
        self.contraction: Contraction | None = None
        self.narrowing: Narrowing | None = None
        if method == "mirror":
            self._extended, self._mirrors = extend_mirrored(
                model, channel_groups(model, example_inputs), example_inputs
            )
        else:
            self._extended = extend(model, example_inputs, form=form)
        self.model: nn.Module = self._extended

    @property
    def deltas(self) -> list[nn.Parameter]:
        """What to add to the optimizer."""
        return self._extended.deltas

    @property
    def done(self) -> bool:
        """Whether every site is back in the original space."""
        if self.narrowing is not None:
            return self.narrowing.met
        return self.contraction is not None and self.contraction.met

    def step(self, loss: float = 0.0, lr: float | None = None) -> bool:
        """Call after every optimizer step, while the gradients are still there; True: `model` is another module now.

        `loss` counts for `controlled`, `lr` for `proximal` and `controlled`.
        """
        self.steps += 1
        if self._method == "mirror":
            return self._mirror()
        if self.steps > self.opt_1:
            if self.contraction is None:
                self.contraction = Contraction(self._extended, self._method, steps=self.opt_2, **self._more)
            if not self.done:
                self.contraction.step(self.lr if lr is None else lr, loss)
        return False

    def _mirror(self) -> bool:
        scored = self.opt_2 // SCORED
        if self.steps == self.opt_1:
            deltas = {item.site: self._extended.psi(item.site).delta.detach() for item in self._mirrors}
            self.model, added = mirror(self.original, self._mirrors, deltas)
            self.model.train(self._extended.training)
            self.narrowing = Narrowing(self.model, self.example, added, steps=self.opt_2 - scored)
            self._scores = torch.zeros(len(self.narrowing.filters))
            return True
        if self.narrowing is not None:
            if self.steps - self.opt_1 <= scored:
                self._scores += taylor_terms(self.model, self.narrowing.filters).square()
            elif self.narrowing.flow is None:
                self.narrowing.take(self._scores)
            if self.narrowing.flow is not None:
                self.narrowing.step()
        return False

    @torch.no_grad()
    def contract(self) -> Difference:
        """Check that the original module gives what the extended one gives, and go on with it.

        Raises: UsageError (opt_2 is not over), GateError (outputs differ).
        """
        if not self.done:
            raise UsageError(f"nothing to contract yet at step {self.steps}: go on training with .step() until .done")
        result = self.original if self.narrowing is None else self.narrowing.narrow()
        measured = difference(self.model, result, random_batches(self.example))
        if measured.relative > EXACT:
            raise GateError(f"the contracted model's outputs differ by {measured.relative:.1e} of the largest")
        if result is not self.original:
            self.original.load_state_dict(result.state_dict())
        return measured

"""Bypass for people with their own loop.

    bypass = Bypass(model, (images,), opt_1=200, opt_2=200)
    optimizer.add_param_group({"params": bypass.deltas})     # D's slots start fresh, the rest is carried
    for images, labels in loader:
        criterion(bypass.model(images), labels).backward()   # bypass.model shares the parameters of model
        optimizer.step()
        bypass.step()
        optimizer.zero_grad()
    bypass.contract()                                        # model gives what bypass.model gave

It trains nothing itself. Wrap `bypass.model` for torch.compile, or for DDP with `find_unused_parameters=True`: D is
trained no more once it is back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from extcon_cli.bypass.constraint import Contraction, Method
from extcon_cli.bypass.extension import Form, extend
from extcon_cli.channels import Difference, difference
from extcon_cli.channels.verify import EXACT, random_batches
from extcon_cli.errors import GateError, UsageError


class Bypass:
    """opt_1 for `opt_1` steps, then opt_2 for `opt_2` steps by `method`.

    Raises: as `extension.extend`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        *,
        opt_1: int = 200,
        opt_2: int = 200,
        method: Method = "radius",
        form: Form = "auto",
        lr: float = 1e-3,
        **more: Any,  # gamma, epsilon, bound of `Contraction`
    ) -> None:
        self.original, self.example, self.lr = model, example_inputs, lr
        self.model = extend(model, example_inputs, form=form)
        self.steps, self.opt_1, self.opt_2 = 0, opt_1, opt_2
        self._method, self._more = method, more
        self.contraction: Contraction | None = None

    @property
    def deltas(self) -> list[nn.Parameter]:
        """What to add to the optimizer."""
        return self.model.deltas

    @property
    def done(self) -> bool:
        """Whether every site is back in the original space."""
        return self.contraction is not None and self.contraction.met

    def step(self, loss: float = 0.0, lr: float | None = None) -> None:
        """Call after every optimizer step; `loss` counts for `controlled`, `lr` for `proximal` and `controlled`."""
        self.steps += 1
        if self.steps > self.opt_1:
            if self.contraction is None:
                self.contraction = Contraction(self.model, self._method, steps=self.opt_2, **self._more)
            if not self.done:
                self.contraction.step(self.lr if lr is None else lr, loss)

    @torch.no_grad()
    def contract(self) -> Difference:
        """Check that the original module gives what the extended one gives, and go on with it.

        Raises: UsageError (opt_2 is not over), GateError (outputs differ).
        """
        if not self.done:
            raise UsageError(f"nothing to contract yet at step {self.steps}: go on training with .step() until .done")
        measured = difference(self.model, self.original, random_batches(self.example))
        if measured.relative > EXACT:
            raise GateError(f"the contracted model's outputs differ by {measured.relative:.1e} of the largest")
        return measured

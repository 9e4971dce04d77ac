"""After a removal in place: the optimizer goes on with the parameters that are left and their states. No restart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from extcon_cli.channels import RemovalPlan


@torch.no_grad()
def carry_over(
    optimizer: torch.optim.Optimizer, before: Mapping[str, nn.Parameter], model: nn.Module, plan: RemovalPlan
) -> None:
    """Give an optimizer the smaller model's parameters, each with what is left of its state, cut as it was.

    A state that is not shaped like its parameter (factored moments) starts anew; so does a bias that took over
    constants and was not there before.

    Args:
        before: the model's parameters before the removal, with duplicates.
        model: after it.
        plan: of the removal.
    """
    kept: dict[str, dict[int, Tensor]] = {}
    for cut in plan.cuts:
        kept.setdefault(cut.parameter, {})[cut.dim] = torch.tensor(cut.kept())
    after = dict(model.named_parameters(remove_duplicate=False))
    exchanged: dict[nn.Parameter, tuple[nn.Parameter, dict[int, Tensor]]] = {}
    for name, old in before.items():
        if name in after and after[name] is not old:
            known = exchanged.get(old, (None, {}))[1]  # a tied parameter is cut under one of its names
            exchanged[old] = after[name], kept.get(name, known)
    homes = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for group in optimizer.param_groups:
        group["params"][:] = [exchanged[held][0] if held in exchanged else held for held in group["params"]]
    for old, (new, cuts) in exchanged.items():
        state = optimizer.state.pop(old, None)
        if state is not None and all(_follows(value, old) for value in state.values()):
            optimizer.state[new] = {key: _left(value, old, cuts) for key, value in state.items()}
    for name, made in after.items():
        weight = before.get(f"{name.rpartition('.')[0]}.weight")
        if name not in before and weight is not None and id(weight) in homes:
            homes[id(weight)]["params"].append(made)


def _follows(value: object, parameter: nn.Parameter) -> bool:
    """Is a part of a state shaped like its parameter, or one number?"""
    return not isinstance(value, Tensor) or value.numel() == 1 or value.shape == parameter.shape


def _left(value: object, parameter: nn.Parameter, cuts: Mapping[int, Tensor]) -> object:
    """What is left of a part of a state where its parameter was cut."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        for dim, index in cuts.items():
            value = value.index_select(dim, index.to(value.device))
    return value

"""Training with a model spread over the processes (torch's FSDP2): each keeps a part of weights, gradients and moments.

A layer is put together while it is used, and let go of again. The model that is given stays whole and as it is, on the
CPU: a copy of it is spread and trained, and `give_back` puts the result into it. States are those of the plain loop, so
a run may go on with any number of processes. Measuring and removing are done elsewhere, on whole models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from extcon_cli.processes import Processes, hearing
from extcon_cli.training.loop import Step, Trainer

GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""The whole state, on the CPU of the first process; nothing in the others."""
HANDED_OUT = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class ShardedTrainer(Trainer):
    """`Trainer` for several processes, for a model that does not fit one device while it is trained.

    Model and teacher end on the CPU. All processes iterate, evaluate and ask for states together, the same number of
    times.
    """

    looks_up = False  # all have to compute the same batches

    def placed(self, module: nn.Module) -> nn.Module:
        self.processes.align(module.cpu())
        return spread(module, self.accelerator.device, self.processes)

    def _step(self) -> Step:
        with hearing():
            return super()._step()

    def align(self) -> None:
        """They have been since before they were spread."""

    def weights(self) -> dict[str, Tensor]:
        state: Mapping[str, Any] = get_model_state_dict(self.model, options=GATHERED)
        return dict(state)

    def load_weights(self, state: Mapping[str, Any]) -> None:
        set_model_state_dict(self.model, dict(state), options=HANDED_OUT)

    def give_back(self, module: nn.Module) -> None:
        weights = self.weights()
        if self.processes.first:
            module.load_state_dict(weights)
        self.processes.align(module)

    def _shared_backward(self, loss: Tensor, weight: float) -> Tensor:
        sums = torch.stack([loss.detach() * weight, torch.full_like(loss.detach(), weight)])
        self.processes.add_up([sums])
        total = sums[1].clamp_min(1e-30)
        self.accelerator.backward(loss * (weight * self.processes.share.number / total))  # FSDP takes the mean
        return sums[0] / total

    def _model_state(self) -> Mapping[str, Any]:
        return self.weights()

    def _optimizer_state(self) -> dict[str, Any]:
        found: Mapping[str, Any] = get_optimizer_state_dict(self.model, self.optimizer, options=GATHERED)
        if not self.processes.first:
            return {}
        names = self._names()
        moments: Mapping[str, Any] = found["state"]
        group = {**found["param_groups"][0], "params": list(range(len(names))), "fused": True}  # as of whole models
        return {
            "state": {place: moments[name] for place, name in enumerate(names) if name in moments},
            "param_groups": [group],
        }

    def _load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        names = self._names()
        named: dict[str, Any] = {}
        if self.processes.first:
            named = {
                "state": {names[place]: moments for place, moments in state["state"].items()},
                "param_groups": [{**state["param_groups"][0], "params": names, "fused": False}],
            }
        set_optimizer_state_dict(self.model, self.optimizer, named, options=HANDED_OUT)

    def _names(self) -> list[str]:
        """Of the parameters that the optimizer moves, in its order."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def spread(module: nn.Module, device: torch.device, processes: Processes) -> nn.Module:
    """A copy of a module of which each process holds a part on its device, a layer after the other."""
    mesh = init_device_mesh(device.type, (processes.share.number,))
    copied = copy.deepcopy(module)
    for part in _parts(copied):
        fully_shard(part.to(device), mesh=mesh)
    fully_shard(copied.to(device), mesh=mesh)
    return copied


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of layers; what lies outside of them is held together all the time."""
    for child in module.children():
        if not isinstance(child, nn.ModuleList | nn.Sequential):
            yield from _parts(child)
            continue
        yield from (member for member in child if any(True for _ in member.parameters()))

"""One channel group from graph to plan, as docs/architecture.md shows it: `python docs/worked_example.py` prints it.

Everything printed is what extcon gives for this small network; `docs/make_reference.py` puts it into the page.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from extcon_cli.channels import (
    ChannelGroup,
    GroupStatus,
    Removal,
    RemovalPlan,
    channel_groups,
    classify,
    plan_removal,
    remove_zeros,
)
from extcon_cli.channels.analysis.trace import trace


class Net(nn.Module):
    """Four channels; of these channel 1 is made zero, and channel 2 a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, H, W) -> (N, 2)
        out: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return out


def text() -> str:
    """The five steps, each under its heading, as Markdown."""
    torch.manual_seed(0)
    net, example = Net().eval(), (torch.randn(2, 1, 8, 8),)
    with torch.no_grad():
        net.norm.weight[1:3] = 0.0
        net.norm.bias[1:3] = torch.tensor([0.0, 0.5])
    channels = channel_groups(net, example)
    steps = (
        ("The graph (`channels/analysis/trace.py`)", graph_lines(trace(net, example).nodes)),
        ("The groups (`channels/analysis/groups.py`)", group_lines(channels.groups)),
        ("What each channel is (`channels/removal/classify.py`)", status_lines(classify(net, channels))),
        ("The plan (`channels/removal/plan.py`)", plan_lines(plan_removal(net, channels))),
        ("The smaller module (`channels/removal/exact.py`)", module_lines(remove_zeros(net, example))),
    )
    blocks = ["```python", *source(), "```", ""]
    for number, (heading, lines) in enumerate(steps, 1):
        blocks += [f"**{number}. {heading}**", "", "```text", *lines, "```", ""]
    return "\n".join(blocks)


def source() -> Iterator[str]:
    """The network as the page shows it."""
    yield from inspect.getsource(Net).splitlines()
    yield ""
    yield ""
    yield "net.norm.weight[1:3], net.norm.bias[1:3] = 0, (0, 0.5)"


def graph_lines(nodes: tuple[fx.Node, ...]) -> Iterator[str]:
    """The operators with what they read."""
    for node in nodes:
        if node.op == "call_function":
            yield f"{node.name} = {node.target}({', '.join(other.name for other in node.all_input_nodes)})"


def group_lines(groups: Sequence[ChannelGroup]) -> Iterator[str]:
    """Each group: its slices, which of them silence a channel, and whether it may go."""
    for group in groups:
        yield f"{group.name}: {group.size} channels, {'prunable' if group.prunable else 'stays: ' + group.reason}"
        zeroing = {(part.parameter, part.dim) for part in group.zeroing_slices}
        for part in group.slices:
            mark = "  zero here makes the channel zero" if (part.parameter, part.dim) in zeroing else ""
            yield f"    {part.parameter}, dimension {part.dim}{mark}"


def status_lines(statuses: Sequence[GroupStatus]) -> Iterator[str]:
    """Which channels of each group are dead, and which can go."""
    for status in statuses:
        dead, removable = status.dead.nonzero()[0].tolist(), status.removable.nonzero()[0].tolist()
        yield f"{status.group.name}: dead {dead}, removable {removable}"


def plan_lines(plan: RemovalPlan) -> Iterator[str]:
    """The plan as it is stored in a checkpoint, a line for each entry; empty lists are left out."""
    for key, value in json.loads(json.dumps(plan.to_json())).items():
        if not isinstance(value, list):
            yield f"{key}: {value}"
        for entry in value if isinstance(value, list) else ():
            yield f"{key}: " + ", ".join(f"{name} {part}" for name, part in entry.items())


def module_lines(removal: Removal) -> Iterator[str]:
    """The module, and by how much its outputs differ."""
    yield from str(removal.module).splitlines()
    certificate = removal.certificate
    bound = 1e-6 if certificate.random.relative < 1e-6 else certificate.random.relative
    yield f"outputs differ by less than {bound:.0e} of the largest"


if __name__ == "__main__":
    print(text())

"""Channel analysis and exact removal.

    channels = channel_groups(module, (example,))     # which channels go together, and which stay
    removal = remove_zeros(module, (example,))        # a smaller copy, certified to give the same outputs

analysis/        which channels go together: trace, rules, groups, constants
removal/         what is dead, the plan of its removal, carrying it out, comparing the graphs, the certificate
costs.py         what a module costs as its groups lose channels
dry_run.py       the analysis tried out: what cannot be removed from this module is frozen
compare.py       how far the outputs of two modules differ
maps.py          a linear map of the graph as a matrix
replay.py        traced forward passes run again, operator by operator
verification.py  the same on several kinds of inputs, as a certificate has it

Knows modules and tensors; never a path, a recipe or a data set.
"""

import warnings

from extcon_cli.channels.analysis.axes import Consumer
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels, Slice, coverage
from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.compare import Difference, difference
from extcon_cli.channels.costs import Cost, bytes_cost, macs_cost, params_cost
from extcon_cli.channels.dry_run import channel_groups, prunable_groups
from extcon_cli.channels.modules import evaluating, named_tensor, named_tensors
from extcon_cli.channels.removal.apply import remove, sync_attributes, zero_channels
from extcon_cli.channels.removal.certificate import Certificate, certify, weights_hash
from extcon_cli.channels.removal.classify import GroupStatus, classify
from extcon_cli.channels.removal.exact import Masks, Removal, remove_zeros
from extcon_cli.channels.removal.plan import plan_removal
from extcon_cli.channels.removal.retrace import differences_between
from extcon_cli.channels.removal.rewrites import RemovalPlan, Rewrite
from extcon_cli.channels.verification import Verification, verify

__all__ = [
    "Certificate",
    "ChannelGroup",
    "Channels",
    "Consumer",
    "Cost",
    "Difference",
    "GroupStatus",
    "Masks",
    "Operator",
    "Removal",
    "RemovalPlan",
    "Rewrite",
    "Slice",
    "Verification",
    "bytes_cost",
    "certify",
    "channel_groups",
    "classify",
    "coverage",
    "difference",
    "differences_between",
    "evaluating",
    "macs_cost",
    "named_tensor",
    "named_tensors",
    "params_cost",
    "plan_removal",
    "prunable_groups",
    "remove",
    "remove_zeros",
    "sync_attributes",
    "verify",
    "weights_hash",
    "zero_channels",
]

_RENAMED = {"judge": "classify", "plan": "plan_removal", "silence": "zero_channels"}
"""Names of version 0.1.0."""


def __getattr__(name: str) -> object:
    """A name of version 0.1.0, with a warning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is {_RENAMED[name]} now", DeprecationWarning, stacklevel=2)
    return globals()[_RENAMED[name]]

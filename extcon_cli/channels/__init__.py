"""Channel analysis and exact removal: trace, rules, groups, plan, apply, verify.

    channels = channel_groups(module, (example,))     # which channels go together, and which stay
    removal = plan_removal(module, channels)                  # every channel that is dead with the weights as they are
    remove(module, removal)                           # the same function on a smaller module

Knows modules and tensors; never a path, a recipe or a data set.
"""

from extcon_cli.channels.analysis.axes import Consumer
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels, Slice, coverage
from extcon_cli.channels.compare import Difference, difference
from extcon_cli.channels.dry_run import channel_groups, prunable_groups
from extcon_cli.channels.modules import evaluating, named_tensor, named_tensors
from extcon_cli.channels.removal.apply import remove, sync_attributes, zero_channels
from extcon_cli.channels.removal.certificate import Certificate, certify, weights_hash
from extcon_cli.channels.removal.classify import GroupStatus, classify
from extcon_cli.channels.removal.exact import Masks, Removal, remove_zeros
from extcon_cli.channels.removal.plan import plan_removal
from extcon_cli.channels.removal.rewrites import RemovalPlan, Rewrite
from extcon_cli.channels.verification import Verification, verify

__all__ = [
    "Certificate",
    "ChannelGroup",
    "Channels",
    "Consumer",
    "Difference",
    "GroupStatus",
    "Masks",
    "Removal",
    "RemovalPlan",
    "Rewrite",
    "Slice",
    "Verification",
    "certify",
    "channel_groups",
    "classify",
    "coverage",
    "difference",
    "evaluating",
    "named_tensor",
    "named_tensors",
    "plan_removal",
    "prunable_groups",
    "remove",
    "remove_zeros",
    "sync_attributes",
    "verify",
    "weights_hash",
    "zero_channels",
]

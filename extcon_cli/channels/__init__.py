"""Channel analysis and exact removal: trace, rules, groups, plan, apply, verify.

    channels = channel_groups(module, (example,))     # which channels go together, and which stay
    removal = plan(module, channels)                  # every channel that is dead with the weights as they are
    remove(module, removal)                           # the same function on a smaller module

Knows modules and tensors; never a path, a recipe or a data set.
"""

from extcon_cli.channels.apply import remove, silence
from extcon_cli.channels.certificate import Certificate, certify
from extcon_cli.channels.groups import ChannelGroup, Channels, Slice, coverage
from extcon_cli.channels.judge import judge, plan
from extcon_cli.channels.plan import RemovalPlan
from extcon_cli.channels.trial import channel_groups
from extcon_cli.channels.verify import Difference, difference

__all__ = [
    "Certificate",
    "ChannelGroup",
    "Channels",
    "Difference",
    "RemovalPlan",
    "Slice",
    "certify",
    "channel_groups",
    "coverage",
    "difference",
    "judge",
    "plan",
    "remove",
    "silence",
]

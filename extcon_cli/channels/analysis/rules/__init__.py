"""What each operator does to channels: one small function an operator, in the file of its family.

Importing this package registers every rule. An operator without a rule freezes the channels that touch it.
"""

from extcon_cli.channels.analysis.rules import (
    contraction,
    linear,
    lookup,
    normalisation,
    overwriting,
    pointwise,
    pooling,
    recurrent,
    shapes,
)
from extcon_cli.channels.analysis.rules.registry import constants_of, flow_of

__all__ = [
    "constants_of",
    "contraction",
    "flow_of",
    "linear",
    "lookup",
    "normalisation",
    "overwriting",
    "pointwise",
    "pooling",
    "recurrent",
    "shapes",
]

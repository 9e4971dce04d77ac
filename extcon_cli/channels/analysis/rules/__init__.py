"""What each operator does to channels: one small function an operator, in the file of its family.

Importing this package registers every rule. An operator without a rule freezes the channels that touch it.
"""

from extcon_cli.channels.analysis.rules import (
    distances,
    filling,
    joins,
    linear,
    lookup,
    matmul,
    moves,
    normalisation,
    overwriting,
    pointwise,
    pooling,
    recurrent,
    scatter,
    views,
    windows,
)
from extcon_cli.channels.analysis.rules.registry import Constants, constants_of, flow_of
from extcon_cli.channels.analysis.rules.steps import QUOTIENTS, jumps, moves_between_jumps

__all__ = [
    "QUOTIENTS",
    "Constants",
    "constants_of",
    "distances",
    "filling",
    "flow_of",
    "joins",
    "jumps",
    "linear",
    "lookup",
    "matmul",
    "moves",
    "moves_between_jumps",
    "normalisation",
    "overwriting",
    "pointwise",
    "pooling",
    "recurrent",
    "scatter",
    "views",
    "windows",
]

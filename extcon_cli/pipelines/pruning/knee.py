"""Where a trade-off bends: beyond its knee quality falls faster than cost. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

CLEAR = 0.05
"""Share of the diagonal by which a knee has to stand out: less is a straight line with noise."""


def knee(costs: Sequence[float], qualities: Sequence[float]) -> int | None:
    """The point that lies highest above the line between the cheapest and the dearest, both axes scaled to 0..1.

    Args:
        costs: what is left, of each point.
        qualities: what it is worth, more for the better one.

    Returns: its index; None: there are less than three points, or none stands out.
    """
    if len(costs) < 3 or max(costs) == min(costs) or max(qualities) == min(qualities):
        return None
    low, high = min(range(len(costs)), key=costs.__getitem__), max(range(len(costs)), key=costs.__getitem__)
    across, up = costs[high] - costs[low], max(qualities) - min(qualities)

    def above(point: int) -> float:
        share = (costs[point] - costs[low]) / across
        return (qualities[point] - qualities[low] - share * (qualities[high] - qualities[low])) / up

    best = max(range(len(costs)), key=above)
    return best if above(best) > CLEAR else None

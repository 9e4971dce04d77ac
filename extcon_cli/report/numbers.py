"""Numbers as people read them, for tables and reports alike. Pure functions."""

from __future__ import annotations

from collections.abc import Collection

SHARES = ("accuracy", "top5", "pixel_accuracy", "f1", "miou", "map", "map50", "mask_map", "pose_map")
"""Figures that people read in percent."""
JUDGES = ("accuracy", "r2", "f1", "miou", "map", "perplexity", "loss")
"""What a model is judged by: the first of these that was measured."""

FALLING = ("loss", "perplexity")
"""Figures of which less is better."""


def judge(names: Collection[str]) -> str | None:
    """The figure that says most, of those that there are."""
    return next((name for name in JUDGES if name in names), None)


def count(value: float, unit: str = "") -> str:
    """174970 -> '175.0 k', 40800000 -> '40.80 M', with the unit behind it."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{_digits(value / size)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def duration(seconds: float) -> str:
    """0.00038 -> '380.0 µs', 4.2 -> '4.2 s', 90 -> '1:30 min', 4000 -> '1:06 h'."""
    if seconds < 1e-3:
        return f"{_digits(seconds * 1e6)} µs"
    if seconds < 1:
        return f"{_digits(seconds * 1e3)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"


def percent(share: float) -> str:
    """0.9972 -> '99.72 %'."""
    return f"{100 * share:.2f} %"


def factor(before: float, after: float, words: tuple[str, str] = ("smaller", "larger")) -> str:
    """How the second compares with the first: '4.00 x smaller', '1.20 x larger', 'the same'."""
    if before == after or not before or not after:
        return "the same" if before == after else ""
    return f"{before / after:.2f} x {words[0]}" if before > after else f"{after / before:.2f} x {words[1]}"


def figure(name: str, value: float) -> str:
    """A metric in the form that its name asks for."""
    if name in SHARES:
        return percent(value)
    if name == "lr":
        return f"{value:.2g}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def change(name: str, before: float, after: float) -> str:
    """What a metric gained or lost."""
    return f"{100 * (after - before):+.2f} points" if name in SHARES else f"{after - before:+.4f}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"

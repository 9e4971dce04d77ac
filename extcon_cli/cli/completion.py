"""What a shell offers for the values of options; names of commands and options are typer's business. No torch."""

from __future__ import annotations


def formats() -> list[str]:
    """Of exported files."""
    from extcon_cli.export.formats import FORMATS

    return list(FORMATS)


def runtimes() -> list[str]:
    """That latency is measured in."""
    from extcon_cli.export.formats import RUNTIMES

    return list(RUNTIMES)


def recipes() -> list[str]:
    """The bundled ones; files are offered where none of them fits."""
    from extcon_cli.recipe.bundled import bundled

    return list(bundled())


def documents() -> list[str]:
    """Commands that leave a document."""
    from extcon_cli.report.results import COMMANDS

    return list(COMMANDS)


def splits() -> list[str]:
    """Of the data."""
    from extcon_cli.data import SPLITS

    return list(SPLITS)


def trackers() -> list[str]:
    """That figures are logged to."""
    from extcon_cli.training.trackers import TRACKERS

    return list(TRACKERS)

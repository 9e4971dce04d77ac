"""The recipes that come with extcon, by name: `prune/digits_resnet`. It finds files and reads none."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


def bundled() -> dict[str, Path]:
    """Return the bundled recipes by name: those of the installed package, or else of the checkout."""
    installed, checkout = _PACKAGE / "bundled_recipes", _PACKAGE.parent / "recipes"
    folder = installed if installed.is_dir() else checkout
    files = sorted(folder.glob("*/*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def summary(path: Path) -> str:
    """Return the first line of a recipe's opening comment: what it is for."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""

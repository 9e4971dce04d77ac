"""Folders of transformers by family: pruned, and opened by plain `from_pretrained` in a process without extcon.

    python benchmarks/folders.py                 # every family, a table in Markdown
    python benchmarks/folders.py llama gpt2      # some of them

Tiny configurations with random weights (folders_models.py); nothing is downloaded. A quarter of the channels goes, by
magnitude. The difference is between the module that extcon wrote and what `from_pretrained` opens in another process,
on the same inputs, as a share of the largest output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from folders_models import FAMILIES, write

import extcon_cli
from extcon_cli.checkpoint.huggingface.examples import example_inputs
from extcon_cli.errors import GateError
from extcon_cli.pipelines.at_once import prune_at_once
from extcon_cli.recipe.load import resolve

PLAIN = """
import json, sys, torch, transformers
found = {}
for folder, name in json.loads(sys.argv[1]):
    model = getattr(transformers, name).from_pretrained(folder, local_files_only=True).eval()
    inputs, wanted = torch.load(folder + "/wanted.pt")
    with torch.no_grad():
        gap = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(model(**inputs).to_tuple(), wanted))
    found[folder] = gap, sum(p.numel() for p in model.parameters())
assert not [name for name in sys.modules if name.startswith("extcon")]
print(json.dumps(found))
"""
"""What opens all folders at once, and knows nothing of extcon."""


def prune(name: str, folder: Path, widths: str) -> Any:
    """Prune a folder of a family; its outputs on some inputs are kept beside it. None: no configuration says it."""
    try:
        result = prune_at_once(
            folder / "in",
            resolve("prune", overrides=["prune.ratio=0.25", f"prune.widths={widths}"]).recipe,
            output=folder / widths,
        )
    except GateError:
        return None
    model = extcon_cli.load(folder / widths)
    inputs = example_inputs(model, batch=3)
    model.config.use_cache = True
    with torch.no_grad():
        outputs = [value for value in model(**inputs).to_tuple() if isinstance(value, torch.Tensor)][:1]
    torch.save((inputs, outputs), folder / widths / "wanted.pt")
    return result


def main(names: list[str]) -> None:
    """Both kinds of folder of every family, then all that should open at once."""
    rows: list[tuple[str, Any, Any, Path]] = []
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(names):
            folder = Path(place, str(number))
            write(name, folder / "in")
            rows.append((name, prune(name, folder, "uniform"), prune(name, folder, "free"), folder))
            print(name, file=sys.stderr)
        asked = [(str(folder / "uniform"), FAMILIES[name][0]) for name, alike, _, folder in rows if alike]
        done = subprocess.run(
            [sys.executable, "-c", PLAIN, json.dumps(asked)], cwd=place, check=True, capture_output=True, text=True
        )
        plain = json.loads(done.stdout)
        print("| family | class | in | out | in config.json | differs by | can go: uniform | free | out, free |")
        print("|---|---|---:|---:|---|---:|---:|---:|---:|")
        for name, alike, free, folder in rows:
            print(line(name, alike, free, plain.get(str(folder / "uniform"))))


def line(name: str, alike: Any, free: Any, plain: tuple[float, int] | None) -> str:
    """One row of the table."""
    shares = f"{free.folder.uniform_share:.1%} | {free.folder.free_share:.1%}"
    if alike is None or plain is None:
        start = f"{free.before.size.params:,} | - | nothing says it | -"
    else:
        assert plain[1] == alike.after.size.params, "from_pretrained has other parameters"
        changes = ", ".join(
            f"{key} {'null' if one.before is None else f'{one.before:g}'} to {one.after:g}"
            for key, one in alike.folder.config.items()
        )
        start = f"{alike.before.size.params:,} | {alike.after.size.params:,} | {changes} | {plain[0]:.1e}"
    return f"| {name} | {FAMILIES[name][0]} | {start} | {shares} | {free.after.size.params:,} |"


if __name__ == "__main__":
    main(sys.argv[1:] or list(FAMILIES))

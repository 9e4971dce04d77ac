"""From the options of a command to its recipe, its checkpoint and what it trusts. Loads no torch, trains nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extcon_cli.checkpoint.folder import checkpoint_file as find_checkpoint
from extcon_cli.checkpoint.folder import has_tokenizer, image_of, is_transformers, task_of
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.errors import UsageError
from extcon_cli.events import Emit

if TYPE_CHECKING:
    from extcon_cli.data.kinds import Kind
    from extcon_cli.recipe.load import Resolved
    from extcon_cli.recipe.schema import Recipe


ULTRALYTICS = "ultralytics"
"""The dataset of a recipe whose data Ultralytics reads."""
OF_ULTRALYTICS = (
    "data.batch_size=16", "prune.score.method=energy", "prune.finetune.distill=null",
    "prune.finetune.optimizer.name=adamw", "prune.finetune.optimizer.lr=1e-3",
)  # fmt: skip
"""What goes for a checkpoint of Ultralytics where the user gave no recipe."""


def find_recipe(
    method: str,
    recipe: str | None,
    checkpoint: Path | None,
    overrides: Sequence[str] | None,
    data: Kind | None = None,  # goes before the recipe's own data, after --set
    **given: Any,  # keys that options of their own set: seed=3, prune__ratio=0.5
) -> Resolved:
    """The recipe of a run, from where `recipe.load.resolve` looks for it, with --set and the other options put in."""
    from extcon_cli.checkpoint.header import read_header
    from extcon_cli.recipe.load import resolve

    metadata = read_header(checkpoint) if checkpoint is not None else None
    put = [f"{key.replace('__', '.')}={value}" for key, value in given.items() if value is not None]
    return resolve(
        method,
        recipe=recipe,
        checkpoint=checkpoint,
        embedded=metadata.recipe if metadata is not None and metadata.recipe else None,
        overrides=[*_told(method, recipe, checkpoint, data), *_data_keys(data), *(overrides or ()), *put],
    )


def bundled_recipe(method: str, overrides: Sequence[str] | None, data: Kind | None) -> Resolved:
    """The recipe of a method where the user has none yet."""
    from extcon_cli.recipe.load import resolve

    return resolve(method, overrides=[*_data_keys(data), *(overrides or ())])


def data_kind(path: str | None, *, theirs: bool = False) -> Kind | None:
    """What --data holds, `theirs`: for Ultralytics to read. DataError where that is nothing that can be read."""
    if path is None:
        return None
    from extcon_cli.data.kinds import Kind
    from extcon_cli.data.kinds import kind as kind_of_data

    if theirs:
        return Kind(ULTRALYTICS, path, None, "for Ultralytics to read")

    return kind_of_data(path)


def complete(
    resolved: Resolved,
    checkpoint: Path,
    data: Kind | None,
    overrides: Sequence[str] | None,
    trusted: Trust,
    emit: Emit,
) -> Recipe:
    """The recipe of a run that needs data. Where the user gave no recipe, what checkpoint and data tell is put in.

    RecipeError where something is missing: all of it, with the recipe to paste.
    """
    if resolved.source != "bundled" or (data is None and resolved.recipe.data is not None):
        return resolved.recipe
    if is_transformers(checkpoint) and resolved.recipe.data is not None:
        return resolved.recipe
    from extcon_cli.pipelines.first_look import complete as filled  # takes seconds: torch

    given = is_set("task", overrides)
    return filled(checkpoint, resolved.recipe, data, task_given=given, trust=trusted, emit=emit)


def trust(code: bool, pickle: bool, *recipes: Resolved) -> Trust:
    """What the options and the origin of the recipes allow: code named by a recipe that the user gave may run."""
    return Trust(code, pickle, recipe=all(found.source == "argument" for found in recipes))


def checkpoint_file(path: Path) -> Path:
    """The checkpoint, also of a folder that holds one; a folder of Hugging Face as it is.

    CheckpointError where it is missing, cut off, or no checkpoint, as far as its first bytes tell.
    """
    if is_transformers(path):
        return path
    from extcon_cli.checkpoint.contents import kind

    file = find_checkpoint(path)
    kind(file)
    return file


def aims(**given: str | None) -> tuple[list[str], list[dict[str, object]]]:
    """Of one option, or none: what it says, and the same as keys for `find_recipe`; several where it is a list.

    Args:
        given: ratio, macs, params, size, latency: as typed, such as "0.5", "0.3,0.5" or "10MB,5MB".

    Raises: UsageError where two options are given, a target twice, or no share.
    """
    named = {name: text for name, text in given.items() if text is not None}
    if len(named) > 1:
        first, second, *_ = named
        options = ", ".join(f"--{name}" for name in given)
        raise UsageError(f"--{first} and --{second} are two targets: give one of {options}")
    if not named:
        return [], [{}]
    ((name, text),) = named.items()
    asked = [part.strip() for part in text.split(",")]
    if len(set(asked)) < len(asked):
        raise UsageError(f"--{name} {text}: names a target twice")
    return asked, [_aim(name, part) for part in asked]


def aim(**given: str | None) -> dict[str, object]:
    """The same for a command that takes one target."""
    asked, found = aims(**given)
    if len(asked) > 1:
        raise UsageError(f"{', '.join(asked)}: give one target; `extcon prune` takes several")
    return found[0]


WHATS = {"ratio": "of the filters", "macs": "of the MACs", "params": "of the parameters"}
"""What the share of a target is a share of."""


def _aim(name: str, text: str) -> dict[str, object]:
    """A single target as keys for `find_recipe`."""
    value = _scalar(text)
    if name in WHATS and not isinstance(value, float):
        raise UsageError(f"--{name}: {text!r} is not a number, such as 0.5 for half {WHATS[name]}")
    if name in WHATS and isinstance(value, float) and not 0 < value < 1:
        raise UsageError(f"--{name} {value:g}: should lie between 0 and 1, such as 0.5 for half {WHATS[name]}")
    return {"prune__ratio": value} if name == "ratio" else {"prune__target": json.dumps({name: value})}


def timing(runtime: str | None, batch_size: int | None) -> dict[str, object]:
    """Where latency is measured, as keys for `find_recipe`. UsageError: the runtime is none, or not installed."""
    if runtime is not None:
        from extcon_cli.export.formats import check_runtime

        check_runtime(runtime)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: should be 1 or more")
    return {"prune__latency__runtime": runtime, "prune__latency__batch_size": batch_size}


def is_set(key: str, overrides: Sequence[str] | None) -> bool:
    """Did the user give this key by --set?"""
    return any(text.partition("=")[0].strip() == key for text in overrides or ())


def _told(method: str, recipe: str | None, checkpoint: Path | None, data: Kind | None) -> list[str]:
    """What a folder of Hugging Face says of its task and its tokenizer, where the user gave no recipe."""
    if checkpoint is None or recipe or checkpoint.with_suffix(".yaml").is_file():
        return []
    if data is not None and data.dataset == ULTRALYTICS:
        return [*OF_ULTRALYTICS]
    if not is_transformers(checkpoint):
        return []
    task = task_of(checkpoint) or (data and data.task)
    keys = [f"task={task}"] if task else []
    if data is not None and data.dataset in ("text", "saved") and has_tokenizer(checkpoint):
        keys.append(f"data.tokenizer={json.dumps(str(checkpoint))}")
    if data is not None and (image := image_of(checkpoint)) is not None:
        from extcon_cli.data.kinds import PICTURES

        keys.append(f"model.input_shape={list(image.shape)}")
        if data.dataset in PICTURES and image.mean and image.std:
            keys.append(f"data.normalize={json.dumps({'mean': image.mean, 'std': image.std})}")
    if method == "prune":  # what transformers are trained with
        for phase in ("bifurcate", "finetune"):
            keys += [f"prune.{phase}.optimizer.name=adamw", f"prune.{phase}.optimizer.lr=1e-4"]
    return keys


def _data_keys(data: Kind | None) -> list[str]:
    if data is None:
        return []
    return [f"data.{key}={json.dumps(value)}" for key, value in (("dataset", data.dataset), ("root", data.root))]


def _scalar(value: object) -> object:
    """A share given as text as a number; other text as it is."""
    try:
        return float(str(value))
    except ValueError:
        return value

"""First contact: what a checkpoint and data tell about themselves, what only the user knows, and a recipe of both.

It reads the checkpoint, and of the data their names and headers. It trains nothing and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from extcon_cli.checkpoint.habits import Habit, habit
from extcon_cli.checkpoint.identify import Candidate, identify
from extcon_cli.checkpoint.load import doubt
from extcon_cli.checkpoint.pickled import architecture
from extcon_cli.checkpoint.read import Checkpoint, read
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.data.kinds import PICTURES, Kind
from extcon_cli.errors import RecipeError
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.recipe.document import read as read_yaml
from extcon_cli.recipe.schema import DataSpec, ModelSpec, Recipe, Task
from extcon_cli.report.results.inspect import InitResult, RecipeKey


@dataclass(frozen=True)
class Finding:
    """One key of the recipe, and how its value is known; of a missing one, what to put there."""

    key: str
    value: object
    why: str
    doubtful: bool = False
    """It may be another: said as a warning."""


@dataclass(frozen=True)
class FirstLook:
    """What was found out."""

    checkpoint: Path
    recipe: Recipe
    """With all findings filled in."""
    findings: tuple[Finding, ...]
    missing: tuple[Finding, ...]
    """What only the user knows; `value` is an example."""

    def result(self, output: Path) -> InitResult:
        """What the command says of it."""
        known, unknown = (
            tuple(RecipeKey(finding.key, _shown(finding.value), finding.why) for finding in of)
            for of in (self.findings, self.missing)
        )
        return InitResult(checkpoint=str(self.checkpoint), output=str(output), findings=known, missing=unknown)

    def text(self) -> str:
        """The recipe as YAML, each line with how its value is known; what is missing stands as a comment."""
        notes = {finding.key: finding for finding in self.findings}
        gaps = {finding.key: finding for finding in self.missing}
        lines = [f"# Recipe for {self.checkpoint.name}. After each #: how the value is known."]
        for section, keys in (("model", ("arch", "kwargs", "input_shape")), ("data", ("dataset", "root", "normalize"))):
            body = [_line(key, notes.get(f"{section}.{key}"), gaps.get(f"{section}.{key}")) for key in keys]
            body = [line for line in body if line]
            empty = all(line.lstrip().startswith("#") for line in body)
            lines += [f"# {section}:" if empty else f"{section}:", *body] if body else []
        lines += [line for line in (_line("task", notes.get("task"), None).removeprefix("  "),) if line]
        return "\n".join(
            [*lines, "prune:", _line("ratio", Finding("", self.recipe.prune.ratio, "yours to choose")), ""]
        )


def first_look(
    checkpoint: Path, recipe: Recipe, data: Kind | None, *, task_given: bool = False, trust: Trust = UNTRUSTED
) -> FirstLook:
    """Find out what the recipe leaves open.

    Args:
        checkpoint: the file.
        recipe: what is said already; it goes before all findings.
        data: what the data's path tells; None: no path was given.
        task_given: the recipe's task was the user's choice.

    Raises: CheckpointError where the checkpoint cannot be read.
    """
    content = read(checkpoint, trust_pickle=trust.pickle)
    findings: list[Finding] = []
    missing: list[Finding] = []
    arch = _architecture(content, recipe.model)
    (findings if arch.value is not None else missing).append(arch)
    known = arch.value if isinstance(arch.value, Candidate) else None
    if known is not None:
        findings[-1] = replace(arch, value=known.arch)
        if known.kwargs:
            findings.append(Finding("model.kwargs", known.kwargs, "sizes of the tensors"))
    else:
        missing[-1] = replace(arch, value="file.py:factory")
    custom = habit(known.arch, known.kwargs) if known is not None else None
    dataset = data.dataset if data is not None else recipe.data.dataset if recipe.data is not None else None
    shape = _shape(content, recipe.model, custom, dataset)
    (missing if shape.value is None else findings).append(shape)
    if dataset is None:
        why = "--data PATH, or the dataset's name and place: image_folder, arrays, csv, cifar10, file.py:function"
        missing.append(Finding("data.dataset", "image_folder", why))
        missing.append(Finding("data.root", "path/to/the/data", "its folder or file"))
    elif data is not None:
        findings.append(Finding("data.dataset", data.dataset, data.why))
        findings += [Finding("data.root", data.root, "as given")] if data.root is not None else []
    normalize = _normalize(content, recipe, custom, dataset)
    findings += [normalize] if normalize is not None else []
    task = _task(content, recipe, data, task_given)
    findings.append(task)
    return FirstLook(checkpoint, _filled(recipe, findings), tuple(findings), tuple(missing))


def complete(
    checkpoint: Path,
    recipe: Recipe,
    data: Kind | None,
    *,
    task_given: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> Recipe:
    """The recipe with what checkpoint and data tell, each finding said. RecipeError: all that is missing, at once."""
    look = first_look(checkpoint, recipe, data, task_given=task_given, trust=trust)
    if look.missing:
        lines = [f"  {finding.key}: {finding.why}" for finding in look.missing]
        raise RecipeError(
            "\n".join(
                [
                    f"{checkpoint.name} and its data do not tell all; what only you know:",
                    *lines,
                    f"Put this recipe beside it as {checkpoint.with_suffix('.yaml').name}, with the gaps filled in:",
                    "",
                    look.text().rstrip(),
                ]
            )
        )
    for finding in look.findings:
        emit(Noted(f"{finding.key}: {_shown(finding.value)} ({finding.why})", warning=finding.doubtful))
    return look.recipe


def _architecture(content: Checkpoint, wanted: ModelSpec) -> Finding:
    """The architecture as a Candidate; value None where nothing tells it."""
    key = "model.arch"
    if wanted.arch is not None:
        return Finding(key, Candidate(wanted.arch, dict(wanted.kwargs)), "as given")
    if content.metadata is not None and content.metadata.arch is not None:
        found = Candidate(content.metadata.arch, {**content.metadata.kwargs, **wanted.kwargs})
        return Finding(key, found, "the checkpoint says so")
    if content.module is not None:
        built = architecture(content.module, content.state, content.path.parent)
        return Finding(key, built, "the class of the pickled module")
    candidates = identify(content.state, content.said)
    fitting = [candidate for candidate in candidates if candidate.score == 1]
    if len(fitting) == 1:
        [found] = fitting
        why = f"score 100 %: all {len(content.state)} tensors agree in name and shape"
        if found.said:
            why += ", and the file says so"
        if found.rivals:
            why += f"; {doubt(found)}"
        return Finding(key, found, why, doubtful=bool(found.rivals))
    if fitting:
        return Finding(key, None, f"one of {', '.join(c.arch for c in fitting)}: all have its names and shapes")
    near = [str(candidate) for candidate in candidates if candidate.score >= 0.1][:3]
    hint = f" (nearest: {'; '.join(near)})" if near else ""
    return Finding(key, None, f"file.py:factory, package.module:factory, torchvision:NAME or timm:NAME{hint}")


def _shape(content: Checkpoint, wanted: ModelSpec, custom: Habit | None, dataset: str | None) -> Finding:
    key = "model.input_shape"
    if wanted.input_shape is not None:
        return Finding(key, list(wanted.input_shape), "as given")
    if content.metadata is not None and content.metadata.input_shape is not None:
        return Finding(key, list(content.metadata.input_shape), "the checkpoint says so")
    if dataset is not None and dataset.lower() not in PICTURES:
        return Finding(key, "null", "the data tell")
    if custom is not None:
        return Finding(key, list(custom.input_shape), custom.source)
    first = next((tensor for tensor in content.state.values() if tensor.dim() > 1), None)
    if first is not None and first.dim() == 2:
        return Finding(key, [first.shape[1]], "the columns of the first weight")
    channels = first.shape[1] if first is not None and first.dim() == 4 else 3
    return Finding(key, None, f"without the batch, such as [{channels}, 224, 224]")


def _normalize(content: Checkpoint, recipe: Recipe, custom: Habit | None, dataset: str | None) -> Finding | None:
    if recipe.data is not None and recipe.data.normalize is not None:
        return None
    known, why = content.metadata.normalize if content.metadata is not None else None, "the checkpoint says so"
    if known is None and custom is not None and dataset is not None and dataset.lower() in PICTURES:
        known, why = custom.normalize, f"{custom.source}; change it if yours was trained with another"
    return Finding("data.normalize", known.model_dump(mode="json"), why) if known is not None else None


def _task(content: Checkpoint, recipe: Recipe, data: Kind | None, given: bool) -> Finding:
    if given:
        return Finding("task", recipe.task, "as given")
    if data is not None and data.task is not None:
        return Finding("task", data.task, data.why)
    outputs = _outputs(content.state)
    task: Task = "regression" if outputs == 1 else recipe.task
    return Finding("task", task, f"the last weight gives {outputs} outputs" if outputs else "the default")


def _outputs(state: Mapping[str, Tensor]) -> int | None:
    return next((tensor.shape[0] for tensor in reversed(list(state.values())) if tensor.dim() == 2), None)


def _filled(recipe: Recipe, findings: list[Finding]) -> Recipe:
    """The recipe with the findings put in and checked."""
    values = {finding.key: finding.value for finding in findings if finding.value != "null"}
    model = {key: values[f"model.{key}"] for key in ("arch", "kwargs", "input_shape") if f"model.{key}" in values}
    before = recipe.data.model_dump(mode="json") if recipe.data is not None else {}
    given = {key: values[f"data.{key}"] for key in ("dataset", "root", "normalize") if f"data.{key}" in values}
    data = DataSpec.model_validate({**before, **given}) if before or "dataset" in given else None
    update = {"model": ModelSpec.model_validate({**recipe.model.model_dump(mode="json"), **model}), "data": data}
    return recipe.model_copy(update={**update, "task": values["task"]})


def _line(key: str, finding: Finding | None, gap: Finding | None = None) -> str:
    """One line of the recipe's text; empty where nothing is known of the key."""
    if gap is not None:
        return f"  # {key}: {_shown(gap.value)}  # only you know: {gap.why}"
    if finding is None or finding.value == "null":
        return ""
    return f"  {key}: {_shown(finding.value)}  # {finding.why}"


def _shown(value: object) -> str:
    """A value as YAML on one line; text without quotes where it reads back as it is."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, str) and not set(value) & set("#{}[],&*!|>%@`'\"") and read_yaml(value, "").values == value:
        return value
    return json.dumps(value)

"""A data section of a recipe -> `Data`: training, validation and test split, classes, input shape, normalisation.

The validation split is cut from the training data by a seed of its own, whatever the run's seed: what was set
aside in training is set aside in pruning and fine-tuning too. The test split is never cut from anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from extcon_cli.data import arrays, folders, user
from extcon_cli.data.loader import Batch, InMemoryLoader, Loader, StreamingLoader
from extcon_cli.data.reading import Reading, Request
from extcon_cli.data.splits import Arrays, Source, Split, Stream, held_out
from extcon_cli.data.trees import Tree, first_leaf, mapped
from extcon_cli.data.workers import Reader
from extcon_cli.errors import DataError, RecipeError
from extcon_cli.recipe.schema import DataSpec, NormalizeSpec, Task

VALIDATION_SEED = 20_140_717
STATISTICS_SAMPLES = 1000
"""Samples of a streamed set that mean and standard deviation are taken from."""


@dataclass(frozen=True)
class Data:
    """Everything a run knows about its data."""

    spec: DataSpec
    task: Task
    train: Split
    validation: Split
    test: Split
    classes: int | None
    """Number of classes; None: a regression, or a dataset that does not tell."""
    class_names: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    normalize: NormalizeSpec | None
    """What is in use: given, or of images as `measured` on the training split."""
    reader: Reader | None = None
    """Reads what does not lie in memory, for all splits and for the whole run."""
    notes: tuple[str, ...] = ()
    """What the user should know of the data, a line each."""

    def train_loader(self, *, device: torch.device | str, seed: int, batch_size: int | None = None) -> Loader:
        """Shuffled and augmented batches of the training split, a function of (seed, step)."""
        size = batch_size or self.spec.batch_size
        return self._loader(self.train, size, device=device, seed=seed, shuffle=True)

    def eval_loader(self, split: str = "test", *, device: torch.device | str, batch_size: int | None = None) -> Loader:
        """All samples of `train`, `validation` or `test`, in order, as they are."""
        size = batch_size or self.spec.eval_batch_size
        return self._loader(self.split(split), size, device=device, seed=0, shuffle=False)

    def measured(self) -> Data:
        """With the normalisation measured, where the data are images and none is known."""
        return replace(self, normalize=self.normalize or _statistics(self.train, self.reader))

    def example(self, count: int, *, device: torch.device | str) -> Batch:
        """The first `count` training samples as they are measured; they are read in this process."""
        here = Reader(self.reader.reading) if self.reader is not None else None
        return self._loader(self.train, count, device=device, seed=0, shuffle=False, reader=here).batch(0)

    def split(self, name: str) -> Split:
        """`train`, `validation` or `test` (DataError where it has no samples)."""
        found: Split = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        if not len(found):
            raise DataError(f"the {name} split of {self.spec.dataset!r} is empty")
        return found

    def _loader(
        self,
        split: Split,
        batch_size: int,
        *,
        device: torch.device | str,
        seed: int,
        shuffle: bool,
        reader: Reader | None = None,
    ) -> Loader:
        augment = self.spec.augment if shuffle else None
        if isinstance(split, Arrays):
            return InMemoryLoader(
                split.x,
                split.y,
                batch_size,
                device=device,
                augment=augment,
                normalize=self.normalize,
                seed=seed,
                shuffle=shuffle,
            )
        return StreamingLoader(
            split,
            batch_size,
            reader=reader or self.reader,
            device=device,
            augment=augment,
            normalize=self.normalize,
            seed=seed,
            shuffle=shuffle,
            labels=self.task == "classification",
            classes=self.classes,
        )


def open_data(
    spec: DataSpec | None,
    task: Task,
    *,
    seed: int = 0,
    input_shape: tuple[int, ...] | None = None,
    trust_code: bool = False,
    measure: bool = True,
) -> Data:
    """Open a dataset and cut its validation split.

    Args:
        spec: the recipe's section `data`; None is a RecipeError.
        task: `classification` or `regression`.
        seed: the run's; the splits do not depend on it.
        input_shape: of one input of the model, without the batch; None: the data tell.
        trust_code: may `file.py:function` run?
        measure: measure the normalisation of images where the recipe gives none.

    Raises:
        DataError: not there, not readable, or not fit for task and model; the line says where and what to do.
    """
    if spec is None:
        raise RecipeError("the recipe has no section `data`: say which data to use, such as data.dataset=digits")
    source = _source(spec, task, input_shape, trust_code)
    source = replace(source, train=_shaped(source.train, input_shape), test=_shaped(source.test, input_shape))
    stays, aside = held_out(len(source.train), spec.validation, seed=VALIDATION_SEED)
    train, validation = source.train.select(stays[: spec.limit]), source.train.select(aside)
    for name, part in (("training", train), ("test", source.test)):
        if not len(part):
            raise DataError(f"{spec.dataset}: the {name} data hold no samples")
    reader, notes = _reader(spec, task, (train, validation, source.test))
    first = first_leaf(_head(train, 1, reader))
    shape = tuple(first.shape[1:])
    if input_shape is not None and shape != tuple(input_shape):
        raise DataError(
            f"{spec.dataset}: an input is {list(shape)}, the model takes {list(input_shape)}; "
            "set model.input_shape, or take other data"
        )
    if spec.normalize is not None and len(spec.normalize.mean) not in (1, first.shape[1]):
        raise DataError(f"data.normalize has {len(spec.normalize.mean)} channels, the data have {first.shape[1]}")
    data = Data(
        spec=spec,
        task=task,
        train=train,
        validation=validation,
        test=source.test,
        classes=_classes(source, task),
        class_names=source.class_names,
        input_shape=shape,
        normalize=spec.normalize,
        reader=reader,
        notes=(*source.notes, *notes),
    )
    return data.measured() if measure else data


def _source(spec: DataSpec, task: Task, input_shape: tuple[int, ...] | None, trust_code: bool) -> Source:
    name = spec.dataset
    if ":" in name:
        return user.user_function(spec, task, trust_code=trust_code)
    in_memory = {
        "digits": arrays.digits,
        "eggholder": arrays.eggholder,
        "arrays": arrays.arrays,
        "csv": arrays.table,
    }
    plain = name.lower().replace("-", "").replace("_", "")
    if name in in_memory:
        return in_memory[name](spec, task)
    if plain in ("imagefolder", "imagenet"):
        return folders.image_folder(spec, input_shape)
    if plain in folders.TORCHVISION:
        return folders.torchvision_set(spec, folders.TORCHVISION[plain])
    from difflib import get_close_matches

    known = [*in_memory, "image_folder", "imagenet", *folders.TORCHVISION]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}, file.py:function"
    looks_like_a_file = Path(name).suffix in (".npz", ".csv", ".safetensors")
    raise DataError(
        f"unknown dataset {name!r}: "
        + ("set data.dataset to arrays or csv, and data.root to the file" if looks_like_a_file else hint)
    )


def _shaped(split: Split, wanted: tuple[int, ...] | None) -> Split:
    """Images as (N, C, H, W); anything as the model takes it, where reordering or one more axis does."""
    if not isinstance(split, Arrays):
        return split
    x = split.x
    if wanted is not None:
        for view in _views(x):
            if tuple(view.shape[1:]) == tuple(wanted):
                return Arrays(view.contiguous(), split.y)
        return split
    if x.dtype == torch.uint8:
        last = x.dim() == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
        return Arrays(x.permute(0, 3, 1, 2).contiguous() if last else x[:, None] if x.dim() == 3 else x, split.y)
    return split


def _views(x: Tensor) -> list[Tensor]:
    reordered = [x.permute(0, 3, 1, 2)] if x.dim() == 4 else [x[:, None]] if x.dim() == 3 else []
    return [x, *reordered, x.flatten(1)]


def _classes(source: Source, task: Task) -> int | None:
    if task != "classification":
        return None
    if source.class_names:
        return len(source.class_names)
    if isinstance(source.train, Arrays) and isinstance(source.test, Arrays):
        return int(max(source.train.y.max(), source.test.y.max())) + 1
    return None


def _reader(spec: DataSpec, task: Task, splits: tuple[Split, ...]) -> tuple[Reader | None, tuple[str, ...]]:
    """What reads the splits that do not lie in memory (None: all do), and what the user should know of it."""
    found = {id(split.dataset): split.dataset for split in splits if isinstance(split, Stream)}
    if not found:
        return None, ()
    datasets = tuple(found.values())
    reading = Reading(datasets, name=spec.dataset, regression=task == "regression")
    why = user.unpicklable(datasets) if spec.workers and ":" in spec.dataset else None
    if why is None:
        return Reader(reading, workers=spec.workers), ()
    note = f"{spec.dataset} is read in this process: its datasets cannot be sent to workers ({why})"
    return Reader(reading), (note,)


def _head(split: Split, count: int, reader: Reader | None) -> Tree:
    """The inputs of the first samples, as they are stored: a tree of (count, ...)."""
    if isinstance(split, Arrays):
        return mapped(split.x, lambda leaf: leaf[:count])
    assert reader is not None, "a split that is not in memory has a reader"
    part, first = reader.part(split.dataset), split.indices[:count].tolist()
    requests = [Request(part, first[i : i + 64], seed=0) for i in range(0, len(first), 64)]
    here = reader if len(requests) > 1 else Reader(reader.reading)
    read = [x for x, _ in here.read(requests)]
    return read[0] if len(read) == 1 else torch.cat(read)


def _statistics(train: Split, reader: Reader | None) -> NormalizeSpec | None:
    """Mean and standard deviation of each channel of images (on a scale of 0..1); None: these are no images."""
    x = _head(train, 1, reader)
    if not isinstance(x, Tensor) or x.dtype != torch.uint8:
        return None
    x = _head(train, STATISTICS_SAMPLES, reader) if isinstance(train, Stream) else train.x
    images = x.flatten(2) if x.dim() > 2 else x[:, None]  # flattened images: one mean for all
    total = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for first in range(0, len(images), 1024):
        values = images[first : first + 1024].double() / 255
        total += torch.stack([values.sum((0, 2)), values.square().sum((0, 2))])
    mean, square = total / (images.shape[0] * images.shape[2])
    std = (square - mean**2).clamp_min(0).sqrt()
    std[std < 1e-6] = 1  # a channel without contrast: leave its scale alone
    return NormalizeSpec(mean=tuple(round(v, 6) for v in mean.tolist()), std=tuple(round(v, 6) for v in std.tolist()))

"""A data section of a recipe -> `Data`: training, validation and test split, classes, input shape, normalisation.

The validation split is the data's own, or cut from the training data by a seed of its own, whatever the run's seed:
what was set aside in training is set aside in pruning and fine-tuning too. The test split is the data's own; of data
that have none a part is cut off at random, and `test_is_cut` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from extcon_cli.data import text, user
from extcon_cli.data.arrays import NUMBERS
from extcon_cli.data.batchwise import mask_tokens, mixup
from extcon_cli.data.labels import check_labels, check_mask
from extcon_cli.data.loader import InMemoryLoader, Loader, StreamingLoader
from extcon_cli.data.plan import Batch, Change
from extcon_cli.data.reading import Reading, Request
from extcon_cli.data.sources import find_source
from extcon_cli.data.splits import Arrays, Source, Split, Stream, held_out
from extcon_cli.data.transforms import JOINT, Views
from extcon_cli.data.trees import Tree, first_leaf, mapped
from extcon_cli.data.workers import Reader
from extcon_cli.errors import DataError, RecipeError
from extcon_cli.processes import WHOLE, Share
from extcon_cli.recipe.schema import AugmentSpec, DataSpec, NormalizeSpec

VALIDATION_SEED = 20_140_717
STATISTICS_SAMPLES = 1000
"""Samples of a streamed set that mean and standard deviation are taken from."""
CHECKS = {"classification": check_labels, "segmentation": check_mask}
"""What refuses targets that no output stands for, by task."""
TRIED = 64
"""Samples of each streamed split that are read before a run begins."""


@dataclass(frozen=True)
class Data:
    """Everything a run knows about its data."""

    spec: DataSpec
    task: str
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
    test_is_cut: bool = False
    """The test split was cut at random from data without one: a model may have been trained on its rows."""
    scaled: bool = True
    """May inputs be normalised? Detectors do it themselves."""

    def train_loader(
        self, *, device: torch.device | str, seed: int, batch_size: int | None = None, share: Share = WHOLE
    ) -> Loader:
        """Shuffled and augmented batches of the training split, a function of (seed, step); of each, this share."""
        size = batch_size or self.spec.batch_size
        return self._loader(self.train, size, device=device, seed=seed, shuffle=True, share=share)

    def eval_loader(self, split: str = "test", *, device: torch.device | str, batch_size: int | None = None) -> Loader:
        """All samples of `train`, `validation` or `test`, in order, as they are."""
        size = batch_size or self.spec.eval_batch_size
        return self._loader(self.split(split), size, device=device, seed=0, shuffle=False)

    def measured(self) -> Data:
        """With the normalisation measured, where the data are images and none is known."""
        known = self.normalize if self.normalize or not self.scaled else _statistics(self.train, self.reader)
        return replace(self, normalize=known)

    def tried(self) -> Data:
        """DataError where a sample cannot be read, out of some that are read of each split that is not in memory."""
        for split in (self.train, self.validation, self.test):
            if isinstance(split, Stream) and self.reader is not None and len(split):
                chosen = torch.linspace(0, len(split) - 1, min(len(split), TRIED)).long()
                _head(split.select(chosen), TRIED, self.reader)
        return self

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
        share: Share = WHOLE,
    ) -> Loader:
        drawn = self.spec.augment if shuffle and self.task not in JOINT else None
        check = CHECKS.get(self.task)
        check = check and partial(check, classes=self.classes)
        if isinstance(split, Arrays):
            if check is not None:
                check(split.y)
            return InMemoryLoader(
                split.x,
                split.y,
                batch_size,
                device=device,
                augment=drawn,
                normalize=self.normalize,
                seed=seed,
                shuffle=shuffle,
                change=self._change(shuffle),
                share=share,
            )
        return StreamingLoader(
            split,
            batch_size,
            reader=reader or self.reader,
            device=device,
            augment=drawn,
            normalize=self.normalize,
            seed=seed,
            shuffle=shuffle,
            change=self._change(shuffle),
            check=check,
            share=share,
        )

    def _change(self, training: bool) -> Change | None:
        """What is done to whole batches: masks, also where a model is measured; mixup where it learns."""
        if self.task == "masked_lm":
            tokenizer = text.tokenizer_of(self.spec)
            assert tokenizer.mask is not None, "the reader of text has refused a tokenizer without"
            return partial(mask_tokens, share=self.spec.mask_share, mask=tokenizer.mask, vocabulary=tokenizer.size)
        if not training or not self.spec.augment.mixup:
            return None
        if self.task != "classification" or self.classes is None:
            raise DataError("data.augment.mixup needs a classification whose number of classes is known")
        return partial(mixup, classes=self.classes, alpha=self.spec.augment.mixup)


def open_data(
    spec: DataSpec | None,
    task: str,
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
    source = find_source(spec, task, trust_code=trust_code)
    if source.pictures and task != "detection" and (input_shape is None or len(input_shape) != 3):
        raise DataError(f"`model.input_shape` is missing: {spec.dataset} needs [channels, height, width] to resize to")
    source = replace(
        source,
        train=_shaped(source.train, input_shape),
        test=_shaped(source.test, input_shape),
        validation=_shaped(source.validation, input_shape) if source.validation is not None else None,
    )
    validation = source.validation
    train = source.train.select(torch.arange(len(source.train))[: spec.limit])
    if validation is None:
        stays, aside = held_out(len(source.train), spec.validation, seed=VALIDATION_SEED)
        train, validation = source.train.select(stays[: spec.limit]), source.train.select(aside)
    for name, part in (("training", train), ("test", source.test)):
        if not len(part):
            raise DataError(f"{spec.dataset}: the {name} data hold no samples")
    views = None
    if source.pictures:
        views = Views(task, input_shape or (3,), spec.augment, spec.resize)
    elif any(_for_pictures(spec.augment)):
        raise DataError(
            f"{spec.dataset}: data.augment.{_for_pictures(spec.augment)[0]} is for pictures read from files"
        )
    reader, notes = _reader(spec, task, (train, validation, source.test), views)
    first = first_leaf(_head(train, 1, reader))
    shape = tuple(first.shape[1:])
    if input_shape is not None and shape != tuple(input_shape) and not (views and task == "detection"):
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
        notes=notes,
        test_is_cut=source.test_is_cut,
        scaled=source.normalize,
    )
    return data.measured() if measure else data


def _for_pictures(augment: AugmentSpec) -> list[str]:
    """What is asked for that acts on one picture at a time."""
    return [name for name in ("random_resized_crop", "policy", "erasing") if getattr(augment, name)]


def _shaped(split: Split, wanted: tuple[int, ...] | None) -> Split:
    """Images as (N, C, H, W); anything as the model takes it, where reordering or one more axis does."""
    if not isinstance(split, Arrays) or not isinstance(split.x, Tensor):
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


def _classes(source: Source, task: str) -> int | None:
    if source.class_names:
        return len(source.class_names)
    if task != "classification":
        return source.classes
    found = [split for split in (source.train, source.test, source.validation) if isinstance(split, Arrays)]
    return max(int(split.y.max()) for split in found if len(split)) + 1 if found else source.classes


def _reader(
    spec: DataSpec, task: str, splits: tuple[Split, ...], views: Views | None
) -> tuple[Reader | None, tuple[str, ...]]:
    """What reads the splits that do not lie in memory (None: all do), and what the user should know of it."""
    found = {id(split.dataset): split.dataset for split in splits if isinstance(split, Stream)}
    if not found:
        return None, ()
    datasets = tuple(found.values())
    reading = Reading(
        datasets,
        name=spec.dataset,
        numbers=task in NUMBERS,
        views=views,
        ragged=task == "detection",
        skip=spec.unreadable == "skip",
    )
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
    read = [found.x for found in here.read(requests)]
    if isinstance(read[0], list):  # samples of several sizes
        return read[0][0][None]
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

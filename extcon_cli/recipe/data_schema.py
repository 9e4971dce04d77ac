"""The section `data` of a recipe: where samples come from, and what is done to them. It opens nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from extcon_cli.recipe.base import (
    Floats,
    Name,
    PositiveFloats,
    Section,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    ShareInside,
    ShareRange,
)


class AugmentSpec(Section):
    """Random changes of each training image."""

    crop_padding: NonNegativeInt = 0
    """Zero padding in pixels, out of which a random crop of the old size is cut. 0: none."""

    flip: bool = False
    """Mirror left and right, each image with probability 1/2."""

    random_resized_crop: ShareRange | None = None
    """Smallest and largest share of a picture's area that is cut out and resized to the input, such as [0.08, 1.0].
    null: pictures are resized and cropped as for measuring. (pictures read from files)"""

    policy: Literal["rand_augment", "trivial_augment"] | None = None
    """Random changes of colour and geometry: RandAugment (two of magnitude 9) or TrivialAugment. (pictures read from
    files)"""

    erasing: Share = 0.0
    """Share of pictures in which a random rectangle is blanked. (pictures read from files)"""

    mixup: NonNegativeFloat = 0.0
    """Each image is mixed with another of its batch, and so are their labels; the share is drawn from Beta(mixup,
    mixup). 0: none. (classification)"""

    @model_validator(mode="after")
    def _range_rises(self) -> AugmentSpec:
        if self.random_resized_crop is not None and self.random_resized_crop[0] > self.random_resized_crop[1]:
            raise ValueError(f"`random_resized_crop` should rise, not be {list(self.random_resized_crop)}")
        return self


class ResizeSpec(Section):
    """How a picture of any size becomes an input, where nothing is random: resized, then its centre cropped."""

    crop: ShareAboveZero | None = None
    """Share of the shorter side that the crop keeps: 0.875 for 224 of 256 pixels. null: 0.875 from 128 pixels on, 1
    below."""

    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How pixels in between are found."""


class NormalizeSpec(Section):
    """(x - mean) / std for each channel, on inputs scaled to 0..1."""

    mean: Floats
    """Mean of each channel, in units of the scaled input."""

    std: PositiveFloats
    """Standard deviation of each channel, in units of the scaled input."""

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> NormalizeSpec:
        if len(self.mean) != len(self.std):
            raise ValueError(f"`mean` has {len(self.mean)} entries, `std` has {len(self.std)}: give one per channel")
        return self


class DataSpec(Section):
    """What the model learns from and is measured on."""

    dataset: Name
    """`digits`, `eggholder`, a torchvision name such as `cifar10`, `image_folder`, `segmentation_folder`, `coco`,
    `arrays` (.npz, .safetensors), `csv`, `text` (.txt, .jsonl), `saved` (a folder of `datasets`),
    `ultralytics` (what it reads, for its checkpoints), or `file.py:function`. A `file.py` stands beside the recipe."""

    root: Name | None = None
    """The data's folder or file; `~` is the home folder. null: the data need none."""

    batch_size: PositiveInt = 128
    """Samples in a training step."""

    eval_batch_size: PositiveInt = 512
    """Samples in a batch where nothing is learnt."""

    validation: ShareBelowOne = 0.1
    """Share of the training data that is set aside to select on; never trained on."""

    augment: AugmentSpec = AugmentSpec()
    """Random changes of each training image."""

    normalize: NormalizeSpec | None = None
    """Shift and scale of each channel. null: as the checkpoint says, else none."""

    resize: ResizeSpec | None = None
    """How pictures read from files become inputs. null: as torchvision's weights or timm's configuration of the
    architecture do, where the input has their size; else by the defaults."""

    unreadable: Literal["refuse", "skip"] = "refuse"
    """What to do with samples that cannot be read: end with their name, or leave them out and say so."""

    tokenizer: Name | None = None
    """Folder of the tokenizer of text, as transformers saves it. null: each byte is a token."""

    block_size: PositiveInt = 128
    """Tokens in one sample of text."""

    mask_share: ShareInside = 0.15
    """Share of the tokens that are to be guessed (masked_lm)."""

    workers: NonNegativeInt = 2
    """Processes that read data which do not fit in memory."""

    download: bool = False
    """Fetch a torchvision dataset that is not under `root` yet."""

    limit: PositiveInt | None = None
    """Use only so many of the first training samples, for quick trials. null: all."""

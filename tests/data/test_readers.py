"""Text, masks, boxes and saved folders: what comes out, as the tasks take it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from extcon_cli.data.datasets import Data, open_data
from extcon_cli.data.kinds import kind
from extcon_cli.errors import DataError, UsageError
from extcon_cli.recipe.schema import DataSpec


def opened(root: Path, dataset: str, task: str, shape: tuple[int, ...] | None = None, **others: Any) -> Data:
    given = {"workers": 0, "validation": 0.0, "batch_size": 4, **others}
    return open_data(DataSpec(dataset=dataset, root=str(root), **given), task, input_shape=shape)


def refused(root: Path, dataset: str, task: str, shape: tuple[int, ...] | None = None, **others: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(root, dataset, task, shape, **others).tried()
    assert "\n" not in str(error.value)
    return str(error.value)


def batch(data: Data, split: str = "test") -> tuple[Any, Any]:
    return next(iter(data.eval_loader(split, device="cpu")))


def test_text_is_bytes_in_blocks_and_its_own_target(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("abcdefgh" * 8)
    (tmp_path / "test.txt").write_text("ABCDEFGH" * 4)
    data = opened(tmp_path, "text", "causal_lm", block_size=8)
    x, y = batch(data)
    assert x.dtype == torch.int64
    assert torch.equal(x, torch.tensor(list(b"ABCDEFGH")).repeat(4, 1))
    assert torch.equal(x, y)  # not shifted
    assert data.normalize is None
    assert not data.test_is_cut
    assert (kind(str(tmp_path)).dataset, kind(str(tmp_path)).task) == ("text", "causal_lm")


def test_masks_are_drawn_by_seed_and_step_alone(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("the quick brown fox " * 400)
    data = opened(tmp_path / "train.txt", "text", "masked_lm", block_size=16, batch_size=32, mask_share=0.3)
    first, second = (data.train_loader(device="cpu", seed=1) for _ in range(2))
    whole, (x, y) = {tuple(row) for row in data.train.x.tolist()}, first.batch(3)
    assert torch.equal(second.batch(3)[0], x)
    assert not torch.equal(first.batch(4)[1], y)
    asked = y != -100
    assert 0.2 < float(asked.float().mean()) < 0.4
    assert 0.7 < float((x[asked] == 256).float().mean()) < 0.9
    assert {tuple(row) for row in torch.where(asked, y, x).tolist()} <= whole  # with the answers it is the text
    assert torch.equal(batch(data)[1], batch(data)[1])


def test_lines_with_labels_are_classes(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"{'good' if i % 2 else 'bad'} {i}", "label": "no" if i % 2 else "yes"}) for i in range(20)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    data = opened(tmp_path, "text", "classification", block_size=6)
    x, y = batch(data)
    assert data.class_names == ("no", "yes")
    assert x.shape[1:] == (6,)
    assert all(bytes(row[:3].tolist()) == (b"bad" if label else b"goo") for row, label in zip(x, y, strict=True))
    assert data.test_is_cut
    assert kind(str(tmp_path / "t.jsonl")).task == "classification"


def test_a_tokenizer_of_transformers_gives_inputs_by_name(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[MASK]", "the", "fox", "runs"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    made.save_pretrained(tmp_path / "words")
    (tmp_path / "t.txt").write_text("the fox runs " * 20)
    spec = {"tokenizer": str(tmp_path / "words"), "block_size": 6}
    x, y = batch(opened(tmp_path / "t.txt", "text", "causal_lm", **spec))
    assert x["input_ids"][0].tolist() == [3, 4, 5, 3, 4, 5]
    assert torch.equal(x["input_ids"], y)
    x, y = batch(opened(tmp_path / "t.txt", "text", "masked_lm", **spec))
    assert set(x["input_ids"][y != -100].tolist()) <= {0, 1, 2, 3, 4, 5}
    assert "no tokenizer that can be read" in refused(tmp_path / "t.txt", "text", "causal_lm", tokenizer=str(tmp_path))


def test_what_is_wrong_with_text_is_said(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("short")
    assert "holds 6 tokens; two blocks of 128" in refused(text, "text", "causal_lm")
    assert "has no labels" in refused(text, "text", "classification")
    assert "not for the task regression" in refused(text, "text", "regression")
    assert "no such folder (data.tokenizer)" in refused(text, "text", "causal_lm", tokenizer="~/nowhere/at/all")
    text.write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in refused(text, "text", "causal_lm")
    for line, says in (("{", ":2: is not JSON"), ('{"words": 1}', ':2: should be an object with a "text"')):
        (tmp_path / "t.jsonl").write_text('{"text": "a"}\n' + line)
        assert says in refused(tmp_path / "t.jsonl", "text", "causal_lm")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Pictures whose left part is of class 1, with one column that does not count."""
    for split, number in (("train", 6), ("val", 3), ("test", 3)):
        for i in range(number):
            for name in ("images", "masks"):
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            mask = np.zeros((16, 16), np.uint8)
            mask[:, :4] = 1
            mask[:, -1] = 255
            Image.fromarray(mask * 200).convert("RGB").save(tmp_path / split / "images" / f"{i}.jpg")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{i}.png")
    return tmp_path


def test_masks_follow_their_pictures(masks: Path) -> None:
    data = opened(masks, "segmentation_folder", "segmentation", (3, 16, 16), augment={"flip": True})
    assert [len(split) for split in (data.train, data.validation, data.test)] == [6, 3, 3]
    x, y = batch(data)
    assert (x.dtype, y.dtype, tuple(y.shape)) == (torch.float32, torch.int64, (3, 16, 16))
    assert torch.equal(y[0, 0], torch.tensor([1] * 4 + [0] * 11 + [255]))
    flips = set()
    for step in range(8):
        x, y = data.train_loader(device="cpu", seed=0).batch(step)
        bright = x[:, 0, :, 1:-1] > 0.0
        assert torch.equal(bright[:, :, [1, 12]], (y[:, :, 1:-1] == 1)[:, :, [1, 12]])
        flips |= {bool(row[0, 1] == 1) for row in y}
    assert flips == {True, False}
    assert kind(str(masks)).dataset == "segmentation_folder"


def test_what_is_wrong_with_masks_is_said(masks: Path) -> None:
    shape = (3, 16, 16)
    assert "set `task: segmentation`" in refused(masks, "segmentation_folder", "classification", shape)
    crop = {"policy": "rand_augment"}
    assert "data.augment.policy is not for" in refused(
        masks, "segmentation_folder", "segmentation", shape, augment=crop
    )
    data = replace(opened(masks, "segmentation_folder", "segmentation", shape), classes=1)
    with pytest.raises(DataError, match=r"a mask holds 0 or 1; classes should run \(but for 255\) from 0 to 0"):
        batch(data)
    Image.new("L", (5, 5)).save(masks / "test" / "masks" / "0.png")
    assert "its mask is 5 x 5, the picture 16 x 16" in refused(masks, "segmentation_folder", "segmentation", shape)
    Image.new("RGB", (16, 16)).save(masks / "test" / "masks" / "0.png")
    assert "has the mode RGB" in refused(masks, "segmentation_folder", "segmentation", shape)
    (masks / "val" / "masks" / "1.png").unlink()
    assert "has no mask 1.png" in refused(masks, "segmentation_folder", "segmentation", shape)


def annotated(folder: Path, *, box: object = (2, 3, 4, 5), label: object = 1, **more: object) -> None:
    """Two pictures of different sizes, the second without a box."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}]
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    Image.new("RGB", (8, 30)).save(folder / "b.png")
    boxes = [{"image_id": 7, "bbox": box, "category_id": label}]
    found = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}, {"id": 3}], **more}
    (folder / "boxes.json").write_text(json.dumps(found))


def test_boxes_come_as_detectors_take_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        annotated(tmp_path / split)
    data = opened(tmp_path, "coco", "detection", (3, 64, 64), batch_size=2, augment={"flip": True})
    x, y = batch(data)
    assert [tuple(picture.shape) for picture in x] == [(3, 10, 20), (3, 30, 8)]
    assert all(picture.dtype == torch.float32 for picture in x)
    assert torch.equal(y[0]["boxes"], torch.tensor([[2.0, 3.0, 6.0, 8.0]]))
    assert y[0]["labels"].tolist() == [1]
    assert y[1]["boxes"].shape == (0, 4)
    assert data.classes == 4  # numbers run to 3, 0 is the background
    assert data.normalize is None
    found = {
        tuple(t["boxes"][0].tolist())
        for s in range(8)
        for t in data.train_loader(device="cpu", seed=0).batch(s)[1]
        if len(t["boxes"])
    }
    assert found == {(2.0, 3.0, 6.0, 8.0), (14.0, 3.0, 18.0, 8.0)}
    assert (kind(str(tmp_path)).dataset, kind(str(tmp_path)).task) == ("coco", "detection")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": 0}, "has the category 0; they are numbered from 1"),
        ({"box": [1, 2, 3]}, "is not in the format of COCO"),
        ({"box": [1, 2, 3, 1e999]}, "is not finite"),
        ({"images": []}, "is not in the format of COCO (KeyError"),
        ({"categories": []}, "is not in the format of COCO"),
        ({"annotations": [], "images": []}, "names no images"),
        ({"images": [{"id": 7, "file_name": "gone.png"}]}, "its picture gone.png lies in none of"),
    ],
)
def test_what_is_wrong_with_boxes_is_said(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    for split in ("train", "val"):
        annotated(tmp_path / split, **change)
    assert says in refused(tmp_path, "coco", "detection", (3, 8, 8))


def test_folders_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts = datasets.Dataset.from_dict({"text": [f"line {i}" for i in range(12)], "label": [i % 2 for i in range(12)]})
    datasets.DatasetDict(train=texts, validation=texts, test=texts).save_to_disk(str(tmp_path / "texts"))
    data = opened(tmp_path / "texts", "saved", "classification", block_size=8)
    assert (len(data.validation), len(data.test), data.classes) == (12, 12, 2)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    rows = {
        "image": [Image.new("RGB", (9, 9), (250 * (i % 2),) * 3) for i in range(10)],
        "label": [i % 2 for i in range(10)],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "pictures"))
    data = opened(tmp_path / "pictures", "saved", "classification", (3, 8, 8))
    x, y = batch(data)
    assert data.class_names == ("dark", "light")
    assert torch.equal((x.mean((1, 2, 3)) > 0).long(), y)
    assert data.test_is_cut
    assert "no folder of `datasets`" in refused(tmp_path, "saved", "classification")


def test_tokenizers_and_saved_folders_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"extcon\[hf\]"):
        opened(tmp_path, "saved", "classification")

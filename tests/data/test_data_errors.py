"""Bad data: one clear line each, that names the place and the fix."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from extcon_cli.data.datasets import open_data
from extcon_cli.data.kinds import kind
from extcon_cli.errors import DataError, ExtconError, RecipeError, UsageError
from extcon_cli.recipe.schema import DataSpec, NormalizeSpec

X, Y = np.zeros((8, 3), np.float32), np.arange(8) % 4
IMAGES = np.zeros((8, 5, 5), np.uint8)


def refused(spec: DataSpec, task: str = "classification", **others) -> str:
    with pytest.raises(ExtconError) as error:
        open_data(spec, task, **others)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert isinstance(error.value, DataError)
    assert error.value.exit_code == 3
    return str(error.value)


def changed(array: np.ndarray, place: object, value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "should hold x_train"),
        ({"x": X, "y": Y[:5]}, "8 inputs, but 5 targets"),
        ({"x": X[:0], "y": Y[:0]}, "no samples"),
        ({"x": changed(X, (2, 1), np.nan), "y": Y}, "sample 2 holds NaN"),
        ({"x": X, "y": Y - 1}, "a label is -1"),
        ({"x": X, "y": Y + 0.5}, "not whole numbers"),
        ({"x": X, "y": np.eye(8)}, "one class number for each sample"),
        ({"x": X[:, 0], "y": Y}, "at least two dimensions"),
        ({"x": IMAGES[:, :0], "y": Y}, "an input without numbers"),
        ({"x": X, "y": np.int64(3)}, "8 inputs, but 1 targets"),
        ({"x": np.float32(3), "y": Y}, "at least two dimensions"),
        ({"x": X, "y": Y.astype(np.uint64) + 2**63}, "too large for a whole number"),
        ({"x": X, "y": Y.astype("datetime64[s]")}, "not numbers"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": np.int64(1)}, "test: 8 inputs, but 1 targets"),
        ({"x": X.astype(complex), "y": Y}, "not numbers"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, "they should agree"),
        ({"x_train": X, "y_train": Y, "x_test": X[:3], "y_test": Y}, "test: 3 inputs"),
    ],
)
def test_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    assert message in refused(DataSpec(dataset="arrays", root=str(tmp_path)))


def test_targets_that_are_not_finite(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=changed(Y.astype(float), 3, np.inf))
    assert "targets hold NaN" in refused(DataSpec(dataset="arrays", root=str(tmp_path)), "regression")


def test_shape_against_the_model(tmp_path):
    np.savez(tmp_path / "d.npz", x=IMAGES, y=Y)
    spec = DataSpec(dataset="arrays", root=str(tmp_path))
    message = refused(spec, input_shape=(3, 5, 5))
    assert "an input is [5, 5], the model takes [3, 5, 5]" in message


def test_normalisation_of_other_channels():
    spec = DataSpec(dataset="digits", normalize=NormalizeSpec(mean=(0.5,) * 3, std=(1.0,) * 3))
    assert "has 3 channels, the data have 1" in refused(spec)


def test_unknown_name_suggests_the_nearest():
    assert "did you mean 'digits'" in refused(DataSpec(dataset="digit"))
    assert "set data.dataset to arrays" in refused(DataSpec(dataset="mine.npz"))


def test_root_missing_or_elsewhere(tmp_path):
    for dataset in ("arrays", "csv", "image_folder"):
        assert "`data.root` is missing" in refused(DataSpec(dataset=dataset), input_shape=(3, 8, 8))
        where = str(tmp_path / "nowhere")
        assert "nowhere" in refused(DataSpec(dataset=dataset, root=where), input_shape=(3, 8, 8))


def test_torchvision_set_that_is_not_there(tmp_path):
    message = refused(DataSpec(dataset="cifar10", root=str(tmp_path)))
    assert str(tmp_path) in message
    assert "data.download: true" in message


def test_two_files_in_the_folder(tmp_path):
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, x=X, y=Y)
    assert "holds a.npz, b.npz; name it" in refused(DataSpec(dataset="arrays", root=str(tmp_path)))


@pytest.mark.parametrize("name", ["d.npz", "d.safetensors"])
def test_files_that_are_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 not an archive" * 9)
    assert "cannot be read" in refused(DataSpec(dataset="arrays", root=str(tmp_path)))


def test_labels_of_safetensors_that_are_one_number(tmp_path):
    save_file({"x": torch.zeros(8, 3), "y": torch.tensor(3)}, tmp_path / "d.safetensors")
    assert "the targets are a single value" in refused(DataSpec(dataset="arrays", root=str(tmp_path)))


def test_pickles_in_npz_are_not_opened(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"code": 1}] * 3, dtype=object), y=Y[:3])
    assert "cannot be read" in refused(DataSpec(dataset="arrays", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should hold a header"),
        ("a,b\n1,2\n", "should hold a header"),
        ("a,b\n1,2\n1\n", ":3: has 1 columns, the header has 2"),
        ("a,b\n1,0\nred,1\n2,0\n", ":3: column 'a' holds 'red'"),
        ("a,b\n1,0\nnan,1\n2,0\n3,1\n4,0\n", "holds NaN"),
        ("a,b\n1,0\n1e39,1\n2,0\n3,1\n4,0\n", "holds NaN or infinity"),
        ("a,b\n1,1\n2,123456789012345678901234567890\n", "too large for a class number"),
        ("a,b\n1,-1\n2,1\n", "a label is -1"),
        ("a,b\n1\x00,1\n2,1\n", "mine.csv"),
        ("a,b\n" + "1" * 200_000 + ",1\n2,1\n", "cannot be read as CSV: field larger than"),
    ],
)
def test_csv(tmp_path, text, message):
    (tmp_path / "mine.csv").write_text(text)
    assert message in refused(DataSpec(dataset="csv", root=str(tmp_path)))


def test_image_folder_without_its_folders(tmp_path):
    spec = DataSpec(dataset="image_folder", root=str(tmp_path))
    assert "should hold train/ and test/" in refused(spec, input_shape=(3, 8, 8))
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    assert "train: should hold train/ and test/" in refused(spec, input_shape=(3, 8, 8))
    for part in ("train", "val"):
        (tmp_path / part / "cats").mkdir()
    assert "cats: holds no picture (.jpg" in refused(spec, input_shape=(3, 8, 8))
    for part in ("train", "val"):
        Image.new("L", (9, 9)).save(tmp_path / part / "cats" / "a.png")
    assert "`model.input_shape` is missing" in refused(spec)


def test_eggholder_is_no_classification():
    assert "task: regression" in refused(DataSpec(dataset="eggholder"))


def test_code_runs_only_when_trusted(tmp_path):
    trace = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(trace)!r}, 'w')\ndef data(): return 3\n")
    spec = DataSpec(dataset=f"{tmp_path}/mine.py:data")
    with pytest.raises(UsageError, match="pass --trust-code"):
        open_data(spec, "classification")
    assert not trace.exists()
    assert "should return (train, test)" in refused(spec, trust_code=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("def other(): pass", "has no function 'data'"), ("def data(): 1 / 0", "ZeroDivisionError"), ("(", "SyntaxError")],
)
def test_code_that_fails(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    assert message in refused(DataSpec(dataset=f"{tmp_path}/mine.py:data"), trust_code=True)


def test_code_that_is_not_there():
    assert "no such file" in refused(DataSpec(dataset="nowhere/mine.py:data"), trust_code=True)


def test_no_data_section():
    with pytest.raises(RecipeError, match="no section `data`"):
        open_data(None, "classification")


def test_empty_split_of_a_recipe(tmp_path):
    data = open_data(DataSpec(dataset="digits", validation=0.0), "classification")
    with pytest.raises(DataError, match="validation split"):
        data.eval_loader("validation", device="cpu")


def test_bundled_digits_are_small():
    import extcon_cli.data

    assert (Path(extcon_cli.data.__file__).parent / "digits.npz").stat().st_size < 200_000


def test_a_superscript_is_a_word_and_no_number(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,\u00b2\n2,1\n3,1\n4,1\n5,1\n")
    data = open_data(DataSpec(dataset="csv", root=str(tmp_path)), "classification")
    assert data.class_names == ("1", "\u00b2")


@pytest.mark.parametrize("at", [0, 60, 100, 300])
def test_a_damaged_archive(tmp_path, at):
    np.savez_compressed(tmp_path / "d.npz", x=np.random.default_rng(0).random((40, 3)), y=np.arange(40) % 4)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[at] ^= 0xFF
    (tmp_path / "d.npz").write_bytes(bytes(content))
    assert "d.npz" in refused(DataSpec(dataset="arrays", root=str(tmp_path)))


def test_an_archive_that_would_fill_the_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((4, 2**22), np.uint8), y=np.arange(4))
    assert (tmp_path / "d.npz").stat().st_size < 2**17
    monkeypatch.setenv("EXTCON_MAX_MEMORY", str(2**20))
    assert "its arrays would take 16.8 MB of memory; the limit is 1.05 MB (--max-memory raises it)" in refused(
        DataSpec(dataset="arrays", root=str(tmp_path))
    )


def test_a_header_that_says_more_than_there_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 9)})
    assert "says it holds 39582418599936 bytes" in refused(DataSpec(dataset="arrays", root=str(tmp_path)))


def test_a_home_that_nobody_has(tmp_path):
    for dataset in ("arrays", "csv", "text", "image_folder", "coco", "segmentation_folder", "saved", "mnist"):
        task = {"coco": "detection", "segmentation_folder": "segmentation", "text": "causal_lm"}.get(dataset)
        spec = DataSpec(dataset=dataset, root="~nosuch/data")
        message = refused(spec, task or "classification", input_shape=(3, 8, 8))
        assert message == "~nosuch/data: there is no such home folder"
    with pytest.raises(DataError, match="there is no such home folder"):
        kind("~nosuch/data")


@pytest.fixture
def pictures(tmp_path):
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(5):
                pixels = np.random.default_rng(i).integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{i}.jpg")
    return tmp_path


def tried(folder, **others):
    spec = DataSpec(dataset="image_folder", root=str(folder), workers=0, validation=0.0, **others)
    return open_data(spec, "classification", input_shape=(3, 8, 8)).tried()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read: cannot identify image file"),
        (b"GIF89a no picture", "cannot be read: "),
        ("cut", "cannot be read: "),
        ("huge", "cannot be read: too large: Image size (400000000 pixels) exceeds limit"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named_before_anything_begins(pictures, content, says):
    bad = pictures / "test" / "b" / "3.jpg"
    whole = bad.read_bytes()
    bad.write_bytes({"cut": whole[: len(whole) // 2], "huge": huge_png()}.get(content, content))
    with pytest.raises(DataError) as error:
        tried(pictures)
    assert str(error.value).startswith(f"{bad}: {says}")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_picture_that_is_a_pipe_is_not_waited_for(pictures):
    bad = pictures / "test" / "b" / "3.jpg"
    bad.unlink()
    os.mkfifo(bad)
    with pytest.raises(DataError, match=r"3\.jpg: cannot be read: not a regular file"):
        tried(pictures)


def huge_png():
    """The head of a picture of 20,000 x 20,000 pixels."""
    head = b"IHDR" + (20000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    chunks = (13).to_bytes(4, "big") + head + zlib.crc32(head).to_bytes(4, "big") + (9).to_bytes(4, "big") + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_pictures_are_skipped_only_where_the_recipe_says_so(pictures):
    (pictures / "test" / "b" / "3.jpg").write_bytes(b"")
    data = tried(pictures, unreadable="skip")
    said = []
    data.reader.on_skip = said.append
    for _ in range(2):
        labels = torch.cat([y for _, y in data.eval_loader("test", device="cpu", batch_size=4)])
        assert labels.tolist() == [0] * 5 + [1] * 4
    assert len(said) <= 1  # each is said once; here it was said when the pictures were tried
    (pictures / "test" / "b" / "4.jpg").write_bytes(b"")
    for i in range(3):
        (pictures / "test" / "b" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no sample of a batch can be read; the first: "):
        list(data.eval_loader("test", device="cpu", batch_size=5))


def test_a_folder_that_leads_back_to_itself(pictures):
    (pictures / "train" / "a" / "again").symlink_to(pictures / "train")
    with pytest.raises(DataError, match=r"again/a: a link on the way leads back to .*a, which holds it; remove it"):
        tried(pictures)
    (pictures / "train" / "a" / "again").unlink()
    (pictures / "train" / "a" / "loop").symlink_to("loop")
    assert len(tried(pictures).train) == 10  # a link to itself is no file

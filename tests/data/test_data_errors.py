"""Bad data: one clear line each, that names the place and the fix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extcon_cli.data.datasets import open_data
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
    ],
)
def test_csv(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
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

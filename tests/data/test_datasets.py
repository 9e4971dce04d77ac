"""Every dataset by name: what comes out, and that no split ever meets another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from extcon_cli.data.datasets import Data, open_data
from extcon_cli.data.splits import Arrays, Stream
from extcon_cli.recipe.schema import DataSpec, NormalizeSpec


def rows(data: Data, split: str) -> set[bytes]:
    part = data.split(split)
    assert isinstance(part, Arrays)
    return {row.numpy().tobytes() for row in part.x}


def numbered(tmp_path, n=50, **others) -> Data:
    """Samples that tell their own number."""
    x = np.arange(n, dtype=np.float32)[:, None].repeat(2, 1)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(n) % 5)
    return open_data(DataSpec(dataset="arrays", root=str(tmp_path), **others), "classification")


def test_digits():
    data = open_data(DataSpec(dataset="digits"), "classification", input_shape=(1, 8, 8))
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)
    assert data.classes == 10
    assert data.input_shape == (1, 8, 8)
    x = torch.cat([x for x, _ in data.eval_loader("train", device="cpu")])
    assert abs(float(x.mean())) < 1e-4
    assert abs(float(x.std()) - 1) < 1e-3
    assert data.normalize is not None  # measured, and told, so that it can go into a checkpoint


def test_eggholder_is_the_papers_formula():
    data = open_data(DataSpec(dataset="eggholder", validation=0.0), "regression")
    assert len(data.train) == 100
    assert isinstance(data.train, Arrays)
    assert data.train.y.shape == (100, 1)
    assert data.train.x.abs().max() <= 250
    for (a, b), value in zip(data.train.x.double().tolist(), data.train.y[:, 0].tolist(), strict=True):
        expected = -a * math.sin(math.sqrt(abs(a - b + 47)))
        expected += (-b + 47) * math.sin(math.sqrt(abs(b + a / 2 + 47)))
        assert value == pytest.approx(expected, abs=1e-2)


def test_splits_are_disjoint_and_complete(tmp_path):
    data = numbered(tmp_path)
    train, validation, test = (rows(data, name) for name in ("train", "validation", "test"))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(train | validation | test) == 50


def test_validation_is_the_same_for_every_seed_and_limit(tmp_path):
    numbered(tmp_path)
    spec = DataSpec(dataset="arrays", root=str(tmp_path))
    whole = open_data(spec, "classification", seed=0)
    for seed, limit in ((1, None), (2, 7)):
        other = open_data(spec.model_copy(update={"limit": limit}), "classification", seed=seed)
        assert rows(other, "validation") == rows(whole, "validation")
        assert rows(other, "test") == rows(whole, "test")
        assert rows(other, "train") <= rows(whole, "train")
    assert len(other.train) == 7


def test_no_validation_where_none_is_wanted(tmp_path):
    data = numbered(tmp_path, validation=0.0)
    assert len(data.validation) == 0
    assert len(data.train) == 40


@pytest.mark.parametrize("shape", [(20, 6, 5), (20, 1, 6, 5), (20, 6, 5, 1)])
@pytest.mark.parametrize("given", [None, (1, 6, 5)])
def test_images_in_every_layout_come_out_with_channels_first(tmp_path, shape, given):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=images.reshape(shape), y=np.zeros(20, int))
    spec = DataSpec(dataset="arrays", root=str(tmp_path / "d.npz"), normalize=NormalizeSpec(mean=(0.0,), std=(1.0,)))
    data = open_data(spec, "classification", input_shape=given)
    assert data.input_shape == (1, 6, 5)
    assert {row.tobytes() for row in images} == rows(data, "train") | rows(data, "validation") | rows(data, "test")


def test_images_are_flattened_for_a_model_that_takes_rows(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8), y=[0] * 20)
    spec = DataSpec(dataset="arrays", root=str(tmp_path))
    data = open_data(spec, "classification", input_shape=(30,))
    x, _ = data.train_loader(device="cpu", seed=0).batch(0)
    assert x.shape[1:] == (30,)
    assert abs(float(x.mean())) < 0.1


def test_normalisation_is_measured_on_the_training_split_alone(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=[0] * 60)
    data = open_data(DataSpec(dataset="arrays", root=str(tmp_path)), "classification")
    assert isinstance(data.train, Arrays)
    scaled = data.train.x.double() / 255
    assert data.normalize is not None
    assert data.normalize.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.normalize.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-6)


def test_safetensors_with_its_own_split(tmp_path):
    x = torch.randn(10, 3)
    save_file(
        {"x_train": x, "y_train": torch.arange(10), "x_test": x + 1, "y_test": torch.arange(10)},
        tmp_path / "d.safetensors",
    )
    data = open_data(DataSpec(dataset="arrays", root=str(tmp_path), validation=0.0), "classification")
    assert isinstance(data.test, Arrays)
    assert torch.equal(data.test.x, x + 1)
    assert data.classes == 10
    assert data.normalize is None  # floats are taken as they are


def test_csv_target_by_name_or_last(tmp_path):
    for header, row in (("a,target,b", "1,{y},2"), ("a,b,label", "1,2,{y}")):
        (tmp_path / "t.csv").write_text(header + "\n" + "\n".join(row.format(y=i % 3) for i in range(30)) + "\n")
        data = open_data(DataSpec(dataset="csv", root=str(tmp_path / "t.csv")), "classification")
        assert data.classes == 3
        assert isinstance(data.train, Arrays)
        assert torch.equal(data.train.x.unique(dim=0), torch.tensor([[1.0, 2.0]]))


def test_csv_with_words_for_classes(tmp_path):
    lines = [f"{i},{'cat' if i % 2 else 'ant'}" for i in range(20)]
    (tmp_path / "t.csv").write_text("a,label\n" + "\n".join(lines))
    data = open_data(DataSpec(dataset="csv", root=str(tmp_path)), "classification")
    assert data.class_names == ("ant", "cat")
    assert isinstance(data.train, Arrays)
    assert all(int(y) == int(x) % 2 for x, y in zip(data.train.x[:, 0], data.train.y, strict=True))


def test_csv_regression(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(f"{i},{i / 2}" for i in range(20)))
    data = open_data(DataSpec(dataset="csv", root=str(tmp_path)), "regression")
    assert isinstance(data.train, Arrays)
    assert torch.equal(data.train.y, data.train.x / 2)


def test_image_folder_streams(tmp_path):
    for split in ("train", "val"):
        for label, grey in (("dark", 10), ("light", 240)):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (12, 9 + i), (grey, grey, grey)).save(tmp_path / split / label / f"{i}.png")
    spec = DataSpec(dataset="image_folder", root=str(tmp_path), workers=0, validation=0.25, batch_size=3)
    data = open_data(spec, "classification", input_shape=(3, 8, 8))
    assert isinstance(data.train, Stream)
    assert data.class_names == ("dark", "light")
    x, y = data.train_loader(device="cpu", seed=0).batch(0)
    assert x.shape == (3, 3, 8, 8)
    assert torch.equal(y, (x.mean((1, 2, 3)) > 0).long())
    assert sum(len(labels) for _, labels in data.eval_loader("test", device="cpu")) == 8


def test_functions_of_the_user_give_datasets_or_arrays(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def sets():\n    x = torch.randn(20, 3)\n    return TensorDataset(x, torch.arange(20) % 2), Listed()\n"
        "class Listed(torch.utils.data.Dataset):\n    classes = ['no', 'yes']\n    def __len__(self): return 6\n"
        "    def __getitem__(self, i):\n        return torch.zeros(3), i % 2\n"
        "def named():\n    x = torch.randn(20, 3).numpy()\n    return {'x': x, 'y': [0, 1] * 10}\n"
    )
    for name, length in (("sets", 6), ("named", 4)):
        spec = DataSpec(dataset=f"{tmp_path}/mine.py:{name}", workers=0)
        data = open_data(spec, "classification", trust_code=True)
        assert len(data.test) == length
        x, y = next(iter(data.eval_loader("test", device="cpu")))
        assert x.shape == (length, 3)
        assert y.dtype == torch.int64


def test_torchvision_set_by_name(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    for part, count in (("train", 12), ("t10k", 6)):
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images[:count].tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], ">i4").tobytes() + labels)
    data = open_data(DataSpec(dataset="MNIST", root=str(tmp_path), validation=0.0), "classification")
    assert data.input_shape == (1, 28, 28)
    assert data.classes == 10
    assert isinstance(data.test, Arrays)
    assert np.array_equal(data.test.x[:, 0].numpy(), images[:6])

"""What `load` gave goes on without extcon: torch.save, pickle, torch.export, read where extcon cannot be imported."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import extcon_cli
from extcon_cli.channels import remove_zeros

OTHER = """
import pickle, sys
sys.modules["extcon_cli"] = None  # an import of it fails
import torch

folder, kind, form = sys.argv[1:]
x, y = torch.load(f"{folder}/{kind}.io")
if form == "torch":
    model = torch.load(f"{folder}/{kind}.pt", weights_only=False)
elif form == "pickle":
    model = pickle.load(open(f"{folder}/{kind}.pkl", "rb"))
else:
    model = torch.export.load(f"{folder}/{kind}.pt2").module()
with torch.no_grad():
    assert torch.allclose(model(x), y, rtol=1e-5, atol=1e-6)
"""
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(1, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.norm(self.a(x)).relu().mean((2, 3)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library's model, one of the user's own class, and that one with a narrow norm in it."""
    place = tmp_path_factory.mktemp("pickling")
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(num_classes=4).state_dict(), place / "library.pth")
    (place / "mynet.py").write_text(NET)
    sys.path.insert(0, str(place))
    try:
        from mynet import Net  # type: ignore[import-not-found]

        torch.save(Net().state_dict(), place / "own.pth")
        mine = extcon_cli.load(place / "own.pth", model=Net())
        with torch.no_grad():
            for part in (mine.a.weight, mine.a.bias, mine.norm.weight, mine.norm.bias):
                part[:3] = 0
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        narrow = remove_zeros(mine, (x,)).module
        assert type(narrow.get_submodule("norm")).__name__ == "NarrowGroupNorm"
        models = {"library": extcon_cli.load(place / "library.pth"), "own": mine, "narrow": narrow.eval()}
        for kind, model in models.items():
            write(place, kind, model, x)
    finally:
        sys.path.remove(str(place))
    return place


def write(place: Path, kind: str, model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.save((x, model(x)), place / f"{kind}.io")
    torch.save(model, place / f"{kind}.pt")
    (place / f"{kind}.pkl").write_bytes(pickle.dumps(model))
    torch.export.save(torch.export.export(model, (x,)), place / f"{kind}.pt2")


def elsewhere(place: Path, kind: str, form: str) -> subprocess.CompletedProcess[str]:
    (place / "other.py").write_text(OTHER)
    command = [sys.executable, "other.py", str(place), kind, form]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


WAYS = [("library", "torch"), ("library", "pickle"), ("own", "torch"), ("own", "export"), ("narrow", "export")]


@pytest.mark.parametrize(("kind", "form"), WAYS)
def test_it_is_read_without_extcon(folder: Path, kind: str, form: str) -> None:
    done = elsewhere(folder, kind, form)
    assert done.returncode == 0, done.stderr


def test_no_name_of_extcon_s_own_is_left_in_a_pickle(folder: Path) -> None:
    for kind in ("library", "own"):
        assert b"extcon" not in (folder / f"{kind}.pkl").read_bytes()


def test_a_narrow_module_is_the_one_exception(folder: Path) -> None:
    """Its class is extcon's: what is pickled whole needs extcon to be read. What is exported does not."""
    done = elsewhere(folder, "narrow", "torch")
    assert done.returncode != 0
    assert "extcon_cli" in done.stderr

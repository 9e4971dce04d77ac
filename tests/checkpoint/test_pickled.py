"""Whole pickled modules, and pickles of modules that extcon loaded: both live without the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, classes=3):
        super().__init__()
        self.width = width
        self.classes = classes
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.body(x)

class Closed(Net):
    def __init__(self, secret):
        super().__init__(secret + 1)

def make(width=8):
    return Net(width)
"""
SAVE = "import sys, torch, mynet; torch.save({}, 'model.pt')"
WITHOUT_EXTCON = """
import sys
sys.modules["extcon_cli"] = None  # importing it fails
import torch
model = torch.load("again.pt", weights_only=False)
torch.export.load("again.pt2").module()(torch.zeros(2, 4))
print(type(model).__module__, model(torch.zeros(2, 4)).shape[1])
"""


def python(folder: Path, program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def extcon(folder: Path, *args: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "extcon_cli", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mynet.py").write_text(NET)
    return tmp_path


def dead(place: Path, module: str) -> None:
    """Save a module whose first three units are dead."""
    zero = "m.body[0].weight.data[:3] = 0; m.body[0].bias.data[:3] = 0"
    python(place, f"import torch, mynet; m = mynet.{module}; {zero}; torch.save(m, 'model.pt')")


def test_a_pickled_module_keeps_its_class_and_what_is_written_loads(place: Path) -> None:
    dead(place, "Net(6, classes=5)")
    shape = ("--set", "model.input_shape=[4]")
    assert "--trust-pickle" in extcon(place, "prune", "model.pt", "--already-zero", *shape, code=3)
    extcon(place, "prune", "model.pt", "--already-zero", "--trust-pickle", *shape)
    program = (
        "import torch, extcon_cli; m = extcon_cli.load('model.pruned.safetensors', trust_code=True); "
        "o = torch.load('model.pt', weights_only=False); x = torch.randn(9, 4); "
        "print(type(m).__module__, m.body[0].out_features, (m(x) - o(x)).abs().max().item() < 1e-6)"
    )
    assert python(place, program).split() == ["mynet", "3", "True"]
    assert '"arch": "mynet:Net"' in extcon(place, "inspect", "model.pruned.safetensors", "--trust-code", "--json")
    assert "--trust-code" in extcon(place, "inspect", "model.pruned.safetensors", code=2)


def test_a_class_that_cannot_be_built_anew(place: Path) -> None:
    dead(place, "Closed(5)")
    said = extcon(place, "prune", "model.pt", "--already-zero", "--trust-pickle", "--set", "model.input_shape=[4]")
    assert "load(path, model=Closed(...))" in said
    program = (
        "import torch, extcon_cli, mynet; m = extcon_cli.load('model.pruned.safetensors', model=mynet.Closed(5)); "
        "print(m.body[0].out_features)"
    )
    assert python(place, program).split() == ["3"]


def test_what_a_class_prints_is_no_output_of_ours(place: Path) -> None:
    dead(place, "Net(8)")
    (place / "mynet.py").write_text(f"print('hello')\n{NET}")
    command = [sys.executable, "-m", "extcon_cli", "inspect", "model.pt", "--trust-pickle", "--json"]
    done = subprocess.run(
        [*command, "--set", "model.input_shape=[4]"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["command"] == "inspect"
    assert "hello" in done.stderr


def test_a_library_s_class_is_recognised(place: Path) -> None:
    program = "import torch, torchvision; torch.save(torchvision.models.squeezenet1_1(num_classes=3), 'model.pt')"
    python(place, program)
    assert '"arch": "torchvision:squeezenet1_1"' in extcon(place, "inspect", "model.pt", "--trust-pickle", "--json")
    program = "import torch, torchvision; m = torchvision.models.squeezenet1_1(num_classes=3); "
    python(place, program + "m.features[1] = torch.nn.Tanh(); torch.save(m, 'changed.pt')")
    said = extcon(place, "inspect", "changed.pt", "--trust-pickle", "--json", "--set", "model.input_shape=[3,64,64]")
    assert '"arch": null' in said


def test_a_class_of_the_saving_script(place: Path) -> None:
    (place / "train.py").write_text(f"{NET}\ntorch.save(Net(4), 'model.pt')\n")
    subprocess.run([sys.executable, "train.py"], cwd=place, check=True)
    said = extcon(place, "inspect", "model.pt", "--trust-pickle", code=3)
    assert "defined in the script that saved it" in said


def test_a_loaded_model_is_pickled_and_exported_without_extcon(place: Path) -> None:
    """In the process that loads the pickle nothing knows of extcon: the class is imported from its file."""
    python(place, "import torch, mynet; torch.save(mynet.make().state_dict(), 'model.pt')")
    (place / "model.yaml").write_text("model: {arch: mynet.py:make, input_shape: [4]}\n")
    program = (
        "import torch\nfrom pathlib import Path\nfrom extcon_cli.pipelines.running.open import open_model\n"
        "from extcon_cli.checkpoint.trust import Trust\nfrom extcon_cli.recipe.load import load\n"
        "m = open_model('model.pt', load(Path('model.yaml')), trust=Trust(code=True)).module\n"
        "torch.save(m, 'again.pt'); import pickle; pickle.dumps(m)\n"
        "torch.export.save(torch.export.export(m, (torch.zeros(2, 4),)), 'again.pt2')"
    )
    python(place, program)
    assert python(place, WITHOUT_EXTCON).split() == ["mynet", "3"]


def test_a_file_with_the_name_of_a_library(place: Path) -> None:
    from extcon_cli.checkpoint.architectures import build

    (place / "torch.py").write_text("import torch\ndef make(): return torch.nn.Linear(2, 2)\n")
    assert isinstance(build(f"{place}/torch.py:make", {}, trust_code=True), torch.nn.Linear)
    assert "extcon_user" not in torch.__name__

"""Folders of transformers: pruned to widths that their configuration says, and opened by plain `from_pretrained`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import extcon_cli
from extcon_cli.channels import channel_groups
from extcon_cli.checkpoint.folder import checkpoint_file, image_of, is_transformers, task_of
from extcon_cli.checkpoint.huggingface import folder
from extcon_cli.checkpoint.huggingface.examples import example_inputs, without_cache
from extcon_cli.checkpoint.huggingface.folder import read_folder
from extcon_cli.checkpoint.huggingface.uniform import roles
from extcon_cli.errors import CheckpointError, GateError, UsageError
from extcon_cli.pipelines.at_once import prune_at_once
from extcon_cli.recipe.load import resolve

pytest.importorskip("transformers")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models = _load("folders_models")
OFTEN = ("gpt2", "vit")
NEVER_UNIFORM = ("convnext",)
FAMILIES = [
    pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow)
    for name in models.FAMILIES
    if name not in NEVER_UNIFORM
]


def recipe(*overrides: str) -> Any:
    return resolve("prune", overrides=["prune.ratio=0.25", *overrides]).recipe


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In half precision, as most are."""
    folder = tmp_path_factory.mktemp("folders") / "llama"
    models.write("llama", folder, dtype=torch.bfloat16, shard="20KB")
    return folder


@pytest.fixture(scope="module")
def pruned(llama: Path) -> Path:
    prune_at_once(llama, recipe(), output=llama.parent / "pruned")
    return llama.parent / "pruned"


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_from_pretrained_gives_the_same(name: str, tmp_path: Path) -> None:
    import transformers

    models.write(name, tmp_path / "model")
    output = tmp_path / "out"
    result = prune_at_once(tmp_path / "model", recipe(), output=output)
    assert result.folder is not None
    assert result.certificate.exact
    assert result.folder.config
    assert result.after.size.params < result.before.size.params
    mine = extcon_cli.load(output)
    plain = getattr(transformers, models.FAMILIES[name][0]).from_pretrained(output, local_files_only=True).eval()
    inputs = example_inputs(plain, batch=3)
    with torch.no_grad():
        expected, found = mine(**inputs)[0], plain(**inputs)[0]
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()
    assert result.after.size.params == sum(p.numel() for p in plain.parameters())
    assert (output / "tokenizer.json").read_text() == (tmp_path / "model" / "tokenizer.json").read_text()


def test_the_roles_of_a_llama(llama: Path) -> None:
    module = read_folder(llama).module.float()
    without_cache(module)
    example = example_inputs(module)
    found = {role.name: role for role in roles(module, channel_groups(module, example), example)}
    assert set(found) == {"hidden_size", "intermediate_size", "num_attention_heads and num_key_value_heads"}
    assert found["intermediate_size"].allowed == tuple(range(1, 64))
    assert found["hidden_size"].allowed == tuple(range(4, 32, 4)), "a multiple of the heads"
    assert [group.size for group in found["num_attention_heads and num_key_value_heads"].groups] == [2, 2]
    assert found["hidden_size"].values(8) == {("hidden_size",): 24}


@pytest.mark.parametrize(
    ("keep", "change"),
    [
        (["*mlp*", "*q_proj"], {"hidden_size": 24, "rms_norm_eps": pytest.approx(1e-6 * 32 / 24)}),
        pytest.param(
            ["*mlp*", "*o_proj"], {"num_attention_heads": 2, "num_key_value_heads": 1}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_stream_and_heads_of_a_llama(llama: Path, tmp_path: Path, keep: list[str], change: dict[str, Any]) -> None:
    ratio = "prune.ratio=0.05" if "hidden_size" in change else "prune.ratio=0.012"
    prune_at_once(llama, recipe(ratio, f"prune.decide.keep={json.dumps(keep)}"), output=tmp_path / "out")
    before, after = config(llama), config(tmp_path / "out")
    assert {key: after[key] for key in after if after[key] != before.get(key)} == change


def test_half_precision_stays(pruned: Path) -> None:
    import transformers

    plain = transformers.LlamaForCausalLM.from_pretrained(pruned, local_files_only=True)
    assert plain.dtype == torch.bfloat16
    assert config(pruned)["dtype"] == "bfloat16"
    mine = extcon_cli.load(pruned)
    inputs = example_inputs(mine, batch=3)
    assert torch.equal(mine(**inputs).logits, plain.float()(**inputs).logits)
    assert len([file for file in pruned.iterdir() if file.suffix == ".safetensors"]) > 1, "as many shards"


def test_free_widths_open_with_extcon_alone(tmp_path: Path) -> None:
    import transformers

    models.write("convnext", tmp_path / "model")
    with pytest.raises(GateError, match=r"prune\.widths to free"):
        prune_at_once(tmp_path / "model", recipe(), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = prune_at_once(tmp_path / "model", recipe("prune.widths=free"), output=tmp_path / "out")
    assert result.folder is not None
    assert (result.folder.uniform_share, result.folder.plain_difference) == (0.0, None)
    assert result.folder.free_share > 0.9
    small = extcon_cli.load(tmp_path / "out")
    assert sum(p.numel() for p in small.parameters()) == result.after.size.params
    small(torch.randn(1, 3, 32, 32))
    with pytest.raises(RuntimeError):
        transformers.ConvNextForImageClassification.from_pretrained(tmp_path / "out", local_files_only=True)
    again = prune_at_once(tmp_path / "out", recipe("prune.widths=free"), output=tmp_path / "again")
    assert sum(p.numel() for p in extcon_cli.load(tmp_path / "again").parameters()) == again.after.size.params


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "bert", "t5"])
def test_free_widths_of_tied_tensors_and_narrow_norms(name: str, tmp_path: Path) -> None:
    models.write(name, tmp_path / "model")
    result = prune_at_once(tmp_path / "model", recipe("prune.widths=free"), output=tmp_path / "out")
    for place in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        assert sum(p.numel() for p in extcon_cli.load(place).parameters()) == result.after.size.params
    first = next((tmp_path / "model").glob("model-00001*"))
    shutil.copy(first, tmp_path / "model" / "one.safetensors")
    with pytest.raises(CheckpointError, match=r"belongs to a folder of transformers: give .*model"):
        extcon_cli.load(tmp_path / "model" / "one.safetensors")


def test_a_pruned_folder_is_pruned_again_and_remembers(pruned: Path, tmp_path: Path) -> None:
    prune_at_once(pruned, recipe(), output=tmp_path / "twice")
    folder = read_folder(tmp_path / "twice")
    assert folder.metadata is not None
    assert [done["command"] for done in folder.metadata.history] == ["prune", "prune"]
    card = (tmp_path / "twice" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n")
    assert card.count("## Certificate") == 2
    assert "`intermediate_size`" in card
    assert "{difference}" not in card
    assert card.endswith("# A tiny model\n")


@pytest.mark.slow
def test_opens_in_a_process_without_extcon(pruned: Path, tmp_path: Path) -> None:
    mine = extcon_cli.load(pruned)
    inputs = example_inputs(mine)
    torch.save((inputs, mine(**inputs).logits.detach()), tmp_path / "wanted.pt")
    program = (
        "import sys, torch, transformers\n"
        "inputs, wanted = torch.load(sys.argv[2])\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "assert (model(**inputs).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()\n"
        "assert not [name for name in sys.modules if name.startswith('extcon')]\n"
    )
    arguments = [sys.executable, "-c", program, str(pruned), str(tmp_path / "wanted.pt")]
    subprocess.run(arguments, check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["NoSuchModel"]}, "has no NoSuchModel"),
        ({"architectures": None}, "does not name the model's class"),
        ({"architectures": ["Own"], "auto_map": {"AutoModel": "own.Own"}}, "--trust-code"),
        ({"architectures": ["Own"], "auto_map": {"AutoModel": "else/where--own.Own"}}, "has no Own"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"intermediate_size": 48}, "cannot be opened as LlamaForCausalLM"),
        ({"num_hidden_layers": 3}, "lacks 9 tensors"),
        ({"hidden_act": "no such"}, "cannot be opened as LlamaForCausalLM"),
        ({"vocab_size": 10**12}, "the limit is"),
        ({"vocab_size": 2**62}, "cannot be opened|the limit is"),
    ],
)
def test_a_folder_that_is_wrong_is_refused(llama: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    for file in llama.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config(llama), **change}))
    with pytest.raises(CheckpointError, match=message):
        read_folder(tmp_path)


def test_a_folder_that_changes_while_it_is_read_is_refused(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "model"
    shutil.copytree(llama, place)

    def from_pretrained(path: Path, *args: Any, **more: Any) -> Any:
        module = as_ever(path, *args, **more)
        weights = next(path.glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes())  # as somebody's training does at this moment
        return module

    as_ever = folder.from_pretrained
    monkeypatch.setattr(folder, "from_pretrained", from_pretrained)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_folder(place)


def test_an_adapter_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapter"):
        read_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="adapter"):
        checkpoint_file(tmp_path)


@pytest.mark.parametrize(("content", "message"), [(None, "is not there"), ("{", "names no model_type")])
def test_shards_without_a_configuration_are_told(tmp_path: Path, content: str | None, message: str) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoint_file(tmp_path)


def test_weights_in_gguf_alone_are_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="GGUF"):
        read_folder(tmp_path)


def test_places_where_nothing_may_be_written(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for place, force, message in (
        (llama, True, "is the input"),
        (tmp_path / "mine", False, "exists already"),
        (tmp_path / "mine", True, "no folder of transformers"),
        (tmp_path / "no" / "out", False, "does not exist"),
        (tmp_path / "out.safetensors", False, "so is the output"),
    ):
        with pytest.raises(UsageError, match=message):
            prune_at_once(llama, recipe(), output=place, force=force)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    ("content", "prepared", "shape", "mean"),
    [
        ({"image_size": 32}, {"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}, (3, 32, 32), (0.5, 0.5, 0.5)),
        ({"image_size": [16, 32], "num_channels": 1}, {}, (1, 16, 32), ()),
        ({}, {"size": {"shortest_edge": 224}, "image_mean": "no"}, (3, 224, 224), ()),
        ({"image_size": -1}, {}, None, ()),
        ({"vocab_size": 5}, {}, None, ()),
    ],
)
def test_what_a_folder_says_of_its_images(
    tmp_path: Path, content: dict[str, Any], prepared: dict[str, Any], shape: Any, mean: Any
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    found = image_of(tmp_path)
    assert (found.shape, found.mean) == (shape, mean) if found else shape is None


@pytest.mark.parametrize(
    ("architectures", "task"),
    [
        (["LlamaForCausalLM"], "causal_lm"),
        (["GPT2LMHeadModel"], "causal_lm"),
        (["ViTForImageClassification"], "classification"),
        (["ViTModel"], None),
        ([], None),
        ("text", None),
        (None, None),
    ],
)
def test_the_class_tells_the_task(tmp_path: Path, architectures: object, task: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "architectures": architectures}))
    assert is_transformers(tmp_path)
    assert task_of(tmp_path) == task


def test_a_folder_that_does_not_fit_is_read_tensor_by_tensor_with_the_same_result(
    llama: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several shards in half precision, byte for byte; then widths of their own."""
    monkeypatch.setattr("extcon_cli.channels.deferred.SMALL", 0)
    monkeypatch.setattr("extcon_cli.checkpoint.huggingface.folder.too_large", lambda size: True)
    result = prune_at_once(llama, recipe(), output=tmp_path / "pruned")
    assert result.after.latency is None
    assert {file.name for file in pruned.iterdir()} == {file.name for file in (tmp_path / "pruned").iterdir()}
    for file in pruned.glob("model*"):
        assert file.read_bytes() == (tmp_path / "pruned" / file.name).read_bytes(), file.name
    prune_at_once(llama, recipe("prune.widths=free"), output=tmp_path / "free")
    assert extcon_cli.load(tmp_path / "free").config.intermediate_size == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "t5"])  # tied tensors, by either way
def test_other_families_are_read_tensor_by_tensor(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(name, tmp_path / "in")
    monkeypatch.setattr("extcon_cli.channels.deferred.SMALL", 0)
    monkeypatch.setattr("extcon_cli.checkpoint.huggingface.folder.too_large", lambda size: True)
    result = prune_at_once(tmp_path / "in", recipe(), output=tmp_path / "out", latency=False)
    assert result.folder is not None
    assert result.folder.plain_difference == 0

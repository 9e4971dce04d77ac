"""A folder too large for its copies is pruned on text tensor by tensor: the same comes of it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from extcon_cli.allocator import keeping_freed_memory
from extcon_cli.channels.deferred import Deferred, defer, dense
from extcon_cli.checkpoint.huggingface.shards import spill
from extcon_cli.errors import DataError
from extcon_cli.pipelines.plan import plan
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.running.prepare import prepare
from extcon_cli.recipe.load import resolve

transformers = pytest.importorskip("transformers")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """Of bytes, in half precision and several shards."""
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "llama", max_shard_size="8KB")
    return tmp_path / "llama"


def test_text_scores_and_hands_over_without_copies_in_memory(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} plus {n} is {2 * n}. " for n in range(40)))
    data = {"dataset": "text", "root": str(text), "block_size": 16, "batch_size": 1, "eval_batch_size": 1}
    changes = ["task=causal_lm", "prune.ratio=0.25", "prune.finetune.steps=0", f"data={json.dumps(data)}"]
    changes += ["prune.score.images=6", "prune.compensate.images=6"]

    def pruned(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
        result = prune(llama, resolve("prune", overrides=changes).recipe, output=tmp_path / name, keep_run=False)
        files = (tmp_path / name).glob("*.safetensors")
        return result, {key: tensor for file in files for key, tensor in load_file(file).items()}

    kept = list[bool]()

    def keeping(*, wanted: bool) -> AbstractContextManager[bool]:
        kept.append(wanted)
        return keeping_freed_memory(wanted=wanted)

    monkeypatch.setattr("extcon_cli.pipelines.running.start.keeping_freed_memory", keeping)
    expected, whole = pruned("whole")
    monkeypatch.setattr("extcon_cli.channels.deferred.SMALL", 0)
    monkeypatch.setattr("extcon_cli.checkpoint.huggingface.folder.too_large", lambda size: True)
    found, same = pruned("same")
    assert kept == [True, False], "freed memory is needed by others where it is short"
    planned = plan(llama, resolve("prune", overrides=changes).recipe, output=tmp_path / "plan.json", samples=2)
    assert planned.after == found.after.size
    assert planned.latency is None
    assert found.after.latency is None, "to read the weights would be most of it"
    assert found.certificate.exact
    assert found.folder.plain_difference == 0
    assert found.folder.config == expected.folder.config
    assert found.after.metrics == pytest.approx(expected.after.metrics)
    assert same.keys() == whole.keys()
    for name, tensor in same.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.allclose(tensor, whole[name], rtol=0.02, atol=1e-4), name  # a last bit of half precision


@pytest.mark.parametrize(("known", "message"), [(100, "the model knows 100"), (600, "is data.tokenizer missing")])
def test_bytes_that_mean_nothing_to_the_model(known: int, message: str, tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=known, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("a b c " * 40)
    data = {"dataset": "text", "root": str(tmp_path / "text.txt"), "block_size": 8, "batch_size": 2}
    recipe = resolve("prune", overrides=["task=causal_lm", f"data={json.dumps(data)}"]).recipe
    told = list[Any]()
    if known < 256:
        with pytest.raises(DataError, match=message):
            prepare(recipe, tmp_path / "model", emit=told.append)
    else:
        prepare(recipe, tmp_path / "model", emit=told.append)
        assert any(message in event.message for event in told)


def test_what_is_spilled_takes_no_memory_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extcon_cli.channels.deferred.SMALL", 0)
    net = torch.nn.Linear(4, 3).requires_grad_(False)
    plain = net.weight
    spill(plain, tmp_path)
    assert net.weight is plain
    expected = 2 * net.weight + 1
    defer(net, torch.float32)
    net.weight.mul_(2).add_(1)
    spill(net.weight, tmp_path)
    assert isinstance(net.weight, Deferred)
    assert torch.equal(dense(net.weight), expected)
    net.weight[0] = 0  # it may be written to again
    assert torch.equal(dense(net.weight)[1:], expected[1:])
    assert not dense(net.weight)[0].any()
    assert not list(tmp_path.iterdir()), "the file has no name"

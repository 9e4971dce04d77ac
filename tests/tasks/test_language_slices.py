"""The benchmark's SliceGPT: turned and not cut it computes the same; cut it keeps to its budget."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("language_slices").sliced


SIZES = {"vocab_size": 24, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
GPT2 = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 4}


@pytest.mark.parametrize(("kind", "sizes"), [("LlamaForCausalLM", LLAMA), ("GPT2LMHeadModel", GPT2)])
def test_turned_it_computes_the_same_and_cut_it_keeps_to_its_budget(
    kind: str, sizes: dict[str, int], sliced: Any
) -> None:
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**SIZES, **sizes)).eval()
    model.config.use_cache = False
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        ids = torch.randint(0, 24, (32, 12))
        wanted = model(ids).logits
        whole, cut = (sliced(model, [ids], budget) for budget in (1e9, 3500.0))
        assert (whole(ids).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        assert cut(ids).logits.shape == wanted.shape
    assert 3000 < sum(parameter.numel() for parameter in cut.parameters()) <= 3500

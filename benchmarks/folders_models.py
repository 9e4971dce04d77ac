"""Folders of transformers for benchmarks/folders.py and the tests: tiny configurations, random weights, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60
}  # fmt: skip
KEYS = {"num_key_value_heads": 2, "head_dim": 8}
IMAGE = {"image_size": 32, "patch_size": 8}
NUMBERS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**SIZES, **NUMBERS, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {**SIZES, **NUMBERS, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**SIZES, **NUMBERS, **KEYS}),
    "mistral": ("MistralForCausalLM", {**SIZES, **NUMBERS, **KEYS}),
    "gemma": ("GemmaForCausalLM", {**SIZES, **NUMBERS, **KEYS}),
    "gemma2": ("Gemma2ForCausalLM", {**SIZES, **NUMBERS, **KEYS}),
    "opt": (
        "OPTForCausalLM",
        {**SIZES, **NUMBERS, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    ),
    "gpt2": ("GPT2LMHeadModel", {**NUMBERS, "vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "pythia": ("GPTNeoXForCausalLM", {**SIZES, **NUMBERS}),
    "bert": ("BertForMaskedLM", SIZES),
    "bert, classes": ("BertForSequenceClassification", SIZES),
    "distilbert": (
        "DistilBertForMaskedLM", {"vocab_size": 60, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
    ),
    "vit": ("ViTForImageClassification", {**SIZES, **IMAGE}),
    "dino": ("ViTModel", {**SIZES, **IMAGE}),
    "dinov2": ("Dinov2ForImageClassification", {**SIZES, **IMAGE}),
    "t5": (
        "T5ForConditionalGeneration",
        {**NUMBERS, "vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {**NUMBERS, "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_mel_bins": 8,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
         "max_source_positions": 16, "max_target_positions": 16, "decoder_start_token_id": 1},
    ),
    "convnext": (
        "ConvNextForImageClassification", {"image_size": 32, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    ),
}  # fmt: skip
"""Class and configuration; two layers where there are layers."""


def write(name: str, folder: Path, *, shard: str = "40KB", dtype: torch.dtype = torch.float32) -> None:
    """A folder of this family, of several shards, with files beside the weights as a tokenizer leaves them."""
    import transformers

    kind, sizes = FAMILIES[name]
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():  # what starts as all zeros or ones would hide a mistake
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}\n')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A tiny model\n")

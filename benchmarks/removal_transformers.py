"""Models of text, images and speech of transformers for benchmarks/removal.py: small configurations, random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from removal_models import Builder, Built, image, installed
from torch import Tensor

PLAIN = ("bert", "distilbert", "vit", "llama", "mistral", "qwen2", "gemma", "t5", "gpt2")
DECODERS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "gemma": "Gemma"}
WIDTH = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL: dict[str, Any] = {
    **WIDTH, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "d_model": 64, "d_ff": 128, "d_kv": 16,
    "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "num_layers": 2, "num_heads": 4, "num_decoder_layers": 2,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "ffn_dim": 128, "n_layers": 2, "n_heads": 4, "emb_dim": 64,
    "max_position_embeddings": 64, "word_embed_proj_dim": 64, "embedding_size": 32, "pad_token_id": 0,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_intermediate_size": 48, "n_group": 1,
    "topk_group": 1, "shared_expert_intermediate_size": 48, "num_experts_per_tok": 2, "q_lora_rank": 24,
    "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1,
    "ffn_hidden_size": 128, "expansion_ratio": 2, "max_source_positions": 32, "max_target_positions": 32,
    "num_mel_bins": 16, "use_cache": False, "state_size": 8,
    "conv_dim": (32, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "attention_hidden_size": 64,
}  # fmt: skip
"""What is set where a configuration has it; DIFFERENT says what else a model needs."""
DIFFERENT: dict[str, dict[str, Any]] = {
    "MobileBertForSequenceClassification": {"intra_bottleneck_size": 32, "embedding_size": 32, "true_hidden_size": 32},
    "ConvBertForSequenceClassification": {"embedding_size": 64},
    "RoFormerForSequenceClassification": {"embedding_size": 64},
    "SqueezeBertForSequenceClassification": {"embedding_size": 64},
    "ElectraForSequenceClassification": {"embedding_size": 64},
    "RemBertForSequenceClassification": {"input_embedding_size": 32, "output_embedding_size": 32},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]},
    "DeepseekV3ForCausalLM": {"num_key_value_heads": 4, "head_dim": 8},
    "PersimmonForCausalLM": {"num_key_value_heads": 4},
    "WhisperForConditionalGeneration": {"decoder_start_token_id": 1, "pad_token_id": 0},
    "SwinForImageClassification": {"embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
    "Swinv2ForImageClassification": {"embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
    "ConvNextForImageClassification": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "ConvNextV2ForImageClassification": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "ResNetForImageClassification": {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 80], "depths": [1, 2, 1, 1]},
    "RegNetForImageClassification": {
        "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 1, 1], "groups_width": 8},
    "SegformerForImageClassification": {"hidden_sizes": [16, 24, 32, 48], "decoder_hidden_size": 32,
                                        "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]},
    "SegformerForSemanticSegmentation": {"hidden_sizes": [16, 24, 32, 48], "decoder_hidden_size": 32,
                                         "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]},
    "MobileViTForImageClassification": {"hidden_sizes": [32, 48, 64],
                                        "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 80]},
    "PoolFormerForImageClassification": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "PvtV2ForImageClassification": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
                                    "num_attention_heads": [1, 2, 2, 4]},
    "FocalNetForImageClassification": {"embed_dim": 16, "hidden_sizes": [16, 32], "depths": [1, 1],
                                       "focal_levels": [2, 2], "focal_windows": [3, 3]},
    "HieraForImageClassification": {"embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "num_query_pool": 2,
                                    "query_stride": [2, 2], "masked_unit_size": [4, 4], "image_size": [64, 64]},
    "BitForImageClassification": {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1],
                                  "num_groups": 4},
    "EfficientNetForImageClassification": {"width_coefficient": 0.3, "depth_coefficient": 0.3, "hidden_dim": 384},
    "ASTForAudioClassification": {"max_length": 64},
    "SEWForCTC": {"squeeze_factor": 2},
}  # fmt: skip
TEXT = (
    "AlbertForSequenceClassification", "RobertaForSequenceClassification", "ElectraForSequenceClassification",
    "DebertaV2ForSequenceClassification", "DebertaForSequenceClassification", "MPNetForSequenceClassification",
    "MobileBertForSequenceClassification", "ConvBertForSequenceClassification", "RoFormerForSequenceClassification",
    "SqueezeBertForSequenceClassification", "ModernBertForSequenceClassification", "FNetForSequenceClassification",
    "RemBertForSequenceClassification", "ErnieForSequenceClassification", "BertForMaskedLM",
)  # fmt: skip
LANGUAGE = (
    "Gemma2ForCausalLM", "Gemma3ForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM", "OlmoForCausalLM",
    "Olmo2ForCausalLM", "StableLmForCausalLM", "FalconForCausalLM", "GPTNeoXForCausalLM", "GPTJForCausalLM",
    "GPTNeoForCausalLM", "OPTForCausalLM", "BloomForCausalLM", "MptForCausalLM", "Qwen3ForCausalLM",
    "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "MixtralForCausalLM", "GraniteForCausalLM", "CohereForCausalLM",
    "Starcoder2ForCausalLM", "SmolLM3ForCausalLM", "MambaForCausalLM", "GptOssForCausalLM", "DeepseekV3ForCausalLM",
    "PersimmonForCausalLM", "BioGptForCausalLM",
)  # fmt: skip
PAIRS = ("BartForConditionalGeneration", "MarianMTModel", "PegasusForConditionalGeneration",
         "MT5ForConditionalGeneration")  # fmt: skip
IMAGES = (
    "DeiTForImageClassification", "BeitForImageClassification", "SwinForImageClassification",
    "Swinv2ForImageClassification", "ConvNextForImageClassification", "ConvNextV2ForImageClassification",
    "ResNetForImageClassification", "RegNetForImageClassification", "SegformerForImageClassification",
    "SegformerForSemanticSegmentation", "MobileViTForImageClassification", "PoolFormerForImageClassification",
    "MobileViTV2ForImageClassification", "Dinov2ForImageClassification", "EfficientNetForImageClassification",
    "MobileNetV2ForImageClassification", "PvtV2ForImageClassification", "FocalNetForImageClassification",
    "HieraForImageClassification", "MobileNetV1ForImageClassification", "BitForImageClassification",
    "SiglipVisionModel", "CLIPVisionModelWithProjection",
)  # fmt: skip
SPEECH = ("WhisperForConditionalGeneration", "Wav2Vec2ForCTC", "HubertForCTC", "WavLMForCTC",
          "ASTForAudioClassification", "Data2VecAudioForCTC", "SEWForCTC")  # fmt: skip


def models() -> dict[str, Builder]:
    """Every model by 'transformers:name' or 'speech:name'."""
    if not installed("transformers"):
        return {}
    found: dict[str, Builder] = {f"transformers:{name}": partial(_plain, name) for name in PLAIN}
    inputs: dict[tuple[str, ...], Callable[[], dict[str, Tensor]]] = {
        TEXT: _text, LANGUAGE: _text, PAIRS: _pair, IMAGES: lambda: {"pixel_values": image(64)[0]}
    }  # fmt: skip
    for names, example in inputs.items():
        found |= {f"transformers:{name}": partial(_configured, name, example) for name in names}
    sound = {"WhisperForConditionalGeneration": _spectrum, "ASTForAudioClassification": _patches}
    found |= {f"speech:{name}": partial(_configured, name, sound.get(name, _waves)) for name in SPEECH}
    return found


def _text() -> dict[str, Tensor]:
    tokens = torch.arange(16).reshape(2, 8)
    return {"input_ids": tokens, "attention_mask": torch.ones(2, 8, dtype=torch.int64)}


def _pair() -> dict[str, Tensor]:
    return {**_text(), "decoder_input_ids": torch.arange(10, 20).reshape(2, 5) % 16}


def _waves() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 400)}


def _patches() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 64, 16)}


def _spectrum() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 16, 64), "decoder_input_ids": torch.arange(10).reshape(2, 5)}


def _configured(name: str, example: Callable[[], dict[str, Tensor]]) -> Built:
    """A model of transformers with every size that its configuration has set to a small one."""
    import transformers

    kind = getattr(transformers, name)
    defaults, sizes = kind.config_class(), DIFFERENT.get(name, {})
    if name not in DIFFERENT or name not in IMAGES:
        sizes = {key: size for key, size in SMALL.items() if _takes(defaults, key, size)} | sizes
    if name in IMAGES:
        sizes |= {key: size for key, size in (("image_size", 64), ("patch_size", 8)) if _takes(defaults, key, size)}
    config = kind.config_class(**sizes)
    config.use_cache = False
    return kind(config), example()


def _takes(config: Any, key: str, size: Any) -> bool:
    """Whether a configuration has a size of this name that is one number, or as many as are given."""
    settable = not isinstance(getattr(type(config), key, None), property)
    held = getattr(config, key, None)
    return hasattr(config, key) and settable and isinstance(held, (list, tuple)) == isinstance(size, tuple)


def _plain(name: str) -> Built:
    import transformers as t

    text = _text()
    if name == "bert":
        return t.BertForSequenceClassification(t.BertConfig(vocab_size=100, **WIDTH)), text
    if name == "distilbert":
        config = t.DistilBertConfig(vocab_size=100, dim=64, hidden_dim=128, n_layers=2, n_heads=4)
        return t.DistilBertForSequenceClassification(config), text
    if name == "vit":
        config = t.ViTConfig(image_size=32, patch_size=8, **WIDTH)
        return t.ViTForImageClassification(config), {"pixel_values": image(32)[0]}
    if name in DECODERS:
        model = getattr(t, f"{DECODERS[name]}ForCausalLM")
        heads = {"num_key_value_heads": 2, "head_dim": 16}
        return model(model.config_class(vocab_size=100, use_cache=False, **heads, **WIDTH)), text
    if name == "t5":
        config = t.T5Config(vocab_size=100, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, num_labels=3)
        return t.T5ForTokenClassification(config), text
    config = t.GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, use_cache=False)
    return t.GPT2LMHeadModel(config), text

"""Inputs of the shapes that a configuration asks for: of text, of images, of sound. Their numbers mean nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.errors import UsageError

TOKENS = 8
"""In one example of text."""


def example_inputs(module: Any, batch: int = 2) -> dict[str, Tensor]:
    """The arguments of one forward pass by name, for a model of transformers.

    Raises:
        UsageError: it takes neither text nor images nor spectra.
    """
    config, name = module.config, module.main_input_name
    if name == "input_ids":
        inputs = {name: _tokens(config, batch)}
    elif name == "pixel_values":
        size = _known(config, "image_size", 224)
        sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        inputs = {name: _numbers(batch, _known(config, "num_channels", 3), *sides)}
    elif name == "input_features" and hasattr(config, "num_mel_bins"):
        # Whisper halves the time once and takes one length only
        inputs = {name: _numbers(batch, config.num_mel_bins, 2 * _known(config, "max_source_positions", 1500))}
    else:
        raise UsageError(f"{type(module).__name__} takes {name}: give an example of its inputs")
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _tokens(config, batch, TOKENS // 2)
    return inputs


def without_cache(module: nn.Module) -> None:
    """Let a model give no caches, which are of use only where text is generated token by token."""
    configs: list[Any] = [getattr(child, "config", None) for child in module.modules()]
    for config in configs:
        if getattr(config, "use_cache", None):
            config.use_cache = False


def _tokens(config: Any, batch: int, length: int = TOKENS) -> Tensor:
    vocabulary = config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary // 2, vocabulary, (batch, length), generator=generator)  # over special tokens


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _known(config: Any, name: str, default: Any) -> Any:
    """A field of the configuration, or of the one of images inside it."""
    held = getattr(config, name, None)
    held = getattr(getattr(config, "vision_config", None), name, None) if held is None else held
    return default if held is None else held

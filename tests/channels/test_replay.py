"""A traced pass that is run again on real tensors gives what the model gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.replay import SideBySide

transformers = pytest.importorskip("transformers")


def llama() -> tuple[nn.Module, Inputs]:
    """Rotary positions are made on the device of the inputs, and a causal mask beside them."""
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, use_cache=False
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.randint(40, (2, 7))}


def convolutions() -> tuple[nn.Module, Inputs]:
    """With a batch norm, and memory that is written to in place."""
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 5)
    return nn.Sequential(*layers), (torch.randn(2, 3, 8, 8),)


@pytest.mark.parametrize("make", [llama, convolutions])
def test_it_gives_the_model_s_output(make: object) -> None:
    torch.manual_seed(0)
    model, inputs = make()  # type: ignore[operator]
    model.eval()
    passes = SideBySide([model], [inputs])
    for node in passes:
        if node.op == "output":
            (again,) = [leaf for leaf in passes.replays[0][0].values[node] if isinstance(leaf, torch.Tensor)]
    first = model(**inputs).logits if isinstance(inputs, dict) else model(*inputs)
    torch.testing.assert_close(again, first)

"""What some of torch's modules show the tracer in place of their own forward pass: the same function, told plainly.

- Norms that count removed zeros by hand (removal/narrow.py) show the one operator that they stand for.
- nn.TransformerEncoder leaves the rows of padded tokens zero where it takes its fast path, which no tracer follows. It
  shows the zeros, so that no constant is folded through them.
- nn.Transformer looks at the numbers in a mask, to give its attention the hint that it is causal. Without the hint the
  attention takes the mask itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn.modules import transformer

from extcon_cli.channels.modules import submodules


@contextmanager
def shown(module: nn.Module) -> Iterator[None]:
    """The module as the tracer is to see it; afterwards it is as before."""
    forwards = {child: forward for child in submodules(module) if (forward := _shown(child)) is not None}
    detect = vars(transformer).get("_detect_is_causal_mask")
    try:
        if detect is not None:
            vars(transformer)["_detect_is_causal_mask"] = lambda mask, is_causal=None, size=None: bool(is_causal)
        for child, forward in forwards.items():
            vars(child)["forward"] = forward
        yield
    finally:
        for child in forwards:
            del vars(child)["forward"]
        if detect is not None:
            vars(transformer)["_detect_is_causal_mask"] = detect


def _shown(module: nn.Module) -> Callable[..., Tensor] | None:
    """The forward pass to be shown, None where it is the module's own."""
    if "forward" in vars(module):
        return None
    if type(module) is nn.TransformerEncoder and module.use_nested_tensor:
        return partial(padded_encoder, module)
    found: Callable[..., Tensor] | None = getattr(type(module), "shown_forward", None)
    return found and partial(found, module)


def padded_encoder(
    encoder: nn.TransformerEncoder,
    src: Tensor,  # (N, S, E)
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,  # (N, S)
    is_causal: bool | None = None,
    *,
    zeros: bool = True,
) -> Tensor:
    """nn.TransformerEncoder's forward pass without nested tensors; the rows of padded tokens are zeros before the norm.

    Args:
        encoder: its layers and norm.
        src: as nn.TransformerEncoder.
        mask: as nn.TransformerEncoder.
        src_key_padding_mask: as nn.TransformerEncoder.
        is_causal: as nn.TransformerEncoder; None: the mask says it.
        zeros: whether padded rows are set to zero.
    """
    y = src
    for layer in encoder.layers:
        y = layer(y, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))
    if zeros and mask is None and src_key_padding_mask is not None and src.dim() == 3:
        y = y.masked_fill((src_key_padding_mask != 0)[..., None], 0.0)
    return y if encoder.norm is None else encoder.norm(y)

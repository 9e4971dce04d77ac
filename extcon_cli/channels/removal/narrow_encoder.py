"""nn.TransformerEncoder over layers that a removal has exchanged: no nested tensors, the same zeros.

torch's own encoder packs the tokens that are not padding into a nested tensor where it can, which the narrow layers do
not take. What it then gives for padded tokens is zero. This one gives the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from extcon_cli.channels.analysis.shown import padded_encoder
from extcon_cli.channels.removal.narrow import exchanged


class NarrowTransformerEncoder(nn.TransformerEncoder):
    """nn.TransformerEncoder; where that would pack its tokens, padded ones give zeros here too."""

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        zeros = self._would_pack(src, src_key_padding_mask)
        return padded_encoder(self, src, mask, src_key_padding_mask, is_causal, zeros=zeros)

    def shown_forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """What the tracer sees, as it sees it of nn.TransformerEncoder."""
        return padded_encoder(self, src, mask, src_key_padding_mask, is_causal)

    def _would_pack(self, src: Tensor, padding: Tensor | None) -> bool:
        """Whether nn.TransformerEncoder would make a nested tensor of this input."""
        if (
            padding is None
            or src.dim() != 3
            or self.layers[0].training
            or not torch.backends.mha.get_fastpath_enabled()
        ):
            return False
        if torch.is_autocast_enabled() or src.device.type not in ("cpu", "cuda", "xpu"):
            return False
        if torch.is_grad_enabled() and (src.requires_grad or any(p.requires_grad for p in self.layers[0].parameters())):
            return False
        if not getattr(self, "mask_check", True):
            return True
        if torch.compiler.is_compiling():
            return False
        kept = padding == 0
        return bool((kept.long().diff(dim=1) <= 0).all())  # padding follows the tokens


def narrow_encoder(module: nn.Module) -> None:
    """Let an encoder take layers that a removal has exchanged."""
    if not isinstance(module, nn.TransformerEncoder) or not module.use_nested_tensor or not exchanged(module):
        return
    module.use_nested_tensor = False
    if type(module) is nn.TransformerEncoder:
        module.__class__ = NarrowTransformerEncoder

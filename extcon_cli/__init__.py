"""extcon makes a trained PyTorch model better: the public API on one screen. Importing it does not import torch.

    load, save          checkpoints in and out
    prunable_groups     what could go, and why the rest stays
    remove_zeros        exact removal of dead channels, with its certificate
    verify              how far the outputs of two modules differ
    Catalyst, Bypass    the two methods, in your own training loop

The other names are the types of what these take and give. Refusals are in `extcon_cli.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extcon_cli.bypass.attach import Bypass
    from extcon_cli.catalyst.attach import Catalyst, ContractionReport
    from extcon_cli.channels import (
        Certificate,
        ChannelGroup,
        Difference,
        Removal,
        RemovalPlan,
        Slice,
        Verification,
        prunable_groups,
        remove_zeros,
        verify,
    )
    from extcon_cli.checkpoint.load import load
    from extcon_cli.checkpoint.save import save

__version__ = "0.1.0"

__all__ = [
    "Bypass",
    "Catalyst",
    "Certificate",
    "ChannelGroup",
    "ContractionReport",
    "Difference",
    "Removal",
    "RemovalPlan",
    "Slice",
    "Verification",
    "__version__",
    "load",
    "prunable_groups",
    "remove_zeros",
    "save",
    "verify",
]

_HOMES = {
    "load": "checkpoint.load",
    "save": "checkpoint.save",
    "Bypass": "bypass.attach",
    "Catalyst": "catalyst.attach",
    "ContractionReport": "catalyst.attach",
}
"""Where a public name is defined; those that are not here, in `channels`."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for (PEP 562), so that `extcon --help` stays instant."""
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'extcon_cli' has no attribute {name!r}")
        return getattr(import_module(f"extcon_cli.{_HOMES.get(name, 'channels')}"), name)


def __dir__() -> list[str]:
    return __all__

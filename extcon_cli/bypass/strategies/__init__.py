"""The ways out of a plateau by the names that recipes and results give them: one file each, one protocol (base.py)."""

from extcon_cli.bypass.strategies.base import Strategy
from extcon_cli.bypass.strategies.controls import CosineRestart, GoingOn, LoweredRate, Perturbed
from extcon_cli.bypass.strategies.diagonal import Diagonal
from extcon_cli.bypass.strategies.identity import NearIdentity
from extcon_cli.bypass.strategies.mirror import Mirrored
from extcon_cli.bypass.strategies.restart import Restarted, Shrunk
from extcon_cli.bypass.strategies.revive import Revived
from extcon_cli.bypass.strategies.widen import Widened
from extcon_cli.bypass.strategies.wider import Wider

BASELINE = "baseline"
CONTROLS: dict[str, type[Strategy]] = {"lr_drop": LoweredRate, "cosine": CosineRestart, "perturbed": Perturbed}
"""Compared with and never chosen."""
RESTARTS: dict[str, type[Strategy]] = {"identity": NearIdentity, "restart": Restarted, "shrink": Shrunk}
"""They extend nothing and preserve nothing, and a few steps tell nothing of them."""
EXTENSIONS: dict[str, type[Strategy]] = {
    "diag": Diagonal, "mirror": Mirrored, "widen": Widened, "revive": Revived, **RESTARTS,
}  # fmt: skip
"""Of which the best is chosen, beside going on."""
WIDER = "wider"
"""It keeps its extension: another architecture, followed only where the user allows that."""
STRATEGIES: dict[str, type[Strategy]] = {BASELINE: GoingOn, **CONTROLS, **EXTENSIONS, WIDER: Wider}

__all__ = ["BASELINE", "CONTROLS", "EXTENSIONS", "RESTARTS", "STRATEGIES", "WIDER", "Strategy"]

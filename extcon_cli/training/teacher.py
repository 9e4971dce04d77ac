"""The outputs of a teacher on training batches: computed, or looked up where batches repeat their inputs.

Where a sample becomes one of a few inputs (no augmentation: one; crops out of a padding of one pixel: nine), a table
keeps the output of each. A step that misses some computes a batch as large as its own, of these and of others that
will be asked for, so no step takes longer than without a table. A sample's output has the same bits in every place of
a batch of this size: that is measured on the first batch, and where it does not hold there is no table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from extcon_cli.tasks import Batch
from extcon_cli.training.objective import Batches

MOST_BYTES = 256 * 2**20
"""Of a table."""


@runtime_checkable
class Repeating(Protocol):
    """Batches whose inputs are some of a finite number."""

    @property
    def samples(self) -> int: ...

    @property
    def variants(self) -> int | None: ...

    def keys(self, step: int) -> Tensor: ...

    def of_keys(self, keys: Tensor) -> Batch: ...


class Teacher:
    """What a teacher gives for the batch of a step.

    Args:
        forward: its outputs on a batch, without gradients, as training computes them.
        batches: of training.
        total: steps that there are.
    """

    def __init__(self, forward: Callable[[Batch], Any], batches: Batches, total: int) -> None:
        self.forward, self.batches, self.total = forward, batches, total
        self.table: Table | None = None
        self._asked = False

    def outputs(self, step: int, batch: Batch) -> Any:
        """On the batch of this step."""
        if not self._asked and isinstance(self.batches, Repeating):
            self._asked, found = True, self.forward(batch)
            self.table = self._table(self.batches, step, found)
            return found
        return self.table.outputs(step) if self.table is not None else self.forward(batch)

    def _table(self, batches: Repeating, step: int, found: Any) -> Table | None:
        """None: it would not pay, would be too large, or would not give the same bits."""
        if batches.variants is None or not (isinstance(found, Tensor) and found.dim()):
            return None
        keys, rows = batches.keys(step), batches.samples * batches.variants
        too_large = rows * found[0].numel() * found.element_size() > MOST_BYTES
        if len(found) != len(keys) or too_large or rows >= (self.total - step) * len(keys):
            return None
        with torch.random.fork_rng(devices=[found.device] if found.device.type == "cuda" else []):
            turned = self.forward(batches.of_keys(keys.flip(0))).flip(0)
        if not torch.equal(turned, found):
            return None
        table = Table(self.forward, batches, found, rows)
        table.put(keys, found)
        return table


class Table:
    """Outputs by key, filled while they are asked for."""

    def __init__(self, forward: Callable[[Batch], Any], batches: Repeating, like: Tensor, rows: int) -> None:
        self.forward, self.batches = forward, batches
        self.values = like.new_empty(rows, *like.shape[1:])
        self.known = torch.zeros(rows, dtype=torch.bool, device=like.device)
        self.whole = False
        """Is every output known?"""

    def put(self, keys: Tensor, outputs: Tensor) -> None:
        """Keep the outputs (B, ...) of these keys (B,)."""
        self.known[keys] = True
        self.values[keys] = outputs

    def outputs(self, step: int) -> Tensor:
        """On the batch of a step."""
        keys = self.batches.keys(step)
        if not self.whole and not bool(self.known[keys].all()):
            self._fill(keys)
        return self.values[keys]

    def _fill(self, keys: Tensor) -> None:
        """Compute as many outputs as there are keys (B,), all that these miss among them."""
        wanted = keys[~self.known[keys]]
        self.known[wanted] = True
        others = (~self.known).nonzero()[: len(keys) - len(wanted), 0]
        self.whole = len(others) < len(keys) - len(wanted)
        fresh = torch.cat([wanted, others, keys])[: len(keys)]  # a whole batch in any case
        self.put(fresh, self.forward(self.batches.of_keys(fresh)))

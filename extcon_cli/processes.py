"""The processes of a run that several share, as torchrun or `accelerate launch` has started them. One is the rule.

All of them run the same code. `Processes` has the few places where they meet: what one computes for all, sums, and
signals. It starts no process and knows no model.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from extcon_cli.errors import ExtconError, GateError, ProcessLost

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

T = TypeVar("T")

BUCKET = 1 << 24
"""Numbers that are summed at once: 64 MB of float32, the most that a sum takes beside the gradients themselves."""
LATE = 1.0
"""Seconds that a process which has lost another one lets that one say why."""
PATIENCE = timedelta(hours=6)
"""How long a process waits for another one that lives. One that is gone is noticed at once."""


class Share(NamedTuple):
    """The part of a batch that a process takes: the `place`-th of `number`."""

    place: int = 0
    number: int = 1

    def of(self, count: int) -> slice:
        """Its part of so many; the first ones take one more where it does not come out even."""
        size, more = divmod(count, self.number)
        begin = self.place * size + min(self.place, more)
        return slice(begin, begin + size + (self.place < more))


WHOLE = Share()


def launched() -> Share:
    """Which of how many processes this one is, as the launcher says it in the environment."""
    try:
        number, place = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    except ValueError:
        return WHOLE
    return Share(place, number) if number > 1 else WHOLE


def speaks(*, late: bool = False) -> bool:
    """Is it this process that tells why a run has failed? The first one that asks does.

    `late`: let the others ask before, since their reason is the cause of this one's.
    """
    from torch.distributed import TCPStore, is_initialized  # type: ignore[attr-defined]

    if late:
        time.sleep(LATE)
    try:
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=5))
        return bool(store.add(f"extcon/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1)
    except (RuntimeError, ValueError, KeyError):  # nobody keeps it yet, when all fail alike, or no more
        return is_initialized() or launched().place == 0


def leave(code: int) -> NoReturn:
    """End this process of several. After a failure at once: what is left of the group may wait for ever."""
    distributed = sys.modules.get("torch.distributed")
    if code == 0 and distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()
        sys.exit(0)
    sys.stderr.flush()
    os._exit(code)


@dataclass(frozen=True)
class Processes:
    """This process among those of a run. Every method is called by all of them, in the same order.

    Raises (by all methods): ProcessLost where another one has ended.
    """

    share: Share = WHOLE
    signals: ProcessGroup | None = None
    """Over which small things go, between CPUs: a GPU never waits for them."""

    @property
    def several(self) -> bool:
        return self.share.number > 1

    @property
    def first(self) -> bool:
        """The one that prints and writes."""
        return self.share.place == 0

    def once(self, compute: Callable[[], T]) -> T:
        """What the first one computes, for all; so is its refusal. `compute` meets no other process."""
        if not self.several:
            return compute()
        from torch.distributed import broadcast_object_list

        told: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.first:
            try:
                told[0] = compute()
            except BaseException as error:
                failure = error
                told[1] = _told(error)
        with _lost():
            broadcast_object_list(told, src=0, group=self.signals)
        if failure is not None:
            raise failure
        if told[1] is not None:
            raise told[1]
        found: T = told[0]
        return found

    def on_first(self, compute: Callable[[], T]) -> T | None:
        """What the first one computes, for itself alone, such as a file that it holds open. Its refusal is for all."""
        held: list[T] = []
        self.once(lambda: held.append(compute()))
        return held[0] if held else None

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, set where it is set in any process."""
        if not self.several:
            return flags
        import torch
        from torch.distributed import ReduceOp, all_reduce

        told = torch.tensor(flags, dtype=torch.int32)
        with _lost():
            all_reduce(told, ReduceOp.MAX, group=self.signals)
        return tuple(bool(flag) for flag in told)

    def gathered(self, value: T) -> list[T]:
        """The value of every process, in their order; tensors in it lie on the CPU."""
        if not self.several:
            return [value]
        from torch.distributed import all_gather_object

        found: list[Any] = [None] * self.share.number
        with _lost():
            all_gather_object(found, value, group=self.signals)
        return found

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes: the same bits in all of them, and in every run."""
        if not self.several:
            return
        import torch
        from torch.distributed import all_reduce

        for part in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in part])
            with _lost():
                all_reduce(flat, group=self._group(flat))
            for tensor, total in zip(part, torch.split(flat, [tensor.numel() for tensor in part]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def align(self, module: nn.Module) -> None:
        """Give the module's parameters and buffers the values that they have in the first process.

        GateError where the modules are not alike.
        """
        if not self.several:
            return
        import torch
        from torch.distributed import broadcast

        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.check("model", str([(name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()]))
        with torch.no_grad(), _lost():
            for tensor in state.values():
                held = tensor.detach().contiguous()
                broadcast(held, src=0, group=self._group(held))
                tensor.copy_(held)

    def check(self, what: str, text: str) -> None:
        """GateError where the processes do not agree on a text that decides what they do."""
        if len(set(self.gathered(hashlib.sha256(text.encode()).hexdigest()))) > 1:
            raise GateError(f"the processes of this run do not agree on the {what}: do all run the same versions?")

    def _group(self, tensor: Tensor) -> ProcessGroup | None:
        """Over which a tensor goes: between CPUs, or the devices' own (None)."""
        return self.signals if tensor.device.type == "cpu" else None


ALONE = Processes()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one kind that are summed together, always the same ones."""
    kinds: dict[tuple[Any, Any], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        bucket, size = list[Any](), 0
        for tensor in alike:
            bucket.append(tensor)
            size += tensor.numel()
            if size >= BUCKET:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def _told(error: BaseException) -> ExtconError:
    """A refusal of the first process, as the others raise it."""
    if isinstance(error, ExtconError):
        return type(error)(str(error))
    return ProcessLost("the first process of the run has ended")


@contextmanager
def hearing() -> Iterator[None]:
    """Within, torch itself lets the processes meet: ProcessLost where one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error) for word in ("gloo", "NCCL", "Connection", "process group")):
            raise ProcessLost("another process of the run has ended") from error
        raise


@contextmanager
def _lost() -> Iterator[None]:
    """What torch says where another process is gone, or the way to it."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost("another process of the run has ended") from error

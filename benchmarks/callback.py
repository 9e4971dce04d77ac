"""What CatalystCallback adds to a training step of transformers' Trainer, in CPU time.

    python benchmarks/callback.py

A small Llama with random weights on random tokens, one thread, the same training with and without the callback. A step
is timed from its begin to the begin of the next, by the process's CPU time, so that other processes do not count.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

import torch
import transformers

from extcon_cli.integrations import CatalystCallback

SCORE, SHRINK, AFTER = 20, 20, 20


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random tokens; the label is the token."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(3, 1000, (64,), generator=torch.Generator().manual_seed(number))
        return {"input_ids": tokens, "labels": tokens}


class Clock(transformers.TrainerCallback):
    """CPU seconds at the begin of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.process_time())

    def median(self, begin: int, end: int) -> float:
        """Of the steps between two."""
        return statistics.median(b - a for a, b in pairwise(self.times[begin : end + 1]))


def train(*callbacks: Any) -> Clock:
    """One training; its clock."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        args = transformers.TrainingArguments(
            place, max_steps=SCORE + SHRINK + AFTER, per_device_train_batch_size=8, use_cpu=True, save_strategy="no",
            report_to=[], disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        clock = Clock()
        model = transformers.LlamaForCausalLM(config)
        transformers.Trainer(model, args, train_dataset=Tokens(), callbacks=[clock, *callbacks]).train()
    return clock


def main() -> None:
    """The table."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    plain = train()
    begun = time.process_time()
    callback = CatalystCallback(ratio=0.25, score_steps=SCORE, shrink_steps=SHRINK)
    pruned = train(callback)
    print(f"second training: {time.process_time() - begun:.1f} s of CPU", file=sys.stderr)
    print("| steps | plain, ms | with the callback, ms | more |\n|---|---:|---:|---:|")
    phases = {"score": (1, SCORE - 1), "flow": (SCORE, SCORE + SHRINK - 2), "smaller": (SCORE + SHRINK + 1, 59)}
    for name, span in phases.items():
        old, new = plain.median(*span), pruned.median(*span)
        print(f"| {name} | {1e3 * old:.1f} | {1e3 * new:.1f} | {new / old - 1:+.1%} |")
    removal = pruned.times[SCORE + SHRINK] - pruned.times[SCORE + SHRINK - 1]
    print(f"| removal, once | | {1e3 * removal:.0f} | |")


if __name__ == "__main__":
    main()

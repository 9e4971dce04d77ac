"""What the callbacks add to a training step of three trainers, in CPU time.

    python benchmarks/callback.py [transformers] [lightning] [ultralytics]

The same training without a callback, with Catalyst and with Bypass; random weights, random data, one thread. A step is
timed from its begin to the begin of the next, by the process's CPU time, so that other processes do not count.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

SCORE, SHRINK, AFTER = 20, 20, 20
STEPS = SCORE + SHRINK + AFTER
CATALYST = {"score_steps": SCORE, "shrink_steps": SHRINK}
BYPASS = {"start": 2, "opt_1": SCORE, "opt_2": SHRINK}
SPANS = {"score": (3, SCORE - 1), "flow": (SCORE + 2, SCORE + SHRINK - 1), "smaller": (STEPS - AFTER // 2, STEPS - 1)}
EXTENDED = {"opt_1": (5, SCORE - 1), "opt_2": (SCORE + 5, SCORE + SHRINK - 1)}


class Clock:
    """CPU seconds at the begin of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tick(self) -> None:
        self.times.append(time.process_time())

    def median(self, span: tuple[int, int]) -> float:
        """Of the steps between two."""
        begin, end = span
        return statistics.median(b - a for a, b in pairwise(self.times[begin : end + 1]))

    def longest(self) -> float:
        """Of all steps: the one with the removal."""
        return max(b - a for a, b in pairwise(self.times[3:]))


def in_transformers(callback: Any) -> Clock:
    """A small Llama on random tokens."""
    import transformers

    clock = Clock()

    class Ticking(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.tick()

    class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
            tokens = torch.randint(3, 1000, (64,), generator=torch.Generator().manual_seed(number))
            return {"input_ids": tokens, "labels": tokens}

    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        args = transformers.TrainingArguments(
            place, max_steps=STEPS, per_device_train_batch_size=8, use_cpu=True, save_strategy="no", report_to=[],
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        used = [Ticking()] if callback is None else [Ticking(), callback]
        model = transformers.LlamaForCausalLM(config)
        transformers.Trainer(model, args, train_dataset=Tokens(), callbacks=used).train()
    return clock


def in_lightning(callback: Any) -> Clock:
    """ResNet-18 on random pictures of 32 pixels, 32 a batch."""
    import lightning
    import torchvision

    clock = Clock()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Ticking(lightning.Callback):  # type: ignore[name-defined, misc]
        def on_train_batch_start(self, *_: Any) -> None:
            clock.tick()

    class Fit(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = torchvision.models.resnet18(num_classes=10)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    data = torch.utils.data.TensorDataset(torch.randn(320, 3, 32, 32), torch.randint(10, (320,)))
    used = [Ticking()] if callback is None else [Ticking(), callback]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            max_steps=STEPS, callbacks=used, logger=False, accelerator="cpu", enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(Fit(), torch.utils.data.DataLoader(data, batch_size=32))  # fmt: skip
    return clock


def in_ultralytics(callback: Any) -> Clock:
    """YOLOv8n on random pictures of 96 pixels, 8 a batch."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    import cv2
    import numpy as np
    from ultralytics import YOLO

    clock, size, epochs = Clock(), 96, 6
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        place = Path(folder)
        for kind in ("images", "labels"):
            (place / kind).mkdir()
        for number in range(8 * STEPS // epochs):
            picture = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
            cv2.imwrite(str(place / "images" / f"{number}.png"), picture)
            (place / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4")
        (place / "data.yaml").write_text(
            json.dumps({"path": folder, "train": "images", "val": "images", "names": ["a"]})
        )
        model = YOLO("yolov8n.yaml", task="detect")
        model.add_callback("on_train_batch_start", lambda trainer: clock.tick())
        if callback is not None:
            callback.attach(model)
        model.train(
            data=str(place / "data.yaml"), imgsz=size, epochs=epochs, batch=8, nbs=8, device="cpu", plots=False,
            amp=False, val=False, project=folder, warmup_epochs=0, optimizer="SGD", verbose=False,
        )  # fmt: skip
    return clock


def main() -> None:
    """The table."""
    from extcon_cli import integrations as ours

    torch.set_num_threads(1)
    trainers: dict[str, tuple[Callable[[Any], Clock], Any, Any]] = {
        "transformers": (in_transformers, ours.CatalystCallback, ours.BypassCallback),
        "lightning": (in_lightning, ours.LightningCatalyst, ours.LightningBypass),
        "ultralytics": (in_ultralytics, ours.UltralyticsCatalyst, ours.UltralyticsBypass),
    }
    print("| trainer | steps | plain, ms | with the callback, ms | more |\n|---|---|---:|---:|---:|")
    for name in sys.argv[1:] or trainers:
        train, catalyst, bypass = trainers[name]
        torch.manual_seed(0)
        plain = train(None)
        for callback, spans in ((catalyst(ratio=0.25, **CATALYST), SPANS), (bypass(**BYPASS), EXTENDED)):
            torch.manual_seed(0)
            clock = train(callback)
            for phase, span in spans.items():
                old, new = plain.median(span), clock.median(span)
                print(f"| {name} | {phase} | {1e3 * old:.1f} | {1e3 * new:.1f} | {new / old - 1:+.1%} |", flush=True)
            once = "removal" if spans is SPANS else "contraction"
            print(f"| {name} | {once}, once | | {1e3 * clock.longest():.0f} | |", flush=True)


if __name__ == "__main__":
    main()

"""Ultralytics' own loaders, validator and trainer, as phases of a pruning use them. It chooses and removes nothing.

Data are what Ultralytics reads: a YAML of pictures and labels, or a folder of pictures for a classifier. Its trainer
decides on augmentation, averaging of weights and loss; a recipe says how long it trains, with which optimizer and rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.checkpoint.ultralytics.file import Yolo
from extcon_cli.checkpoint.ultralytics.library import library, quiet
from extcon_cli.errors import DataError, GateError, first_line
from extcon_cli.integrations.ultralytics import UltralyticsCatalyst
from extcon_cli.recipe.schema import FinetuneSpec, Recipe

CLASSES = {"detect": "Detection", "segment": "Segmentation", "classify": "Classification", "pose": "Pose"}
"""What Ultralytics calls the trainer and the validator of a task."""
FIGURES = {
    "metrics/mAP50-95(B)": "map",
    "metrics/mAP50(B)": "map50",
    "metrics/mAP50-95(M)": "mask_map",
    "metrics/mAP50-95(P)": "pose_map",
    "metrics/accuracy_top1": "accuracy",
    "metrics/accuracy_top5": "top5",
}
"""Its validator's figures by our names."""
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSProp"}


class Session:
    """One checkpoint with its data, through Ultralytics.

    Args:
        folder: for what Ultralytics writes on its way.

    Raises:
        DataError: the data cannot be read, or have other classes than the model.
    """

    def __init__(self, yolo: Yolo, recipe: Recipe, folder: Path, device: torch.device) -> None:
        assert recipe.data is not None
        self.yolo, self.recipe, self.folder, self.device = yolo, recipe, folder, device
        self.batch_size = recipe.data.batch_size
        shape = recipe.model.input_shape
        self.image_size = shape[-1] if shape is not None else yolo.image_size
        found = self.trainer.data
        classes = len(found["names"])
        if classes != len(yolo.module.names):
            raise DataError(f"the data have {classes} classes, the model {len(yolo.module.names)}")
        with quiet():
            self.trainer.model = yolo.module
            self.trainer.set_model_attributes()

    @cached_property
    def steps(self) -> int:
        """Batches in an epoch."""
        with quiet():
            loader = self.trainer.get_dataloader(self.trainer.data["train"], batch_size=self.batch_size, rank=-1)
        return max(1, len(loader))

    def samples(self, split: str) -> int:
        """Pictures of Ultralytics' `train` or `val` split."""
        with quiet():
            loader = self.trainer.get_dataloader(
                self.trainer.data[split], batch_size=self.batch_size, rank=-1, mode="val"
            )
        return len(loader.dataset)

    @cached_property
    def trainer(self) -> Any:
        """A trainer that does not train: for its loaders and the settings of its loss."""
        return self._trainer({})

    def figures(self, module: nn.Module) -> dict[str, float]:
        """What Ultralytics' validator measures on its validation split."""
        with quiet(), torch.random.fork_rng(devices=[]):
            validator = self._class("Validator")(
                args={**self._settings(), "rect": self.yolo.task != "classify", "mode": "val"},
                save_dir=self.folder / "val",
            )
            found: Mapping[str, Any] = validator(model=copy.deepcopy(module).eval())
        figures = {ours: float(found[theirs]) for theirs, ours in FIGURES.items() if theirs in found}
        if not all(map(math.isfinite, figures.values())):
            raise GateError("the model's outputs on the validation data are not finite (NaN or infinity)")
        return figures

    def batches(self, count: int, size: int | None = None) -> Iterator[dict[str, Any]]:
        """`count` training batches, augmented, on the device."""
        with quiet():
            loader = self.trainer.get_dataloader(
                self.trainer.data["train"], batch_size=size or self.batch_size, rank=-1, mode="train"
            )
        given = 0
        while given < count:
            for batch in loader:
                if given == count:
                    return
                given += 1
                yield self.trainer.preprocess_batch(batch)

    def loss(self, module: Any, batch: Mapping[str, Any]) -> Tensor:
        """The loss that Ultralytics trains with: ()."""
        loss: Tensor = module.loss(batch)[0].sum()
        return loss

    def example(self) -> tuple[Tensor]:
        """Two training pictures: (2, 3, H, W)."""
        return (next(self.batches(1, 2))["img"],)

    def trained(
        self,
        module: nn.Module,
        epochs: int,
        spec: FinetuneSpec,
        *,
        on_batch: Callable[[int, float], None],
        callback: UltralyticsCatalyst | None = None,
    ) -> nn.Module:
        """What Ultralytics' trainer makes of a module: the best by its validation, averaged over steps; on the CPU.

        Args:
            on_batch: told the batches that are done, and the loss.
            callback: prunes on the way.
        """
        optimizer = spec.optimizer
        trainer = self._trainer({
            "epochs": epochs,
            "optimizer": OPTIMIZERS[optimizer.name],
            "lr0": optimizer.lr,
            "momentum": optimizer.momentum if optimizer.name == "sgd" else 0.9,
            "weight_decay": optimizer.weight_decay,
            "warmup_epochs": spec.schedule.warmup / self.steps,
            "warmup_bias_lr": 0.0,
            "cos_lr": spec.schedule.name == "cosine",
            "close_mosaic": min(10, epochs // 2),
            "nbs": self.batch_size,
            "patience": epochs,
            "name": "finetune",
        })  # fmt: skip
        trainer.model = module
        done = 0

        def tell(trainer: Any) -> None:
            nonlocal done
            done += 1
            on_batch(done, float(trainer.loss.detach()))

        trainer.add_callback("on_train_batch_end", tell)
        if callback is not None:
            callback.attach(trainer)
        with quiet():
            trainer.train()
            file = trainer.best if trainer.best.exists() else trainer.last
            small, _ = library("nn.tasks").load_checkpoint(str(file))
        result: nn.Module = small.cpu().eval().requires_grad_(True)
        return result

    def _class(self, what: str) -> Any:
        task = self.yolo.task
        if task not in CLASSES:
            raise DataError(f"a model for {task}: extcon prunes those for {', '.join(CLASSES)}")
        return getattr(library(f"models.yolo.{task}"), f"{CLASSES[task]}{what}")

    def _trainer(self, settings: Mapping[str, Any]) -> Any:
        try:
            with quiet():
                return self._class("Trainer")(overrides={**self._settings(), "mode": "train", **settings})
        except (RuntimeError, FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"Ultralytics cannot read the data: {first_line(error, 300)}") from error

    def _settings(self) -> dict[str, Any]:
        """What all of them are told."""
        assert self.recipe.data is not None
        return {
            "model": str(self.yolo.path),
            "task": self.yolo.task,
            "data": str(Path(str(self.recipe.data.root)).expanduser()),
            "imgsz": self.image_size,
            "batch": self.batch_size,
            "seed": self.recipe.seed,
            "device": str(self.device),
            "workers": self.recipe.data.workers,
            "project": str(self.folder.resolve()),
            "name": "data",
            "exist_ok": True,
            "plots": False,
            "amp": False,  # it would fetch a model to try it out
            "verbose": False,
        }

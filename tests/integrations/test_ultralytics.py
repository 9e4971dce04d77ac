"""Catalyst and Bypass as callbacks of Ultralytics' trainer: one training, the optimizer's states carried through."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from extcon_cli.errors import UsageError

pytestmark = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")

BATCHES = 12  # of 4 pictures, 2 an epoch


def train(made: Any, place: Path, callback: Any, **more: Any) -> Any:
    """Six epochs; the YOLO whose trainer is over."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    from ultralytics import YOLO

    from extcon_cli.checkpoint.ultralytics.library import quiet

    with quiet():
        yolo = YOLO(str(made.checkpoint(place / "tiny.pt", "detect")))
        callback.attach(yolo)
        yolo.train(
            data=str(made.pictures(place / "data", "detect")), imgsz=made.SIZE, device="cpu", plots=False, amp=False,
            project=str(place / "runs"), optimizer="AdamW", lr0=1e-3, val=False,
            **{"epochs": BATCHES // 2, "batch": 4, "nbs": 4, "warmup_epochs": 0, **more},
        )  # fmt: skip
    return yolo


def check_optimizer(trainer: Any) -> None:
    """It holds the model's parameters and no others, each with a state that was never started again."""
    held = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert {id(one) for one in held} == {id(one) for one in trainer.model.parameters()}
    for parameter in held:
        if parameter.requires_grad and parameter in trainer.optimizer.state:
            state = trainer.optimizer.state[parameter]
            assert state["exp_avg"].shape == parameter.shape
            assert int(state["step"]) == BATCHES, "it was not started again"
    assert len(trainer.optimizer.state) > 20
    shapes = {name: tensor.shape for name, tensor in trainer.model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in trainer.ema.ema.state_dict().items()} == shapes


def test_a_model_shrinks_while_it_is_trained(made: Any, tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel, load_checkpoint

    from extcon_cli.integrations import UltralyticsCatalyst

    callback = UltralyticsCatalyst(ratio=0.3, score_steps=3, shrink_steps=4)
    yolo = train(made, tmp_path, callback)
    assert callback.report is not None
    assert callback.report.certificate.exact
    check_optimizer(yolo.trainer)
    before = sum(parameter.numel() for parameter in made.model("detect").parameters())
    small, _ = load_checkpoint(str(yolo.trainer.last))
    assert sum(parameter.numel() for parameter in small.parameters()) < 0.9 * before
    again = DetectionModel(small.yaml, nc=2, verbose=False)  # what the next training begins with
    again.load_state_dict(small.state_dict(), strict=True)


def test_a_training_that_accumulates_shrinks_too(made: Any, tmp_path: Path) -> None:
    """As Ultralytics does by default: warm-up from a step each batch to one of several, over all of this training."""
    from extcon_cli.integrations import UltralyticsCatalyst

    callback = UltralyticsCatalyst(ratio=0.3)
    train(made, tmp_path, callback, epochs=8, nbs=16, warmup_epochs=8)
    assert callback.report is not None
    assert callback.report.certificate.exact


@pytest.mark.slow
@pytest.mark.parametrize("method", ["radius", "widen", "revive"])
def test_a_model_is_bypassed_while_it_is_trained(made: Any, tmp_path: Path, method: Any) -> None:
    from extcon_cli.integrations import UltralyticsBypass

    callback = UltralyticsBypass(method, start=1, opt_1=3, opt_2=5)
    if method == "revive":
        with pytest.warns(UserWarning, match="no unit is dead"):
            train(made, tmp_path, callback)
        assert callback.report is None
        return
    yolo = train(made, tmp_path, callback)
    assert callback.report is not None
    assert callback.report.relative <= 1e-5
    check_optimizer(yolo.trainer)
    assert set(yolo.trainer.model.state_dict()) == set(made.model("detect").state_dict())


def test_what_cannot_work_is_refused_at_the_start(made: Any, tmp_path: Path) -> None:
    from extcon_cli.integrations import UltralyticsCatalyst

    with pytest.raises(UsageError, match="do not fit in"):
        train(made, tmp_path, UltralyticsCatalyst(score_steps=20, shrink_steps=20))
    assert torch.is_grad_enabled()

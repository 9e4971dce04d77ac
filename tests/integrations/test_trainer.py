"""Catalyst as a callback of transformers' Trainer: scored, shrunk and removed while it trains; then it trains on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from extcon_cli.errors import UsageError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


class Words(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences that count up."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(8) + number) % 50 + 3
        return {"input_ids": tokens, "labels": tokens}


def trainer(place: Path, callback: Any, steps: int = 12, **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    args = transformers.TrainingArguments(
        str(place), max_steps=steps, per_device_train_batch_size=8, use_cpu=True, save_strategy="no", report_to=[],
        disable_tqdm=True, logging_strategy="no", learning_rate=1e-2, **more,
    )  # fmt: skip
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = transformers.LlamaForCausalLM(config)
    return transformers.Trainer(model, args, train_dataset=Words(), callbacks=[callback])


def test_a_model_shrinks_while_it_is_trained(tmp_path: Path) -> None:
    from extcon_cli.integrations import CatalystCallback

    callback = CatalystCallback(ratio=0.25, score_steps=3, shrink_steps=4)
    training = trainer(tmp_path / "run", callback)
    before = sum(p.numel() for p in training.model.parameters())
    training.train()
    model, optimizer = training.model, training.optimizer.optimizer
    assert callback.report is not None
    assert callback.report.certificate.exact
    assert sum(p.numel() for p in model.parameters()) < before
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    for parameter in held:
        state = optimizer.state[parameter]
        assert state["exp_avg"].shape == parameter.shape
        assert int(state["step"]) == 12, "it was not started again"
    training.save_model(str(tmp_path / "small"))
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small", local_files_only=True).eval()
    tokens = torch.arange(8)[None]
    wanted = model.eval()(tokens).logits
    assert (plain(tokens).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("steps", "more", "message"),
    [(3, {}, "do not fit in"), (12, {"load_best_model_at_end": True, "eval_strategy": "no"}, "load_best_model_at_end")],
)
def test_what_cannot_work_is_refused_at_the_start(
    tmp_path: Path, steps: int, more: dict[str, Any], message: str
) -> None:
    from extcon_cli.integrations import CatalystCallback

    callback = CatalystCallback(score_steps=3, shrink_steps=4)
    with pytest.raises(UsageError, match=message):
        trainer(tmp_path, callback, steps, **more).train()


@pytest.mark.parametrize("method", ["radius", "widen"])
def test_a_model_is_bypassed_while_it_is_trained(tmp_path: Path, method: Any) -> None:
    from extcon_cli.integrations import BypassCallback

    callback = BypassCallback(method, start=2, opt_1=3, opt_2=5)  # of widen: heads as well as neurons
    training = trainer(tmp_path / "run", callback)
    names = set(training.model.state_dict())
    training.train()
    model, optimizer = training.model, training.optimizer.optimizer
    assert callback.report is not None
    assert callback.report.relative <= 1e-5
    assert set(model.state_dict()) == names
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert {int(optimizer.state[p]["step"]) for p in held} == {12}, "it was not started again"
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in held)

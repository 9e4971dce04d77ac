"""Outputs that are looked up are those that would be computed, bit for bit, and no step computes more than a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.data.loader import Batch, InMemoryLoader
from extcon_cli.data.plan import mix
from extcon_cli.processes import WHOLE, Share
from extcon_cli.recipe.schema import AugmentSpec, DistillSpec, NormalizeSpec, TrainSpec
from extcon_cli.tasks import Classification
from extcon_cli.training import teacher as teachers
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import objective
from extcon_cli.training.teacher import Teacher

generator = torch.Generator().manual_seed(0)
X = torch.randint(256, (53, 1, 8, 8), dtype=torch.uint8, generator=generator)
Y = torch.randint(10, (53,), generator=generator)
AUGMENTS = [None, AugmentSpec(crop_padding=1), AugmentSpec(crop_padding=1, flip=True), AugmentSpec(flip=True)]


def loader(augment: AugmentSpec | None = None, share: Share = WHOLE, **more) -> InMemoryLoader:
    spec = NormalizeSpec(mean=(0.3,), std=(0.4,))
    return InMemoryLoader(X, Y, 16, augment=augment, normalize=spec, seed=5, shuffle=True, share=share, **more)


class Counting:
    """A teacher that counts the samples it computes."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.net = ZOO["digits_resnet"].build(widths=[4, 8])
        self.net.eval()
        self.samples = 0

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        self.samples += len(batch[0])
        out: Tensor = self.net(batch[0])
        return out


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("share", [WHOLE, Share(1, 2)])
def test_equal_keys_are_equal_inputs(augment: AugmentSpec | None, share: Share) -> None:
    batches = loader(augment, share)
    assert batches.variants is not None
    for step in (0, 1, 5, 9):
        keys = batches.keys(step)
        assert int(keys.max()) < batches.samples * batches.variants
        for told, found in zip(batches.of_keys(keys), batches.batch(step), strict=True):
            assert torch.equal(told, found)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_a_table_gives_what_would_be_computed_and_computes_each_input_once(augment: AugmentSpec | None) -> None:
    batches, forward, plain = loader(augment), Counting(), Counting()
    assert batches.variants is not None
    rows = 53 * batches.variants
    total = 4 * rows // 16
    taught = Teacher(forward, batches, total)
    for step in range(total):
        before, batch = forward.samples, batches.batch(step)
        assert torch.equal(taught.outputs(step, batch), plain(batch))
        assert forward.samples - before <= (32 if step == 0 else 16)
    assert taught.table is not None
    assert taught.table.whole
    assert forward.samples <= rows + 16 * 3 < plain.samples


def test_no_table_where_it_would_not_pay_or_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    def has_table(forward=None, total: int = 99, **more) -> bool:
        batches = loader(**more)
        taught = Teacher(forward or Counting(), batches, total)
        for step in range(3):
            taught.outputs(step, batches.batch(step))
        return taught.table is not None

    assert has_table()
    assert not has_table(total=3)
    assert not has_table(change=lambda batch, seed: (batch[0] + mix(seed) % 2, batch[1]))
    assert not has_table(lambda batch: batch[0].flatten(1) - batch[0][0].flatten())  # looks at its neighbours
    assert not has_table(lambda batch: {"logits": batch[0]})
    monkeypatch.setattr(teachers, "MOST_BYTES", 53 * 10 * 4 - 1)
    assert not has_table()


def test_training_is_the_same_with_a_table_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(most: int) -> tuple[list[float], bool]:
        monkeypatch.setattr(teachers, "MOST_BYTES", most)
        torch.manual_seed(3)
        net: nn.Module = ZOO["digits_resnet"].build(widths=[4])
        goal = objective(Classification(), distill=DistillSpec())
        run = Trainer(
            net, loader(), TrainSpec(steps=12), objective=goal, accelerator=create_accelerator("cpu"),
            teacher=Counting().net,
        )  # fmt: skip
        losses = [float(step.loss) for step in run]
        assert run._taught is not None
        return losses, run._taught.table is not None

    kept, computed = trained(2**20), trained(0)
    assert kept == (computed[0], True)
    assert not computed[1]

"""The verdict of the probe: a gain has to be large, and larger than its noise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from extcon_cli.bypass.strategies import EXTENSIONS, RESTARTS
from extcon_cli.errors import UsageError
from extcon_cli.pipelines.bypassing.diagnosis import Evidence, _extensions, conclude
from extcon_cli.pipelines.bypassing.probe import Refusal, Trial
from extcon_cli.pipelines.bypassing.stalled import Stalled
from extcon_cli.recipe.schema import BypassSpec
from extcon_cli.report.results.bypass import DeadUnits, Depth, Diagnosis, Features, GradientNorm, ProbeGain

NOISE = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


SOUND = Evidence({}, GradientNorm(1.0, 0.1))


def trial(loss: float, noise: float = 0.0) -> Trial:
    return Trial([1.0, 0.9, 1.0, 0.9], loss + noise * NOISE)


def verdict(least_gain: float = 0.05, **trials: Trial | Refusal) -> Diagnosis:
    made = {"baseline": trial(1.0), **trials}
    return conclude(made, SOUND, least_gain=least_gain)


def test_a_large_sure_gain_is_predicted_with_its_error() -> None:
    found = verdict(diag=trial(0.7, noise=0.4))
    assert found.predicted
    assert found.gain == pytest.approx(0.3, abs=0.05)
    assert found.gain_error == pytest.approx(0.4 / 20, rel=0.1)


def test_a_gain_within_its_noise_or_too_small_is_not() -> None:
    assert not verdict(diag=trial(0.7, noise=10.0)).predicted
    assert not verdict(diag=trial(0.97)).predicted
    assert verdict(least_gain=0.02, diag=trial(0.97)).predicted
    assert not verdict(diag=trial(1.5)).predicted


def test_the_surest_extension_speaks_for_all_and_controls_do_not() -> None:
    found = verdict(
        lr_drop=trial(0.1), diag=trial(0.5, noise=20.0), widen=trial(0.8), revive=Refusal("no unit is dead")
    )
    assert found.probed == "widen"
    assert found.predicted
    assert found.refused == {"revive": "no unit is dead"}
    assert not verdict(lr_drop=trial(0.1), diag=trial(1.0)).predicted


def test_a_jump_while_the_optimizer_settles_is_no_slope() -> None:
    losses = [5.0, 4.0, 3.0, *[1.0, 0.9] * 6]
    assert verdict(baseline=Trial(losses, 1.0 + NOISE), diag=trial(1.0)).stalled
    falling = Trial([2.0 - 0.1 * step for step in range(12)], 1.0 + NOISE)
    assert not verdict(baseline=falling, diag=trial(1.0)).stalled


def test_an_extension_far_behind_the_best_is_told() -> None:
    assert verdict(diag=trial(0.95, noise=0.1), widen=trial(0.5, noise=0.1), mirror=trial(0.501)).excluded == ("diag",)
    assert verdict(diag=trial(0.95, noise=9.0), widen=trial(0.5, noise=0.1)).excluded == ()


def test_no_extension_at_all_is_refused_with_the_reasons() -> None:
    with pytest.raises(UsageError, match="diag: cannot be traced; revive: no unit is dead"):
        verdict(diag=Refusal("cannot be traced"), revive=Refusal("no unit is dead"))


MOST_DEAD = {"act": DeadUnits(dead=55, nearly=0, units=64)}


def test_dead_units_outweigh_a_slope_and_a_probe_that_is_not_sure() -> None:
    falling = Trial([2.0 - 0.1 * step for step in range(12)], 1.0 + NOISE)
    noisy = {"baseline": falling, "revive": trial(0.4, noise=20.0), "mirror": trial(3.0, noise=0.1)}
    found = conclude(noisy, replace(SOUND, dead=MOST_DEAD), least_gain=0.05)
    assert found.stalled
    assert found.predicted
    assert found.excluded == ("mirror",)
    assert "stalled: 55 of 64 units are dead, so a gain is to be expected" in found.verdict
    few = {"act": DeadUnits(dead=5, nearly=0, units=64)}
    assert not conclude(noisy, replace(SOUND, dead=few), least_gain=0.05).predicted


def test_a_probe_that_is_sure_of_no_gain_outweighs_dead_units() -> None:
    nothing = {"baseline": trial(1.0), "revive": trial(1.0)}
    found = conclude(nothing, replace(SOUND, dead=MOST_DEAD), least_gain=0.05)
    assert found.stalled
    assert not found.predicted
    assert "a longer probe" in found.verdict


def test_the_signs_are_a_small_table() -> None:
    found = verdict(diag=trial(0.7), lr_drop=trial(1.2), revive=Refusal("no unit is dead"))
    assert [(row.sign, row.says) for row in found.signs] == [
        ("the loss, going on", "it has stopped falling"),
        ("the gradient", "alone no sign"),
        ("probe: diag", "gains"),
        ("control: lr_drop", "loses"),
        ("probe: revive", "not possible: no unit is dead"),
    ]
    assert found.verdict.endswith("predicts a gain (diag 30.00 % +- 0.00 % over going on); worth trying: diag")


@pytest.mark.parametrize(
    ("temperature", "prescribed"), [(1.4, ("shrink",)), (1.0, ("restart",)), (None, ("restart", "shrink"))]
)
def test_a_healthy_net_is_restarted_and_shrunk_where_it_is_too_sure(
    temperature: float | None, prescribed: tuple[str, ...]
) -> None:
    def found(dead: dict[str, DeadUnits], **trials: Trial | Refusal) -> tuple[str, ...]:
        evidence = replace(SOUND, dead=dead, temperature=temperature)
        made = {"baseline": trial(1.0), **trials}
        return conclude(made, evidence, least_gain=0.05, restarts=("restart", "shrink")).remedies

    assert found({}, diag=trial(1.0)) == prescribed
    assert found({}, diag=Refusal("cannot be traced")) == prescribed
    assert found({}, widen=trial(0.5), diag=trial(0.95, noise=0.1)) == ("widen", *prescribed)[-2:]
    assert found(MOST_DEAD, widen=trial(0.301, noise=0.1), revive=trial(0.3, noise=0.2)) == ("revive", "widen")


def begun(loss: float) -> torch.Tensor:
    """Of theta*: a loss with a little noise of each sample, so that gains have an error."""
    return loss + 0.01 * NOISE


def level(loss: float) -> torch.Tensor:
    return torch.full((400,), loss).double()


NARROW, WIDE, BY_HEART = begun(0.9), begun(0.6), begun(0.4)
"""Training losses near the validation loss of theta*, below it, and far below it."""
DEEP = Depth(layers=24, signal=1e-7, gradient=1e-12, signals=(0.1, 1e-7), gradients=(1e-12, 1.0))


@pytest.mark.parametrize(
    ("kind", "fitted", "learnt", "going_on", "lowered", "others", "wider", "depth", "prescribed"),
    [
        ("overfitting", WIDE, 0.3, 1.3, 1.2, 3.0, None, None, ("shrink",)),
        ("overfitting", BY_HEART, 0.4, 1.0, 1.0, 3.0, None, None, ("shrink",)),
        ("overfitting", begun(0.2), 0.1, 0.8, 0.7, 3.0, None, None, ("shrink",)),
        ("rate too high", WIDE, 0.4, 1.0, 0.6, 3.0, None, None, ("shrink",)),
        ("finished schedule", WIDE, 0.6, 1.3, 1.01, 3.0, None, None, ("shrink",)),
        ("still learning", WIDE, 0.3, 0.9, 0.95, 3.0, None, None, ("shrink",)),
        ("plateau", WIDE, 0.4, 1.0, 1.0, 3.0, None, None, ("shrink",)),
        ("capacity-bound", NARROW, 0.9, 1.0, 1.0, 3.0, 0.8, None, ("shrink",)),
        ("plateau", NARROW, 0.9, 1.0, 1.0, 3.0, 0.99, None, ("shrink",)),
        ("data at fault", WIDE, 0.3, 1.3, 1.2, 1.0, None, None, ()),
        ("dying stack", NARROW, 0.9, 1.0, 1.0, 1.0, None, DEEP, ("identity",)),
        ("plateau", WIDE, 0.4, 1.0, 1.0, 3.0, None, Depth(7, 2e-3, 0.02), ("shrink",)),
    ],
)
def test_the_kind_of_plateau_and_what_it_asks_for(
    kind: str,
    fitted: torch.Tensor,
    learnt: float,
    going_on: float,
    lowered: float,
    others: float,
    wider: float | None,
    depth: Depth | None,
    prescribed: tuple[str, ...],
) -> None:
    losses = [2.0 - 0.05 * step for step in range(16)] if kind == "still learning" else [1.0, 0.9] * 8
    trials = {
        "baseline": Trial(losses, level(going_on), level(learnt), level(going_on)),
        "lr_drop": Trial(losses, level(lowered)),
        **({"wider": trial(wider)} if wider is not None else {}),
    }
    theta = Trial([], begun(1.0), fitted, shuffled=level(others))
    evidence = Evidence({}, GradientNorm(1.0, 0.1), 1.5, theta, depth)
    found = conclude(trials, evidence, least_gain=0.05, restarts=("identity", "restart", "shrink"))
    assert found.kind == kind
    assert found.remedies == prescribed
    said = "its schedule has come to an end" if kind == "finished schedule" else "it still learns"
    assert (said if kind in ("finished schedule", "still learning") else kind.split()[0]) in found.verdict or (
        kind == "plateau"
    )
    assert ("Bypassing is not the remedy" in found.verdict) == (kind == "overfitting")
    assert (f"worth trying: {prescribed[-1]}" in found.verdict) if prescribed else "worth" not in found.verdict
    rows = {row.sign: row.says for row in found.signs}
    assert rows["temperature"] == "too sure of its answers"
    assert rows["the answers"] == ("chance" if others == 1.0 else "they tell targets apart")
    assert ("the deep stack" in rows) == (depth is not None)


def test_where_a_net_overfits_and_is_not_too_sure_nothing_is_prescribed() -> None:
    trials = {"baseline": Trial([1.0, 0.9] * 8, level(1.3), level(0.3))}
    evidence = replace(SOUND, temperature=1.0, theta=Trial([], begun(1.0), WIDE))
    found = conclude(trials, evidence, least_gain=0.05, restarts=("restart", "shrink"))
    assert found.remedies == ()
    assert "Bypassing is not the remedy" in found.verdict


@pytest.mark.parametrize(
    ("explained", "rank", "kind"), [(0.3, 5.0, "capacity-bound"), (0.3, 2.0, "plateau"), (0.1, 5.0, "plateau")]
)
def test_what_a_read_out_explains_beside_a_net_that_uses_its_width_tells_that_capacity_is_missing(
    explained: float, rank: float, kind: str
) -> None:
    trials = {"baseline": Trial([1.0, 0.9] * 8, level(1.0), level(0.9))}
    evidence = replace(SOUND, theta=Trial([], begun(1.0), NARROW), read_out=ProbeGain(1 - explained, explained, 0.01))
    evidence = replace(evidence, features=Features(rank, 6))
    found = conclude(trials, evidence, least_gain=0.05, restarts=("restart",))
    assert found.kind == kind
    assert ("a read-out of random features" in found.verdict) == (kind == "capacity-bound")
    assert ("a read-out beside it", "gains") in {(row.sign, row.says) for row in found.signs}


def test_extensions_are_probed_where_the_recipe_names_them_or_units_are_dead_and_not_where_no_unit_is_known() -> None:
    def probed(dead: dict[str, DeadUnits], *named: str) -> tuple[str, ...]:
        spec = BypassSpec.model_validate({"extensions": [*named]} if named else {})
        return _extensions(cast(Stalled, SimpleNamespace(spec=spec)), replace(SOUND, dead=dead))

    own = tuple(name for name in EXTENSIONS if name not in RESTARTS)
    assert probed(MOST_DEAD) == own
    assert probed({"act": DeadUnits(dead=0, nearly=0, units=64)}) == ()
    assert probed({}) == ()
    assert probed({}, "restart", "mirror") == ("mirror",)

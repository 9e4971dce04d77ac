"""The section `bypass` of a recipe: probe, opt_1, opt_2, train_3 (docs/method/bypass.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Strict

from extcon_cli.recipe.base import Duration, Names, Section, ShareAboveZero, ShareBelowOne, ShareInside
from extcon_cli.recipe.train_schema import OptimizerSpec, ScheduleSpec, SpeedSpec

Extension = Literal["diag", "mirror", "revive", "widen", "identity", "restart", "shrink"]


class ProbeSpec(Section):
    """The run in miniature, from copies on the same batches: going on, a lowered learning rate, and what the evidence
    leaves open: extensions with their contraction where units are dead, a wider copy where capacity may be missing."""

    steps: Annotated[int, Field(ge=8)] = 50
    """Steps of each copy: half of them opt_1, a quarter opt_2 (by `radius`), a quarter train_3."""

    gain: ShareBelowOne = 0.05
    """Share of the validation loss that an extension has to gain over going on, and twice the standard error of that
    gain, else the run stops."""

    lr_drop: ShareInside = 0.1
    """Factor of the learning rate of the control."""


class Opt1Spec(Duration):
    """Training in the extended space."""

    epochs: PositiveFloat | None = 20.0
    """Length in passes over the training data; fractions are allowed. Or give `steps`."""

    optimizer: OptimizerSpec | None = None
    """What moves the parameters in this phase. null: the common one."""


class Train3Spec(Duration):
    """Training in the original space again."""

    optimizer: OptimizerSpec | None = None
    """What moves the parameters in this phase. null: the common one."""


class RaisedSpec(Duration):
    """A later, steeper growth of the weight."""

    gamma: PositiveFloat
    """Growth k from then on."""


class Opt2Spec(Duration):
    """The way back: D vanishes."""

    method: Literal["radius", "proximal", "penalty", "controlled"] = "radius"
    """`radius`: ||D|| under r0 (1 - t/T), exactly 0 at T. `proximal`: a proximal step after each optimizer step.
    `penalty`: the paper's, in the loss. `controlled`: proximal, its weight held while the loss is above the
    loss at theta*. Those that have not come back at the end give no result."""

    gamma: PositiveFloat | None = None
    """Growth k of the weight gamma(t) = k t (not radius). null: 0.005 for `penalty`; for `proximal` and `controlled` as
    much as takes D to zero in half of the steps where the loss does not pull."""

    raised: RaisedSpec | None = None
    """After how many epochs or steps of opt_2 gamma grows faster, and how fast (paper, section VI-C). null: never."""

    epsilon: PositiveFloat = 1e-4
    """||A D W||, or ||D||, below which a site is projected (penalty)."""

    epochs: PositiveFloat | None = 10.0
    """Length T in passes over the training data; fractions are allowed. Or give `steps`."""

    optimizer: OptimizerSpec | None = None
    """What moves the parameters in this phase. null: the common one."""


class WidenSpec(Section):
    """New units, trained in opt_1; in opt_2 as many, old or new, go again by Catalyst's flow."""

    share: ShareAboveZero = 0.5
    """New units as a share of a layer's."""

    layers: Names = ("*",)
    """Name patterns of the layers to widen."""


class RestartSpec(Section):
    """Training anew at a raised constant rate, with the mean of the last weights (`restart`, `shrink`)."""

    rate: PositiveFloat = 3.0
    """Factor of the learning rate."""

    warmup: ShareBelowOne = 0.05
    """Share of the steps over which the learning rate rises."""

    average: ShareAboveZero = 0.6
    """Share of the steps, the last, of which every tenth state counts for the mean."""

    shrink: ShareAboveZero = 0.6
    """Factor of all weights but those of normalisation layers (`shrink`)."""


class BypassSpec(SpeedSpec):
    """How `extcon bypass` leaves a plateau."""

    extensions: Annotated[tuple[Extension, ...], Strict(False), Field(min_length=1)] | None = None
    """Which are tried, each for as many steps. null: the diagnosis picks one or two.

    `diag` adds D x to activations and lets D vanish (the paper's), `mirror` turns D into mirror images of the units and
    lets as many units vanish, `revive` gives dead units new weights, `widen` adds units and contracts them away again,
    `identity` lets the hidden square layers of a deep plain stack begin anew near the identity, `restart` trains at a
    raised rate and averages, `shrink` the same from smaller weights. The best on the validation data is kept."""

    start: Literal["checkpoint", "initialisation"] = "checkpoint"
    """Where theta* is: the checkpoint, or new weights drawn by `seed` in their place (paper, section VI-B)."""

    cycles: PositiveInt = 1
    """How often all of it is repeated, each time from the best so far."""

    widen: WidenSpec = WidenSpec()
    """The extension by new units."""

    restart: RestartSpec = RestartSpec()
    """The restarts."""

    form: Literal["auto", "strict", "relaxed"] = "auto"
    """`strict`: between dense layers, by A D W. `relaxed`: any activation, by D. `auto`: strict where possible."""

    layers: Names = ("*",)
    """Name patterns of the activations to extend."""

    probe: ProbeSpec = ProbeSpec()
    """Whether it is worth it."""

    opt_1: Opt1Spec = Opt1Spec()
    """Training in the extended space."""

    opt_2: Opt2Spec = Opt2Spec()
    """The way back."""

    train_3: Train3Spec = Train3Spec()
    """Training in the original space again."""

    optimizer: OptimizerSpec = OptimizerSpec(name="adam", lr=0.001)
    """What moves the parameters in the baseline, and in every phase that names no other. Moments are carried from
    phase to phase where the kind stays."""

    schedule: ScheduleSpec = ScheduleSpec(name="constant")
    """How the learning rate changes, over all phases together."""

    clip_grad: PositiveFloat | None = None
    """Largest norm of the gradient. null: any."""

    baseline: bool = True
    """Also go on without bypassing for as many steps, and with the controls, to compare."""

    controls: Annotated[tuple[Literal["lr_drop", "cosine", "perturbed"], ...], Strict(False)] | None = None
    """Never chosen: a lowered learning rate, half a cosine from the learning rate to zero, and weights moved at
    random. null: the stronger of the first two, by the kind of the plateau."""

    allow_wider: bool = False
    """Where only a wider model helps, also keep new units for good (`widen`). It becomes the result where it gains
    `probe.gain` over the best model of the own architecture; the run says what it costs."""

    perturbation: PositiveFloat = 0.1
    """How far `perturbed` moves each weight, as a share of its tensor's root mean square."""

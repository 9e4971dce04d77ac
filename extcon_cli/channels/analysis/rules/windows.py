"""Windows over space: patches as columns and back, regions and points that are sampled. Channels stay apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from extcon_cli.channels.analysis.axes import Value
from extcon_cli.channels.analysis.known import along, per_channel
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, shape
from extcon_cli.channels.analysis.rules.linear import LinearMap, convolved
from extcon_cli.channels.analysis.rules.registry import constants, flow
from extcon_cli.channels.analysis.rules.views import tie_rows


@flow("im2col")
def patches(op: FlowOperator) -> Value:
    """F.unfold: each channel becomes as many behind each other as a patch has positions."""
    *outer, axis, high, wide = op.axes(0)
    op.refuse([high, wide], "windows slide along it")
    if axis is None:
        return (*outer, None, None)
    return (*outer, axis.take(np.arange(len(axis.positions)).repeat(_taps(op))), None)


@constants("im2col")
def known_patches(op: KnownOperator) -> Tensor:
    """A constant map gives constant patches; with padding only zeros do."""
    channels = per_channel(op.constant(0), op.rank - 2, shape(op.input(0))[-3])
    if any(op.integers("padding")):
        channels = torch.where(channels == 0, 0.0, torch.nan)
    return along(channels.repeat_interleave(_taps(op)), op.rank - 2, op.rank)


@flow("col2im")
def patches_added(op: FlowOperator) -> Value:
    """F.fold: a patch's positions become one channel again, where patches overlap their sum."""
    *outer, axis, places = op.axes(0)
    op.freeze([places], "windows are laid along it")
    if axis is None:
        return (*outer, None, None, None)
    return (*outer, tie_rows(op, axis, np.arange(len(axis.positions)).reshape(-1, _taps(op)).T), None, None)


@constants("col2im")
def known_sum_of_patches(op: KnownOperator) -> Tensor:
    """Zero where all positions of a patch are; how many patches overlap is another matter."""
    zero = per_channel(op.constant(0), op.rank - 3, shape(op.input(0))[-2]) == 0
    return along(torch.where(zero.reshape(-1, _taps(op)).all(1), 0.0, torch.nan).double(), op.rank - 3, op.rank)


def _taps(op: FlowOperator | KnownOperator) -> int:
    """How many positions a patch has."""
    return int(np.prod(op.integers("kernel_size")))


@flow("unfold")
def windows(op: FlowOperator) -> Value:
    """Windows along one dimension, their positions along a new one at the end."""
    value = op.axes(0)
    dim = op.dim(len(value), "dimension")
    op.freeze([value[dim]], "windows slide along it")
    return (*value[:dim], None, *value[dim + 1 :], None)


@constants("unfold")
def known_windows(op: KnownOperator) -> Tensor:
    """What is equal all along a dimension is so in every window."""
    read, dim = op.constant(0), op.dim(op.rank - 1, "dimension")
    low, high = read.amin(dim, True), read.amax(dim, True)
    return torch.where(low == high, low, torch.nan).unsqueeze(-1)


@flow("roi_align")
def regions(op: FlowOperator) -> Value:
    """Every channel is read at the same places, which the boxes name: (boxes, channels, height, width)."""
    batch, axis, *space = op.axes(0)
    op.refuse((batch, *space, *op.axes(1)), "places are looked up")
    return (None, axis, None, None)


@constants("roi_align")
def known_regions(op: KnownOperator) -> Tensor:
    """Zero where it reads zeros only, whatever is taken beyond the borders."""
    zero = per_channel(op.constant(0), 1, shape(op.input(0))[1]) == 0
    return along(torch.where(zero, 0.0, torch.nan).double(), 1, 4)


@flow("deform_conv2d")
def deformed_convolution(op: FlowOperator) -> Value:
    """A convolution whose taps lie where offsets say; these and the masks are no channels."""
    batch, *_ = op.axes(0)
    op.refuse((*op.axes("offset"), *op.axes("mask"), *op.axes(0)[2:]), "places are looked up")
    if op.integer("offset_groups") > 1:
        op.freeze(op.axes(0)[1:2], "channels have offsets of their own")
    return (batch, convolved(op, LinearMap.of(op)), None, None)

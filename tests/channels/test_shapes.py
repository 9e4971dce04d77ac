"""What is told of common operators on meta tensors is what torch says of them."""

from __future__ import annotations

import pytest
import torch

from extcon_cli.channels.analysis import shapes

X = torch.randn(2, 6, 9, 8)
PERMUTED = X.permute(0, 2, 3, 1)
CALLS: dict[str, tuple[object, tuple[object, ...]]] = {
    "relu": (torch.ops.aten.relu.default, (X,)),
    "in place": (torch.ops.aten.silu_.default, (X.clone(),)),
    "scaled": (torch.ops.aten.mul.Tensor, (X, 2.0)),
    "broadcast": (torch.ops.aten.add.Tensor, (X, torch.randn(6, 1, 1))),
    "onto": (torch.ops.aten.add_.Tensor, (X.clone(), torch.randn(9, 8))),
    "cat": (torch.ops.aten.cat.default, ([X, X[:, :2].contiguous()], 1)),
    "cat, from behind": (torch.ops.aten.cat.default, ([X, X], -1)),
    "linear": (torch.ops.aten.linear.default, (X, torch.randn(5, 8), torch.randn(5))),
    "linear, permuted": (torch.ops.aten.linear.default, (PERMUTED, torch.randn(5, 6), torch.randn(5))),
    "one by one, permuted": (torch.ops.aten.gelu.default, (PERMUTED,)),
    "beside a vector, permuted": (torch.ops.aten.mul.Tensor, (PERMUTED, torch.randn(6))),
    "a vector beside it": (torch.ops.aten.mul.Tensor, (torch.randn(6), PERMUTED)),
    "beside another order": (torch.ops.aten.add.Tensor, (PERMUTED, PERMUTED.contiguous())),
    "layer norm": (torch.ops.aten.layer_norm.default, (X, [9, 8], torch.randn(9, 8), None, 1e-5)),
    "layer norm, permuted": (torch.ops.aten.layer_norm.default, (PERMUTED, [6], torch.randn(6), torch.randn(6))),
    "group norm": (torch.ops.aten.group_norm.default, (X, 3, torch.randn(6), torch.randn(6), 1e-5)),
    "power": (torch.ops.aten.pow.Tensor_Scalar, (PERMUTED, 2)),
    "mean": (torch.ops.aten.mean.dim, (X, [-1, 1])),
    "mean, as a length of one": (torch.ops.aten.mean.dim, (X, [2], True)),
    "attention": (torch.ops.aten.scaled_dot_product_attention.default, (X, X, X, torch.zeros(2, 1, 9, 9))),
    "conv2d": (torch.ops.aten.conv2d.default, (X, torch.randn(4, 3, 3, 2), None, [2, 1], [1, 0], [1, 2], 2)),
    "conv1d": (torch.ops.aten.conv1d.default, (X[0], torch.randn(4, 9, 3), torch.randn(4))),
    "max pool": (torch.ops.aten.max_pool2d.default, (X, [3, 2], [], [1, 1])),
    "average": (torch.ops.aten.adaptive_avg_pool2d.default, (X, [3, 1])),
    "dropout": (torch.ops.aten.dropout.default, (X, 0.5, False)),
}
LEFT_TO_TORCH: dict[str, tuple[object, tuple[object, ...]]] = {
    "conv, other channels": (torch.ops.aten.conv2d.default, (X, torch.randn(4, 5, 3, 3))),
    "conv, groups that do not fit": (
        torch.ops.aten.conv2d.default,
        (X, torch.randn(3, 3, 3, 3), None, [1], [0], [1], 2),
    ),
    "linear, other width": (torch.ops.aten.linear.default, (X, torch.randn(5, 7))),
    "bias of another width": (torch.ops.aten.linear.default, (X, torch.randn(5, 8), torch.randn(4))),
    "no broadcast": (torch.ops.aten.add.Tensor, (X, torch.randn(5, 1, 1))),
    "grows in place": (torch.ops.aten.add_.Tensor, (X[:1].clone(), X)),
    "cat of other sizes": (torch.ops.aten.cat.default, ([X, X[:, :, :3].contiguous()], 1)),
    "other types": (torch.ops.aten.add.Tensor, (X, X.double())),
    "with gaps": (torch.ops.aten.relu.default, (X[..., ::2],)),
    "an order that nobody gives": (torch.ops.aten.add.Tensor, (X[:, :1], PERMUTED.permute(0, 3, 1, 2))),
    "layer norm of another width": (torch.ops.aten.layer_norm.default, (X, [7], None, None)),
    "group norm that does not fit": (torch.ops.aten.group_norm.default, (X, 4, None, None)),
    "attention over other heads": (torch.ops.aten.scaled_dot_product_attention.default, (X, X[:, :3], X[:, :3])),
    "mean of all": (torch.ops.aten.mean.dim, (X, None)),
    "whole numbers": (torch.ops.aten.div.Tensor, (X.long(), X.long())),
    "a kernel too large": (torch.ops.aten.conv2d.default, (X, torch.randn(4, 6, 11, 1))),
    "dropout in training": (torch.ops.aten.dropout.default, (X, 0.5, True)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_known_shape_is_that_of_the_result(name: str) -> None:
    func, args = CALLS[name]
    assert callable(func)
    found, expected = shapes.known(func, args, {}), func(*args)
    assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), expected.dtype)


@pytest.mark.parametrize("name", LEFT_TO_TORCH)
def test_what_does_not_fit_is_left_to_torch(name: str) -> None:
    func, args = LEFT_TO_TORCH[name]
    assert shapes.known(func, args, {}) is None

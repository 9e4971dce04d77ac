"""A linear map by itself as a call in each runtime: what the table of layer times is measured on. It knows no model.

In a runtime of files a convolution stands between a cheap one that writes its input and a mean over space: there it
finds and leaves its channels in the order in memory that the runtime prefers, as between other layers. What this frame
takes is measured too, and taken off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from extcon_cli.channels.layers import LayerShape
from extcon_cli.export.formats import RUNTIMES
from extcon_cli.latency.clock import Call
from extcon_cli.latency.runtimes import Setting

FRAME = 4
"""Channels that the cheap convolution reads."""


def alone(shape: LayerShape, setting: Setting) -> Call:
    """A call that runs the map once, in its frame where it has one."""
    format = RUNTIMES[setting.runtime]
    if format is None:
        return _in_torch(shape, setting)
    return _in_onnxruntime(shape, setting) if format == "onnx" else _in_openvino(shape, setting)


def frame(shape: LayerShape, setting: Setting) -> Call | None:
    """A call that runs the frame of a map without the map. None: it has none."""
    if RUNTIMES[setting.runtime] is None or not shape.kernel:
        return None
    return alone(LayerShape(shape.inputs, 0, shape.sizes, kernel=shape.kernel), setting)


def _in_torch(shape: LayerShape, setting: Setting) -> Call:
    make = {"device": setting.device}
    inputs = torch.rand(_input(shape, shape.inputs), **make)  # type: ignore[call-overload]
    weight = torch.rand(_weight(shape), **make)  # type: ignore[call-overload]
    bias = torch.rand(shape.outputs, **make)  # type: ignore[call-overload]
    run: Callable[[], object]
    if not shape.kernel:
        run = lambda: functional.linear(inputs, weight, bias)  # noqa: E731
    else:
        kind = f"conv{'_transpose' * shape.transposed}{len(shape.kernel)}d"
        given = {
            name: getattr(shape, name) for name in ("stride", "padding", "dilation", "groups") if getattr(shape, name)
        }
        run = lambda: getattr(functional, kind)(inputs, weight, bias, **given)  # noqa: E731

    def call() -> None:
        with torch.inference_mode():
            run()
        if setting.device.startswith("cuda"):
            torch.cuda.synchronize(setting.device)

    return call


def _in_onnxruntime(shape: LayerShape, setting: Setting) -> Call:
    from onnx import TensorProto, helper, numpy_helper

    from extcon_cli.export import onnx

    stored, nodes = [], []

    def held(name: str, array: Any) -> str:
        stored.append(numpy_helper.from_array(array, name))
        return name

    if not shape.kernel:
        weight, bias = held("w", _numbers(_weight(shape))), held("b", _numbers((shape.outputs,)))
        nodes.append(helper.make_node("Gemm", ["x", weight, bias], ["y"], transB=1))
    else:
        first = held("f", _numbers((shape.inputs, FRAME, *(1,) * len(shape.kernel))))
        nodes += [helper.make_node("Conv", ["x", first], ["u"]), helper.make_node("Relu", ["u"], ["v"])]
        if shape.outputs:
            settings: dict[str, Any] = {
                "strides": shape.stride,
                "pads": [*shape.padding, *shape.padding],
                "dilations": shape.dilation,
                "group": shape.groups,
            }
            kind = "ConvTranspose" if shape.transposed else "Conv"
            weight, bias = held("w", _numbers(_weight(shape))), held("b", _numbers((shape.outputs,)))
            nodes.append(helper.make_node(kind, ["v", weight, bias], ["w1"], **settings))
            nodes.append(helper.make_node("Relu", ["w1"], ["w2"]))
        nodes.append(helper.make_node("GlobalAveragePool", ["w2" if shape.outputs else "v"], ["y"]))
    sizes = _input(shape, FRAME if shape.kernel else shape.inputs)
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    run, array = onnx.load(model.SerializeToString(), setting.threads), _numbers(sizes)
    return lambda: run([array])


def _in_openvino(shape: LayerShape, setting: Setting) -> Call:
    from openvino import Model, opset13

    from extcon_cli.export import openvino

    ops: Any = opset13  # made at import, so that no type is known
    sizes = _input(shape, FRAME if shape.kernel else shape.inputs)
    given = ops.parameter(list(sizes), np.float32)
    if not shape.kernel:
        last = ops.add(ops.matmul(given, _numbers(_weight(shape)), False, True), _numbers((shape.outputs,)))
    else:
        rank = len(shape.kernel)
        one, none = [1] * rank, [0] * rank
        first = _numbers((shape.inputs, FRAME, *one))
        last = ops.relu(ops.convolution(given, first, one, none, none, one))
        if shape.outputs:
            weight, kind = _weight(shape), "convolution"
            if shape.groups > 1:  # the groups have a dimension of their own
                weight, kind = (shape.groups, weight[0] // shape.groups, *weight[1:]), "group_convolution"
            convolve = getattr(ops, f"{kind}_backprop_data" if shape.transposed else kind)
            settings = {"strides": list(shape.stride), "dilations": list(shape.dilation)}
            settings |= {"pads_begin": list(shape.padding), "pads_end": list(shape.padding)}
            last = ops.relu(convolve(last, _numbers(weight), **settings))
        last = ops.reduce_mean(last, np.arange(2, 2 + rank), True)
    run, array = openvino.load(Model([last], [given]), setting.threads), _numbers(sizes)
    return lambda: run([array])


def _input(shape: LayerShape, channels: int) -> tuple[int, ...]:
    first, *space = shape.sizes
    return (first, channels, *space)


def _weight(shape: LayerShape) -> tuple[int, ...]:
    first, second = (shape.inputs, shape.outputs) if shape.transposed else (shape.outputs, shape.inputs)
    return (first, second // shape.groups, *shape.kernel)


def _numbers(shape: tuple[int, ...]) -> Any:
    """Numbers as weights and activations have them: none that is denormal or zero."""
    scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
    return (np.random.default_rng(0).uniform(0.5, 1.0, shape) * scale).astype(np.float32)

"""ONNX, run by onnxruntime."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extcon_cli.export.program import Program

NEEDS = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install 'extcon[onnx]'  (onnx onnxscript onnxruntime)"
RUNTIME = "onnxruntime"


def write(program: Program, path: Path) -> Program:
    """Write the graph, its free dimensions by name; the program as it was written.

    Pooling to a fixed size becomes a pooling window in ONNX, which suits one resolution alone: then only the batch is
    free in the file.
    """
    from extcon_cli.export.program import batch_only, works

    _write(program, path)
    if {name for names in program.free for name in names.values()} <= {"batch"}:
        return program
    if works(_torch(load(str(path), 0)), program.module, program.example, program.free):
        return program
    fixed = batch_only(program)
    _write(fixed, path)
    return fixed


def _torch(run: Callable[[list[Any]], list[Any]]) -> Callable[..., Any]:
    """The same function of tensors."""
    import torch

    def called(*args: Any, **kwargs: Any) -> Any:
        return [torch.from_numpy(array) for array in run([tensor.numpy() for tensor in (*args, *kwargs.values())])]

    return called


def _write(program: Program, path: Path) -> None:
    import onnx
    import torch

    made: Any = torch.onnx.export(
        program.graph, input_names=program.names, output_names=program.output_names, dynamo=True, verbose=False
    )
    model = made.model_proto
    symbols: dict[str, str] = {}
    for value, names in zip(model.graph.input, program.free, strict=False):
        for dim, called in names.items():
            symbols.setdefault(value.type.tensor_type.shape.dim[dim].dim_param, called)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_param"):
                dimension.dim_param = re.sub(r"\bs\d+\b", lambda m: symbols.get(m[0], m[0]), dimension.dim_param)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def load(path: str | bytes, threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function from input arrays to output arrays. `path` may be the model itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised as well
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=False)))


def costs(path: str, arrays: list[Any]) -> tuple[int | None, int | None]:
    """Numbers in the initializers, and multiply-accumulates of convolutions and products, where all shapes show."""
    import onnx

    model = onnx.load(path)
    given = {value.name for value in model.graph.initializer}
    for value, array in zip((v for v in model.graph.input if v.name not in given), arrays, strict=False):
        for dimension, size in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
            dimension.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    params = sum(
        math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.INT64
    )
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
    macs = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        left, right, out = (shapes.get(name, []) for name in (node.input[0], node.input[1], node.output[0]))
        if not all(left) or not all(right) or not all(out) or not (left and right and out):
            return params, None
        if node.op_type == "ConvTranspose":  # each input number meets a column of the weight
            macs += math.prod(left) * math.prod(right[1:])
        elif node.op_type == "Conv":
            macs += math.prod(out) * math.prod(right[1:])
        else:
            turned = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
            macs += math.prod(out) * left[0 if turned else -1]
    return params, macs

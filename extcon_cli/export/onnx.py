"""ONNX, run by onnxruntime."""

from __future__ import annotations

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
    """Write the graph, its free dimensions by name; the program as it was written."""
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
    return program


def load(path: str, threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function from input arrays to output arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=False)))

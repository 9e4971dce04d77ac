"""OpenVINO: an .xml with its .bin beside it, run by openvino on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extcon_cli.export.program import Program

NEEDS = ("openvino",)
INSTALL = "pip install 'extcon[openvino]'  (openvino)"
RUNTIME = "openvino"


def write(program: Program, path: Path) -> Program:
    """Write the graph in float32, with the sizes fixed that are not free; the program as it was written."""
    import openvino

    model = openvino.convert_model(program.graph)
    shapes = {
        given.get_any_name(): openvino.PartialShape([-1 if isinstance(size, str) else size for size in shape])
        for given, shape in zip(model.inputs, program.shapes(), strict=True)
    }
    model.reshape(shapes)
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return program


def load(path: Any, threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function from input arrays to output arrays; `path` may be the model itself.

    It computes in float32, where the default may be bfloat16.
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda arrays: [value.copy() for value in model(arrays).to_tuple()]


def costs(path: str, arrays: list[Any]) -> tuple[int | None, int | None]:
    """Numbers in the constants, and multiply-accumulates of convolutions and products for these inputs."""
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({given: list(array.shape) for given, array in zip(model.inputs, arrays, strict=True)})
    params = macs = 0
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "Constant" and operation.get_element_type().is_real():
            params += math.prod(operation.get_output_shape(0))
        elif kind in ("Convolution", "GroupConvolution"):  # weights: (groups,) out, in, sizes
            inner = operation.get_input_shape(1)[1 if kind == "Convolution" else 2 :]
            macs += math.prod(operation.get_output_shape(0)) * math.prod(inner)
        elif kind == "MatMul":
            turned = operation.get_attributes()["transpose_a"]
            macs += math.prod(operation.get_output_shape(0)) * operation.get_input_shape(0)[-2 if turned else -1]
        elif "Conv" in kind or "LSTM" in kind or "GRU" in kind:
            return params, None
    return params, macs

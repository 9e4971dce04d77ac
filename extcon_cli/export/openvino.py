"""OpenVINO: an .xml with its .bin beside it, run by openvino on the CPU."""

from __future__ import annotations

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


def load(path: str, threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function from input arrays to output arrays. It computes in float32, where the default may be bfloat16."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda arrays: [value.copy() for value in model(arrays).to_tuple()]

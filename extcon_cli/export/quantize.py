"""Static int8 quantisation of an ONNX file by onnxruntime, calibrated on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def quantize(source: Path, target: Path, batches: Iterable[list[np.ndarray[Any, Any]]]) -> None:
    """Write `target`: weights in int8 for each channel, activations in uint8 over the range that the batches span.

    Args:
        batches: the arrays of each input, in the order of the file's inputs.
    """
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The batches, one by one."""

        def __init__(self) -> None:
            self.left: Iterator[list[np.ndarray[Any, Any]]] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            arrays = next(self.left, None)
            return None if arrays is None else dict(zip(names, arrays, strict=True))

    ready = target.with_name(f"{target.name}.ready")
    try:
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        ready.unlink(missing_ok=True)

"""Weights in eight bits, two ways: dynamic (a token's range is found as it comes) and static (ranges found beforehand on
real images). ONNX Runtime's quantiser does the work.

Weights are signed, one scale a column, and use seven of their bits: x86 processors without VNNI add two products in sixteen
bits, which eight would overflow, so the figures that are measured on one machine would not hold on another. Products of two
activations (attention) stay in float32.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

METHODS = ("dynamic", "static")
MATRICES = ("MatMul", "Gemm")


def quantise(proto: onnx.ModelProto, method: str, calibration_BCSS: np.ndarray) -> onnx.ModelProto:
    """The graph of `onnx.core` with int8 weights.

    "dynamic": every matrix; "static": every matrix and convolution. `calibration_BCSS`: normalised float32 images, which
    only "static" looks at.
    """
    shared = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        if method == "dynamic":
            quantize_dynamic(_copy(proto), path, op_types_to_quantize=list(MATRICES), **shared)
        else:
            quantize_static(
                _copy(proto),
                path,
                _Images(calibration_BCSS),
                op_types_to_quantize=[*MATRICES, "Conv"],
                nodes_to_quantize=_weighted(proto),
                activation_type=QuantType.QUInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": list(MATRICES)},
                **shared,
            )
        return onnx.load(path)


def float_share(proto: onnx.ModelProto) -> float:
    """The share of a graph's weights (constants of two and more dimensions) that is still in floating point."""
    sizes = {True: 0, False: 0}
    for tensor in proto.graph.initializer:
        if len(tensor.dims) >= 2:
            sizes[tensor.data_type == onnx.TensorProto.FLOAT] += math.prod(tensor.dims)
    return sizes[True] / max(1, sum(sizes.values()))


def _weighted(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply by a constant."""
    constant = {tensor.name for tensor in proto.graph.initializer}
    kinds = (*MATRICES, "Conv")
    return [node.name for node in proto.graph.node if node.op_type in kinds and node.input[1] in constant]


class _Images(CalibrationDataReader):
    def __init__(self, images_BCSS: np.ndarray):
        self.batches = (images_BCSS[i : i + 1] for i in range(len(images_BCSS)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"pixels": batch}


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()  # the quantiser writes into what it is given
    copy.CopyFrom(proto)
    return copy


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends preprocessing that the exporter has done
    try:
        yield
    finally:
        logging.disable(level)

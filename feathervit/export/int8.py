"""Quantises weights to 8 bits with ONNX Runtime's quantiser, with three methods.

"dynamic": activation ranges are computed at run time (matrices only). "static": activation ranges are calibrated on real
images. "mixed": convolutions static, matrices dynamic.

Weights are signed, with one scale per column, and use only seven bits. x86 processors without VNNI add two products in 16 bits,
which would overflow with eight bits, so that the accuracy would depend on the machine. Products of two activations (attention)
stay in float32.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from .verify import quiet

METHODS = ("dynamic", "static", "mixed")
MATRICES = ("MatMul", "Gemm")
SHARED = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}


def methods(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Returns the distinct methods for this graph. Without convolutions, "mixed" equals "dynamic"."""
    convolves = any(node.op_type == "Conv" for node in proto.graph.node)
    return METHODS if convolves else tuple(name for name in METHODS if name != "mixed")


def quantise(proto: onnx.ModelProto, method: str, calibration_BCSS: np.ndarray) -> onnx.ModelProto:
    """Returns the graph of `onnx.core` with int8 weights, quantised by one of METHODS.

    `calibration_BCSS`: normalised float32 images for the ranges of "static" and "mixed".
    """
    # The quantiser recommends preprocessing, which the exporter has already done
    with tempfile.TemporaryDirectory() as folder, quiet():
        path, small = Path(folder) / "int8.onnx", copy.deepcopy(proto)  # the quantiser modifies its input
        if method != "dynamic":
            kinds = ["Conv"] if method == "mixed" else [*MATRICES, "Conv"]
            quantize_static(
                small,
                path,
                _Images(calibration_BCSS),
                op_types_to_quantize=kinds,
                nodes_to_quantize=_weighted(proto, kinds),
                activation_type=QuantType.QUInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": list(MATRICES)},
                **SHARED,
            )
            small = onnx.load(path)
        if method != "static":
            quantize_dynamic(small, path, op_types_to_quantize=list(MATRICES), **SHARED)
            small = onnx.load(path)
        return small


def float_share(proto: onnx.ModelProto) -> float:
    """Returns the share of weights (constants of at least two dimensions) that are still in floating point."""
    sizes = {True: 0, False: 0}
    for tensor in proto.graph.initializer:
        if len(tensor.dims) >= 2:
            sizes[tensor.data_type == onnx.TensorProto.FLOAT] += math.prod(tensor.dims)
    return sizes[True] / max(1, sum(sizes.values()))


def _weighted(proto: onnx.ModelProto, kinds: Sequence[str]) -> list[str]:
    """Returns the names of the nodes of these kinds that multiply by a constant."""
    constant = {tensor.name for tensor in proto.graph.initializer}
    return [node.name for node in proto.graph.node if node.op_type in kinds and node.input[1] in constant]


class _Images(CalibrationDataReader):
    def __init__(self, images_BCSS: np.ndarray):
        self.batches = ({"pixels": image_CSS[None]} for image_CSS in images_BCSS)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)

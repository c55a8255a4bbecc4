"""Exports a model as an ONNX graph: `core` exports the model, `finish` adds preprocessing and metadata.

Legend: B batch, C channels, S image side, K classes, N tokens, E experts.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import Any

import onnx
import torch
from onnx import compose
from torch import nn

from ..config import ImageConfig
from ..errors import ConfigError
from .lean import Probabilities
from .preprocess import IR_VERSION, OPSET, RUNTIME, keep_used, preprocessing
from .verify import quiet


def core(
    model: nn.Module, img_size: int, channels: int, temperature: float = 1.0, *, rewrite: bool = True
) -> onnx.ModelProto:
    """Exports a graph from `pixels` [batch, channels, img_size, img_size] to `probabilities` [batch, K], for any batch size.

    With `rewrite`, our models are first rewritten for inference (`lean`). The outputs `experts.1`, `experts.2`, ... are then
    the gates [batch, N, E] of layers with experts. `temperature` divides the logits. Raises ConfigError if the exporter
    cannot trace the model.
    """
    wrapped = Probabilities(model, temperature, routed=True, rewrite=rewrite)
    example = torch.randn(2, channels, img_size, img_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wrapped(example)
    names = ["probabilities", *(f"experts.{number}" for number in wrapped.routes.gates)]
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
                input_names=["pixels"],
                output_names=names,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(
            f"PyTorch's exporter cannot trace this model: {' '.join(str(error).split())[:400]}"
        ) from error
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    strip(proto)
    return proto


def finish(
    proto: onnx.ModelProto,
    facts: dict[str, Any],
    images: ImageConfig | None,
    *,
    routed: bool = False,
    batch: int | None = None,
) -> onnx.ModelProto:
    """Returns the complete model, with preprocessing if `images` is given, and `facts` as metadata.

    With preprocessing, the input is `image`, uint8 [batch, height, width, channels]; otherwise it is `pixels` as in `core`.
    `routed` keeps the gates as outputs and, with preprocessing, adds `seen`: the resized image, in float32 grey levels.
    `batch`: a fixed batch size, so that all shapes are known. Metadata that is not text is stored as JSON. It includes the
    opset and the oldest version of ONNX Runtime that is known to load the file.
    """
    merged = copy.deepcopy(proto)
    if not routed:
        del merged.graph.output[1:]
    if images is not None:
        _shorten(merged)  # avoids conflicts with names in the preprocessing
        first = preprocessing(images, facts["img_size"], facts["channels"])
        first.opset_import.extend(o for o in proto.opset_import if o.domain)
        outputs = [out.name for out in merged.graph.output] + (["seen"] if routed else [])
        merged = compose.merge_models(first, merged, io_map=[("normalised", "pixels")], outputs=outputs)
    _shorten(merged)
    if batch is not None:
        for value in (*merged.graph.input, *merged.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    merged.ir_version = IR_VERSION  # the quantiser and `merge_models` change it
    facts = facts | {"opset": OPSET, "onnxruntime": f">={RUNTIME}"}
    merged.producer_name, merged.producer_version = "feathervit", facts["feathervit"]
    merged.graph.name, merged.doc_string = facts["model"], ""
    onnx.helper.set_model_props(
        merged, {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    )
    onnx.checker.check_model(merged)
    return merged


def strip(proto: onnx.ModelProto) -> None:
    """Removes data that runtimes do not read: source lines, scopes, shapes of inner values."""
    graph = proto.graph
    del proto.functions[:], proto.metadata_props[:], graph.value_info[:], graph.metadata_props[:]
    proto.doc_string = graph.doc_string = ""
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    keep_used(graph)


def _shorten(proto: onnx.ModelProto) -> None:
    """Removes node names and shortens value names, which take a tenth of the file of a small model."""
    graph = proto.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {"": ""}

    def rename(names) -> list[str]:
        return [name if name in fixed else short.setdefault(name, f"v{len(short)}") for name in names]

    del graph.value_info[:]
    for node in graph.node:
        node.name = ""
        node.input[:], node.output[:] = rename(node.input), rename(node.output)
    for tensor in graph.initializer:
        (tensor.name,) = rename([tensor.name])

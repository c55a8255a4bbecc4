"""`--to executorch`: programs for ExecuTorch on devices, lowered to XNNPACK, in 32 and in 8 bits.

The input is one normalised image, because cropping and resizing depend on the device. The method "facts" of a program returns
its metadata as JSON. The 8-bit program is quantised statically: torchao's PT2E finds the ranges on training images. Latency is
not measured, because the Python runtime has no safe setting for one thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, ConfigError
from ..files import write_bytes
from .job import Images, Job
from .lean import Probabilities
from .pt2 import trace
from .verify import MIN_AGREEMENT, agrees, compare, passes, quiet


def write_executorch(job: Job, folder: Path) -> dict[str, Any]:
    """Writes model.pte, and model.int8.pte if 8 bits keep the accuracy. Returns the results for export.json."""
    with quiet():
        exact = _program(job)
        small = _program(job, calibration=job.calibration)
    labels, before = job.checking.labels, job.before(job.checking)
    runs = {"executorch": loaded(exact), "int8": loaded(small)}
    answers = {name: _answers(job, run, job.checking)[0] for name, run in runs.items()}
    comparison = compare(before, answers["executorch"], labels)
    int8 = compare(before, answers["int8"], labels)
    keeps = passes(int8, job.min_agreement)
    if not keeps:
        top1, top1_int8 = 100 * int8["top1_before"], 100 * int8["top1"]
        job.say(
            f"  int8 recognises {top1_int8:.1f} % of {int8['n']} images, the model {top1:.1f} %: only 32 bits are written"
        )
    write_bytes(folder / "model.pte", exact)
    write_bytes(folder / "model.int8.pte", small) if keeps else (folder / "model.int8.pte").unlink(missing_ok=True)
    with quiet():
        comparison |= job.routing(lambda images: _answers(job, loaded(_program(job, routed=True)), images)[1:])
    return {
        "file": "model.pte",
        "bytes": len(exact),
        **comparison,
        "int8": {"file": "model.int8.pte" if keeps else None, "bytes": len(small), **int8},
        "min_agreement": MIN_AGREEMENT,
        "passed": agrees(comparison, MIN_AGREEMENT),
    }


def _program(job: Job, *, calibration: Images | None = None, routed: bool = False) -> bytes:
    """Returns a program from pixels, float32 [1, C, S, S], to probabilities [1, K]; in 8 bits if `calibration` is given."""
    name, image = job.predictor.config.model, torch.from_numpy(job.tensors(job.checking.some(1)))
    program = trace(Probabilities(job.predictor.model, job.predictor.temperature, routed=routed), image, name)
    if calibration is not None:
        program = trace(eight_bits(program, job.tensors(calibration)), image, name)
    return lower(program, name, facts=json.dumps(job.facts))


def lower(program: torch.export.ExportedProgram, name: str, **constants: str) -> bytes:
    """Lowers a traced program to XNNPACK and returns the content of the file, with methods that return `constants`.

    Raises ConfigError if the program cannot be lowered.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=constants)
        return lowered.to_executorch().buffer
    except Exception as error:  # passes over the graph may raise any exception
        raise ConfigError(f"ExecuTorch cannot lower {name}: {' '.join(str(error).split())[:400]}") from error


def eight_bits(traced: torch.export.ExportedProgram, images_NCSS: np.ndarray) -> torch.nn.Module:
    """Quantises convolutions and matrix products to 8 bits, with one scale per channel and ranges from `images_NCSS`."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(traced.module(), quantizer)
    with torch.no_grad():
        for image in torch.from_numpy(images_NCSS).split(1):
            prepared(image)
    return convert_pt2e(prepared)


def loaded(program: bytes) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Returns a function that runs a program on one image with ExecuTorch. Raises CheckpointError if loading fails."""
    from executorch.runtime import Runtime

    try:
        kept = Runtime.get().load_program(program)
        method = kept.load_method("forward")
    except RuntimeError as error:
        raise CheckpointError(f"ExecuTorch cannot load the exported model: {error}") from error

    def run(image: torch.Tensor, _kept: tuple = (program, kept)) -> list[torch.Tensor]:  # the method reads their memory
        return method.execute([image])

    return run


def _answers(job: Job, run: Callable[[torch.Tensor], list[torch.Tensor]], images: Images) -> list[np.ndarray]:
    """Returns probabilities [N, K], and the gates if the program outputs them."""
    outputs = [[out.clone() for out in run(image)] for image in torch.from_numpy(job.tensors(images)).split(1)]
    return [torch.cat(column).numpy() for column in zip(*outputs, strict=True)]

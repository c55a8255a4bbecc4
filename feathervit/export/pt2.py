"""`--to pt2`: writes a program of `torch.export` from images to probabilities, for PyTorch without this package.

Legend: B batch, H height, W width, C channels, S image side, K classes.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from ..config import ImageConfig
from ..device import use_threads
from ..errors import ConfigError
from ..files import write_bytes
from .job import Images, Job
from .lean import Probabilities
from .verify import MIN_AGREEMENT, agrees, compare, quiet, race

_SIDES = 1 << 24  # larger than the side of any image


class Preprocess(nn.Module):
    """Converts images of one size to the input of the model [B, C, S, S], like `data/image.py`.

    The images are uint8 [B, H, W, C], or float32 values if the configuration has a scale. Pixels are selected by index,
    because slices would restrict the traced program to wide or to tall images.
    """

    def __init__(self, images: ImageConfig, img_size: int):
        super().__init__()
        self.fit, self.img_size, self.scale = images.fit, img_size, images.scale
        self.register_buffer("mean", torch.tensor(images.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(images.std).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float()
        if self.scale is not None:
            x = (x.nan_to_num(0.0).clamp(0, self.scale) * (255 / self.scale)).round()
        height, width = x.shape[-2:]
        if self.fit != "stretch":
            side = height - _above_zero(height - width) if self.fit == "crop" else height + _above_zero(width - height)
            rows, columns = _centred(side, height), _centred(side, width)
            inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
            x = x.index_select(-2, rows.clamp(0, height - 1)).index_select(-1, columns.clamp(0, width - 1)) * inside
        size = (self.img_size, self.img_size)
        x_BCSS = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        levels_BCSS = x_BCSS.round().clamp(0, 255)
        return (levels_BCSS / 255 - self.mean) / self.std


def _above_zero(pixels: int) -> int:
    """Returns max(pixels, 0) with operators that ExecuTorch supports for symbolic sizes (not torch.sym_max)."""
    return pixels * ((pixels + _SIDES) // _SIDES)


def _centred(side: int, length: int) -> Tensor:
    """Returns the index in `length` of each pixel of `side`, possibly outside the range. Rounds down like `fit_square`."""
    before = _above_zero(length - side) // 2 - _above_zero(side - length) // 2
    return torch.arange(side) + before


def write_pt2(job: Job, folder: Path) -> dict[str, Any]:
    """Writes model.pt2, with metadata in the extra file "feathervit.json". Returns the results for export.json."""
    program = _traced(job)
    saved = io.BytesIO()
    with quiet():
        torch.export.save(program, saved, extra_files={"feathervit.json": json.dumps(job.facts)})
        write_bytes(folder / "model.pt2", saved.getvalue())
        loaded = torch.export.load(folder / "model.pt2").module()
    images = torch.from_numpy(job.feed(job.checking, job.input))
    with torch.inference_mode(), use_threads(1):
        exported = torch.cat([loaded(batch) for batch in images.split(50)]).numpy()
        comparison = compare(job.before(job.checking), exported, job.checking.labels)
        comparison |= job.on_originals(lambda image: loaded(torch.from_numpy(image)).numpy())
        one = job.checking.some(1)
        times = race({"eager": lambda: job.before(one), "pt2": lambda: loaded(images[:1])})
    comparison |= job.routing(lambda images: _gates(job, images))
    return {
        "file": "model.pt2",
        "bytes": len(saved.getvalue()),
        **comparison,
        "latency_ms": times,
        "min_agreement": MIN_AGREEMENT,
        "passed": agrees(comparison, MIN_AGREEMENT),
    }


def _traced(job: Job, *, routed: bool = False) -> torch.export.ExportedProgram:
    """Traces a program from batches of images or tensors of any size to probabilities. `routed`: also outputs the gates."""
    config, chans = job.predictor.config, job.predictor.in_chans
    module: nn.Module = Probabilities(job.predictor.model, job.predictor.temperature, routed=routed)
    example = torch.zeros(2, chans, config.img_size, config.img_size)
    shapes = {0: Dim.DYNAMIC}
    if job.input == "image":
        module = nn.Sequential(Preprocess(config.images, config.img_size), module).eval()
        number = torch.uint8 if config.images.scale is None else torch.float32
        example = torch.zeros(2, config.img_size + 4, config.img_size + 6, chans, dtype=number)
        shapes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    return trace(module, example, config.model, shapes)


def trace(
    model: nn.Module, example: Tensor, name: str, shapes: dict[int, Any] | None = None
) -> torch.export.ExportedProgram:
    """Traces a model with one input using `torch.export`. Raises ConfigError with the name of the model on failure."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, (example,), dynamic_shapes=shapes and (shapes,))
    except Exception as error:  # tracing runs the code of the model, which may raise any exception
        raise ConfigError(f"torch.export cannot trace {name}: {' '.join(str(error).split())[:400]}") from error


def _gates(job: Job, images: Images) -> list[np.ndarray]:
    """Returns the gates of a program traced in the same way, on images that were not used for tracing."""
    with torch.inference_mode():
        _, *gates = _traced(job, routed=True).module()(torch.from_numpy(job.feed(images, job.input)))
    return [gate.numpy() for gate in gates]

"""`--to pt2`: a program of `torch.export`, pictures in, probabilities out, for PyTorch without this package.

Legend: B batch, H height, W width, C channels, S image side, K classes.
"""

from __future__ import annotations

import copy
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
from ..errors import ConfigError
from ..files import write_bytes
from ..models.fast import plain
from .job import Images, Job, noted_gates
from .verify import MIN_AGREEMENT, agrees, compare, one_thread, race


class Pictures(nn.Module):
    """uint8 [B, H, W, C], or float32 values where the configuration names a scale, to probabilities [B, K].

    What `data/image.py` does, by looking pixels up: its slices would bind the traced program to wide or to tall pictures.
    """

    def __init__(self, model: nn.Module, images: ImageConfig, img_size: int, temperature: float = 1.0):
        super().__init__()
        self.model, self.fit, self.img_size, self.temperature = model, images.fit, img_size, temperature
        self.scale = images.scale
        self.register_buffer("mean", torch.tensor(images.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(images.std).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float()
        if self.scale is not None:
            x = (x.nan_to_num(0.0).clamp(0, self.scale) * (255 / self.scale)).round()
        height, width = x.shape[-2:]
        if self.fit != "stretch":
            side = (torch.sym_min if self.fit == "crop" else torch.sym_max)(height, width)
            rows, columns = _centred(side, height), _centred(side, width)
            inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
            x = x.index_select(-2, rows.clamp(0, height - 1)).index_select(-1, columns.clamp(0, width - 1)) * inside
        size = (self.img_size, self.img_size)
        x_BCSS = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        levels_BCSS = x_BCSS.round().clamp(0, 255)
        return (self.model((levels_BCSS / 255 - self.mean) / self.std) / self.temperature).softmax(-1)


class Routed(Pictures):
    """What `Pictures` takes to the gates of each layer that has experts."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with noted_gates(self.model) as gates:
            super().forward(image)
        return tuple(gates)


def _centred(side: int, length: int) -> Tensor:
    """Which pixel of `length` each of `side` is; what lies outside is to be black. Floors as `fit_square` does."""
    before = torch.sym_max(length - side, 0) // 2 - torch.sym_max(side - length, 0) // 2
    return torch.arange(side) + before


def write_pt2(job: Job, folder: Path) -> dict[str, Any]:
    """model.pt2 with its metadata in the extra file "feathervit.json", and what is known of it."""
    program = _traced(job, Pictures)
    saved = io.BytesIO()
    torch.export.save(program, saved, extra_files={"feathervit.json": json.dumps(job.facts)})
    write_bytes(folder / "model.pt2", saved.getvalue())
    loaded = torch.export.load(folder / "model.pt2").module()
    images = torch.from_numpy(job.feed(job.checking, "image"))
    with torch.inference_mode(), one_thread():
        theirs = torch.cat([loaded(batch) for batch in images.split(50)]).numpy()
        found = compare(job.before(job.checking), theirs, job.checking.labels)
        found |= job.on_originals(lambda picture: loaded(torch.from_numpy(picture)).numpy())
        one = job.checking.some(1)
        times = race({"eager": lambda: job.before(one), "pt2": lambda: loaded(images[:1])})
    routing = job.routing(lambda images: _gates(job, images))
    return {
        "file": "model.pt2",
        "bytes": len(saved.getvalue()),
        "split": job.checking.name,
        **found,
        **routing,
        "latency_ms": times,
        "min_agreement": MIN_AGREEMENT,
        "passed": agrees(found, MIN_AGREEMENT) and routing.get("same_expert", 1.0) >= MIN_AGREEMENT,
    }


def _traced(job: Job, kind: type[Pictures]) -> torch.export.ExportedProgram:
    config = job.predictor.config
    model = plain(copy.deepcopy(job.predictor.model))
    whole = kind(model, config.images, config.img_size, job.predictor.temperature).eval()
    number = torch.uint8 if config.images.scale is None else torch.float32
    example = torch.zeros(2, config.img_size + 4, config.img_size + 6, job.predictor.in_chans, dtype=number)
    shapes = {"image": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(whole, (example,), dynamic_shapes=shapes)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise ConfigError(f"torch.export cannot trace {config.model}: {' '.join(str(error).split())[:400]}") from error


def _gates(job: Job, images: Images) -> list[np.ndarray]:
    """What a program that is traced in the same way, with its gates given out, chooses for images it never saw."""
    with torch.inference_mode():
        found = _traced(job, Routed).module()(torch.from_numpy(job.feed(images, "image")))
    return [gate.numpy() for gate in found]

"""Helpers of the tests of data sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from feathervit.data import ImageSet


def noise(path: Path, width: int, height: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def counts(images: ImageSet) -> list[int]:
    return torch.bincount(images.labels, minlength=len(images.class_names)).tolist()

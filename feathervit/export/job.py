"""What one export works on: the checkpoint, images to calibrate on and others to check on.

Legend: N images, C channels, R stored side, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..data.picture import normalise, resize
from ..data.sources import find
from ..errors import DataError
from ..evaluation.inference import Predictor, probabilities
from ..evaluation.run import labelled
from ..training.checkpoint import Checkpoint, load_weights

CALIBRATION, CHOOSING, CHECKING = 200, 500, 2000  # images at most


@dataclass(frozen=True)
class Images:
    """uint8 images [N, C, R, R] with their labels [N], and where they are from: "digits/test"."""

    pixels: Tensor
    labels: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, most: int, shares: tuple[int, ...] = (0,), of: int = 1) -> Images:
        """At most `most` images, spread evenly over those whose number modulo `of` is one of `shares`."""
        index = np.flatnonzero(np.isin(np.arange(len(self)) % of, shares))
        index = index[np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).astype(int))]
        return Images(self.pixels[torch.from_numpy(index)], self.labels[index], self.name)


@dataclass(frozen=True)
class Job:
    """A checkpoint to export, and the folder it lies in. No image is in two of `calibration`, `choosing` and `checking`."""

    predictor: Predictor
    checkpoint: Checkpoint
    folder: Path
    calibration: Images
    choosing: Images
    checking: Images
    input: str
    min_agreement: float
    say: Callable[[str], None]

    @property
    def facts(self) -> dict[str, Any]:
        """The metadata of an exported file."""
        config = self.predictor.config
        return {
            "model": config.model,
            "class_names": list(self.predictor.class_names),
            "img_size": config.img_size,
            "patch_size": config.patch_size,
            "channels": self.predictor.in_chans,
            "fit": config.images.fit,
            "mean": list(config.images.mean),
            "std": list(config.images.std),
            "input": self.input,
            "feathervit": __version__,
        }

    def before(self, images: Images) -> np.ndarray:
        """The model's own probabilities, float32 [N, K]."""
        return probabilities(self.predictor.model, images.pixels, self.predictor.config, torch.device("cpu")).numpy()

    def tensors(self, images: Images) -> np.ndarray:
        """Images as the model takes them: resized, normalised, float32 [N, C, S, S]."""
        config = self.predictor.config
        return normalise(resize(images.pixels, config.img_size), config.images.mean, config.images.std).numpy()

    def feed(self, images: Images, kind: str) -> np.ndarray:
        """Images as an exported file takes them: "image" or "tensor"."""
        return self.tensors(images) if kind == "tensor" else images.pixels.permute(0, 2, 3, 1).contiguous().numpy()


def prepare(checkpoint: str | Path, data: Any, input: str, min_agreement: float, say: Callable[[str], None]) -> Job:
    """The checkpoint and its images. Raises CheckpointError, DataError."""
    path, weights = Path(checkpoint), load_weights(checkpoint)
    predictor = Predictor(weights, checkpoint)
    if data is None and weights.config.data == "arrays":
        raise DataError("the checkpoint was trained on arrays; name images to check it on: --data FOLDER")
    source = data if data is not None else weights.config.data
    checking = _load(predictor, data, None)
    splits = find(source).splits
    if "train" in splits and not checking.name.endswith("/train"):
        training = _load(predictor, data, "train")
        calibration, choosing = training.some(CALIBRATION, (0,), 2), training.some(CHOOSING, (1,), 2)
    else:  # all there is has to serve for everything
        calibration, choosing = checking.some(CALIBRATION, (0,), 4), checking.some(CHOOSING, (1,), 4)
        checking = checking.some(CHECKING, (2, 3), 4)
    checking = checking.some(CHECKING)
    if not all(map(len, (calibration, choosing, checking))):
        raise DataError(f"{source} has too few images to calibrate and to check on; 12 are the least")
    folder = path if path.is_dir() else path.parent
    return Job(predictor, weights, folder, calibration, choosing, checking, input, min_agreement, say)


def _load(predictor: Predictor, data: Any, split: str | None) -> Images:
    found = labelled(predictor, data, split, skip_unreadable=True)
    return Images(found.images, found.labels.numpy(), found.name)

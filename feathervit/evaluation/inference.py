"""Computes probabilities of stored images or image files, in the same way for validation, evaluation and prediction.

`load` returns a `Predictor`, which maps images to class names. All results are deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import Checkpoint, load_weights, weights_file
from ..config import RunConfig
from ..data import ImageSet
from ..data.cache import look
from ..data.given import Array, as_images, one_or_more
from ..data.image import Source, as_input, fit_square, resize, to_stored
from ..data.scale import faults
from ..device import autocast
from ..errors import CheckpointError, ConfigError, warn
from ..files import same_data
from ..models.fast import accelerate
from ..models.loading import load_model
from ..results import trained_on

BATCH = 500
OTHER = "other"


@torch.inference_mode()
def logits(
    model: nn.Module,
    images_NCRR: Tensor,
    config: RunConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    flip: bool = False,
) -> Tensor:
    """Computes logits, float32 [N, K] on the CPU, of stored uint8 images [N, C, R, R]. Sets evaluation mode.

    `flip`: average the logits of each image and its mirror image (left and right).
    """
    model.eval()
    out = []
    for images_BCRR in images_NCRR.split(BATCH):
        x_BCSS = as_input(images_BCRR.to(device), config)
        with autocast(device, dtype):
            views = [model(x).float() for x in ([x_BCSS, x_BCSS.flip(-1)] if flip else [x_BCSS])]
        out.append(sum(views) / len(views))
    return torch.cat(out).cpu()


@torch.inference_mode()
def accuracy_and_loss(
    model: nn.Module, images: ImageSet, config: RunConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[float, float, float]:
    """Computes the validation metrics of an epoch: top-1 accuracy, mean cross-entropy in nats, macro accuracy.

    The macro accuracy is the mean accuracy of the classes with images. The host waits for the device only once, at the end.
    The loss is not finite if a logit is not finite. Sets evaluation mode.
    """
    model.eval()
    classes = len(images.class_names)
    correct, losses = [], []
    for images_BCRR, labels_B in zip(images.images.split(BATCH), images.labels.split(BATCH), strict=True):
        with autocast(device, dtype):
            logits_BK = model(as_input(images_BCRR.to(device), config))
        labels_B = labels_B.to(device)
        hits_B = (logits_BK.argmax(1) == labels_B).float()
        correct.append(torch.zeros(classes, device=device).index_add_(0, labels_B, hits_B))
        losses.append(F.cross_entropy(logits_BK.float(), labels_B, reduction="sum"))
    correct_K, losses = torch.stack(correct).cpu().double().sum(0), torch.stack(losses).cpu().double()
    count_K = images.labels.cpu().bincount(minlength=classes)
    present = count_K > 0
    macro = (correct_K[present] / count_K[present]).mean().item()
    return correct_K.sum().item() / len(images), losses.sum().item() / len(images), macro


@dataclass(frozen=True)
class Prediction:
    """Class names with their probabilities, most probable first.

    `classes[0]` is always the most probable class. `sure`: whether its probability reaches the requested minimum. `label` is
    `classes[0]` if it is sure, else "other".
    """

    source: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    sure: bool = True

    @property
    def label(self) -> str:
        return self.classes[0] if self.sure else OTHER

    def to_dict(self) -> dict[str, Any]:
        """Returns the prediction in the format of `predict --json`."""
        return {
            "file": self.source,
            "label": self.label,
            "sure": self.sure,
            "classes": self.classes,
            "probabilities": self.probabilities,
        }


def read_image(image: Source, config: RunConfig, in_chans: int) -> Tensor:
    """Reads an image at the input size of a model: uint8 [C, S, S]. Raises DataError if it cannot be read."""
    images = config.images
    return to_stored(image, config.img_size, in_chans, images.fit, images.scale, config.reading.max_image_gib)


class Predictor:
    """Predicts the classes of images with a trained model.

    `model` is the network in evaluation mode, `class_names` its classes, `config` the configuration of its run. `temperature`
    divides the logits; it is 1 unless the checkpoint was calibrated.
    """

    def __init__(self, checkpoint: Checkpoint, where: str | Path, device: str = "cpu"):
        if not checkpoint.class_names:
            raise CheckpointError(
                f"{where} is a pre-trained auto-encoder without classes; fine-tune it first: feathervit train --from {where} "
                "--data FOLDER --out RUN"
            )
        self.device = torch.device(device)
        self.model = load_model(checkpoint, where).to(self.device, memory_format=torch.channels_last)
        if self.device.type == "cpu":
            accelerate(self.model, torch.float32)
        self.config, self.class_names = checkpoint.config, checkpoint.class_names
        self.in_chans, self.temperature, self.other = checkpoint.in_chans, checkpoint.temperature, checkpoint.other
        self.where = where

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """The sources of the training images, if the checkpoint is in its run folder."""
        return trained_on(weights_file(self.where))

    def probabilities(self, images_NCRR: Tensor, flip: bool = False) -> Tensor:
        """Computes class probabilities, float32 [N, K] on the CPU, of stored images [N, C, R, R]; `flip`: see `logits`."""
        logits_NK = logits(self.model, images_NCRR, self.config, self.device, flip=flip)
        return (logits_NK / self.temperature).softmax(-1)

    def predict(self, images: Any, top: int = 5, min_confidence: float | None = None) -> list[Prediction]:
        """Returns the `top` classes of each image. The label is "other" if the highest probability is below `min_confidence`.

        `min_confidence` None: the threshold of the calibration, if any.

        `images` may be:

        - a path, bytes, an open file or a PIL image, or any list or series of them;
        - a uint8 array or tensor: [H, W] or [N, H, W] for one channel, [H, W, C] or [N, H, W, C], [C, H, W] or [N, C, H, W];
        - a list of such arrays, whose sizes may differ.

        Raises DataError for an image that cannot be read, and ConfigError for any other type or for a confidence outside 0
        to 1.
        """
        items = as_images(images, "images")
        items = items if isinstance(items, list) else [items]
        files = [item for item in items if not isinstance(item, (np.ndarray, Tensor))]
        squares, sources = [], []
        for item in items:
            for square in self._squares(item):
                sources.append(str(item) if isinstance(item, Path) else f"images[{len(squares)}]")
                squares.append(square)
        self.warn_of_values(files)
        return self.classify(squares, sources, top, min_confidence)

    def classify(
        self, squares: list[Tensor], sources: list[str], top: int = 5, min_confidence: float | None = None
    ) -> list[Prediction]:
        """Predicts the classes of images from `read`, uint8 [C, S, S] each. `sources` are their names."""
        if min_confidence is None:
            min_confidence = self.other.threshold if self.other else 0.0
        if not 0 <= min_confidence <= 1:
            raise ConfigError(f"min_confidence must be a share from 0 to 1, got {min_confidence}")
        if not squares:
            return []
        p_NK = self.probabilities(torch.stack(squares))
        values_NK, index_NK = p_NK.topk(min(max(top, 1), len(self.class_names)), dim=-1)
        return [
            Prediction(source, tuple(self.class_names[i] for i in index), tuple(values), values[0] >= min_confidence)
            for source, index, values in zip(sources, index_NK.tolist(), values_NK.tolist(), strict=True)
        ]

    def read(self, image: Source) -> Tensor:
        """Returns `read_image` for this model."""
        return read_image(image, self.config, self.in_chans)

    def warn_of_values(self, images: Sequence[Source]) -> None:
        """Issues a DataWarning if images of more than 8 bits do not match the scale of the training data."""
        warn(*faults(look(images, self.config.reading.max_image_gib), self.config.images.scale))

    def _squares(self, item: Source | Array) -> list[Tensor]:
        """Returns the images in an item of `predict`, in the format of `read`."""
        if not isinstance(item, (np.ndarray, Tensor)):
            return [self.read(item)]
        x_NCHW = fit_square(one_or_more(item, self.in_chans), self.config.images.fit)
        return list(resize(x_NCHW, self.config.img_size))


def known_validation(stored: Checkpoint, where: str | Path, data: Any, val: ImageSet | None) -> list[str]:
    """Returns a line if the weights were trained on labels of images in `val`, the validation split of `data`."""
    if val is None or not stored.class_names or not same_data(data, stored.config.data):
        return []
    count = len(trained_on(weights_file(where)).intersection(val.sources))
    return [f"{where} was trained on {count} of the {len(val)} validation images: their accuracy is too high"] * bool(
        count
    )


def load(path: str | Path, device: str = "cpu") -> Predictor:
    """Loads the predictor of a checkpoint file or run folder (best weights, else last). Raises CheckpointError."""
    return Predictor(load_weights(path), path, device)

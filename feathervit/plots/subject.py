"""Loads the input of a plot: the encoder of a checkpoint, and image files or images of its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Checkpoint, load_weights
from ..config import RunConfig
from ..data import DataSplits, ImageSet, load_run_data
from ..data.image import quiet
from ..data.imageset import evenly
from ..errors import CheckpointError
from ..evaluation.inference import logits, read_image
from ..models import Encoder, MaskedAutoencoder
from ..models.loading import load_model


def load_encoder(path: str | Path) -> tuple[Encoder, Checkpoint]:
    """Loads the encoder of a classifier or masked auto-encoder in evaluation mode. Raises CheckpointError for timm models."""
    stored = load_weights(path)
    model = load_model(stored, path)
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    if not isinstance(encoder, Encoder):
        raise CheckpointError(f"{path} is {stored.config.model}; this plot supports only our models")
    return encoder, stored


def read_images(paths: Sequence[str | Path], checkpoint: Checkpoint) -> Tensor:
    """Reads image files at the input size of the model: uint8 [B, C, S, S]. Raises DataError."""
    with quiet():
        return torch.stack([read_image(Path(path), checkpoint.config, checkpoint.in_chans) for path in paths])


def own_data(config: RunConfig) -> ImageSet:
    """Loads images of the training data: test, else val, else train. Raises DataError if the data is missing."""
    splits = own_splits(config)
    return splits.test or splits.val or splits.train


def own_splits(config: RunConfig) -> DataSplits:
    """Loads the training data, without unreadable images. Raises DataError if it is missing."""
    return load_run_data(config, skip_unreadable=True)


def varied(images: ImageSet, count: int) -> ImageSet:
    """Returns at most `count` of the images, from as many classes as possible, in the order of the classes."""
    order = torch.argsort(images.labels, stable=True)
    members = [part for part in order.split(images.labels.bincount().tolist()) if len(part)]
    share_K = (
        torch.linspace(0, len(members) - 1, min(count, len(images))).round().long().bincount(minlength=len(members))
    )
    chosen = [part[evenly(len(part), int(n))] for part, n in zip(members, share_K, strict=True)]
    return images.subset(torch.cat(chosen))


def row_names(
    encoder: Encoder, images_BCRR: Tensor, checkpoint: Checkpoint, labels_B: Tensor | None = None
) -> list[str]:
    """Returns the captions of images in a plot: the true class, if known, and the predicted class.

    Empty for the encoder of a pre-training run, which has no classes.
    """
    names = checkpoint.class_names
    if not names:
        return []
    guess_B = logits(encoder, images_BCRR, checkpoint.config, encoder.norm.weight.device).argmax(1)
    if labels_B is None:
        return [f"predicted\n{names[guess]}" for guess in guess_B]
    return [f"true {names[label]}\npredicted {names[guess]}" for label, guess in zip(labels_B, guess_B, strict=True)]

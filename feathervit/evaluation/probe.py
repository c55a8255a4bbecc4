"""Probes frozen features with nearest neighbours and a linear classifier (scikit-learn).

The model is a pre-trained auto-encoder, whose encoder processes unmasked images, or a classifier. Our models have two kinds of
features, both after the last norm: the read-out token (the input of the head) and the mean of the patch tokens. The
reconstruction loss does not include the read-out token, so the mean is often better after pre-training. The linear classifier
is logistic regression on standardised features.

Legend: B batch, N images, D features, C channels, S image side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import load_weights
from ..config import RunConfig, imbalanced
from ..data import ImageSet, load_run_data
from ..data.image import as_input
from ..device import choose_device
from ..errors import ConfigError, DataError, warn
from ..models import Encoder, MaskedAutoencoder
from ..models.loading import load_model
from .inference import BATCH, known_validation

PATCHES = "mean of patches"
READOUTS = {"dummy": "dummy patch", "class": "class tokens", "mean": PATCHES, "pool": "weighted mean of patches"}


@torch.inference_mode()
def features(model: nn.Module, images: ImageSet, config: RunConfig, device: torch.device) -> dict[str, Tensor]:
    """Returns token name -> features [N, D] on the CPU. Sets evaluation mode."""
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    encoder.eval().to(device)
    by_name: dict[str, list[Tensor]] = {}
    for images_BCRR in images.images.split(BATCH):
        tokens = encoder.forward_features(as_input(images_BCRR.to(device), config))
        outputs = {_readout(encoder): encoder.forward_head(tokens, pre_logits=True)}
        if isinstance(encoder, Encoder):
            outputs[PATCHES] = tokens[:, encoder.num_prefix_tokens :].mean(1)
        for name, part_BD in outputs.items():
            by_name.setdefault(name, []).append(part_BD.float().cpu())
    return {name: torch.cat(parts) for name, parts in by_name.items()}


def _readout(encoder: nn.Module) -> str:
    return READOUTS[encoder.config.readout] if isinstance(encoder, Encoder) else "pooled features"


def probe(
    checkpoint: str | Path,
    data: Any = None,
    *,
    neighbours: int = 20,
    device: str = "auto",
    skip_unreadable: bool = False,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the accuracies of both probes per token: {"split", "n", "n_train", "neighbours", "tokens": {name: {...}}}.

    The probes are fitted on the training split of `data` (None: the training data), and evaluated on its test split, else on
    its validation split. `reading`: fields of `ReadingConfig` that differ from training. Raises CheckpointError, DataError
    and ConfigError.
    """
    if neighbours < 1:
        raise ConfigError(f"neighbours must be at least 1, got {neighbours}")
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    where, _ = choose_device(device)
    stored = load_weights(checkpoint).read_as(reading, data)
    config = replace(stored.config, objective="classification")  # probes need labels
    source = data if data is not None else config.data
    splits = load_run_data(config, source, skip_unreadable=skip_unreadable)
    if splits.test is None and splits.val is None and not stored.class_names:
        # Pre-training used all images without labels, so a tenth of them can serve as validation split.
        config = replace(config, split=replace(config.split, val_fraction=0.1))
        splits = load_run_data(config, source, skip_unreadable=skip_unreadable)
    target = splits.test or splits.val
    if target is None:
        raise DataError(f"{source} has no test or validation images to score a probe on; give data with a test/ folder")
    if target is splits.val:
        warn(*known_validation(stored, checkpoint, source, target))
    if splits.train.images.shape[1] != stored.in_chans:
        raise DataError(f"the model takes {stored.in_chans} channels, {source} has {splits.train.images.shape[1]}")
    model = load_model(stored, checkpoint)
    x, x_new = (features(model, part, config, where) for part in (splits.train, target))
    y, y_new = splits.train.labels.numpy(), target.labels.numpy()
    tokens = {}
    for name in x:
        knn = KNeighborsClassifier(min(neighbours, len(y)), metric="cosine", weights="distance")
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        tokens[name] = {
            kind: _accuracies(y_new, probe.fit(x[name].numpy(), y).predict(x_new[name].numpy()))
            for kind, probe in (("knn", knn), ("linear", linear))
        }
    return {
        "imbalanced": imbalanced(target.labels.bincount().tolist()),
        "split": target.name.rpartition("/")[2],
        "n": len(target),
        "n_train": len(splits.train),
        "neighbours": neighbours,
        "tokens": tokens,
    }


def _accuracies(labels: np.ndarray, guesses: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, recall_score

    return {
        "top1": float(accuracy_score(labels, guesses)),
        "balanced_accuracy": float(recall_score(labels, guesses, labels=np.unique(labels), average="macro")),
    }

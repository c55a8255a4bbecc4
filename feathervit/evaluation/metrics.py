"""Computes metrics of a classifier from its probabilities.

scikit-learn computes all metrics except the calibration error. All metrics except `nll` are fractions from 0 to 1. `Metrics`
can be written as JSON: the accuracy of a class without images is None, never NaN. This module does not import torch; it
accepts arrays, and tensors on the CPU.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, DivergedError

ECE_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """Metrics of a classifier on `n` images.

    `top5` is the top-k accuracy with k = `top5_k` = min(5, classes). `per_class` maps a class name to the share of its
    recognised images (None: no images), `balanced_accuracy` is the mean of these shares.
    `confusion[i][j]` counts images of class i predicted as class j, in the order of `class_names`. `nll` is the mean
    negative log-likelihood in nats; `ece` is defined at `calibration_error`.
    """

    n: int
    top1: float
    top5: float
    top5_k: int
    balanced_accuracy: float
    nll: float
    ece: float
    per_class: dict[str, float | None]
    class_names: list[str]
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def score(probabilities: Any, labels: Any, class_names: Sequence[str]) -> Metrics:
    """Computes all metrics of a classifier.

    `probabilities`: [N, K], a tensor on the CPU or an array, with rows that sum to one. `labels`: [N] integers in 0..K-1.
    `class_names`: K distinct names. Raises DataError for empty data, incompatible shapes, or a label out of range. Raises
    DivergedError if a probability is not a finite number.
    """
    from sklearn import metrics

    p_NK = np.asarray(probabilities, dtype=np.float64)
    labels_N = np.asarray(labels, dtype=np.int64)
    names = [str(name) for name in class_names]
    _check(p_NK, labels_N, names)
    p_NK = p_NK / p_NK.sum(axis=1, keepdims=True)  # float32 rows sum to one only up to 1e-7, and log_loss warns
    guess_N = p_NK.argmax(axis=1)
    classes = np.arange(len(names))

    confusion_KK = metrics.confusion_matrix(labels_N, guess_N, labels=classes)
    support_K = confusion_KK.sum(axis=1)
    k = min(5, len(names))
    with warnings.catch_warnings():
        for message in ("y_pred contains classes not in y_true", "A single label was found"):
            warnings.filterwarnings("ignore", message=message)
        balanced = metrics.balanced_accuracy_score(labels_N, guess_N)
    return Metrics(
        n=len(labels_N),
        top1=float(metrics.accuracy_score(labels_N, guess_N)),
        top5=1.0 if k == len(names) else float(metrics.top_k_accuracy_score(labels_N, p_NK, k=k, labels=classes)),
        top5_k=k,
        balanced_accuracy=float(balanced),
        nll=float(metrics.log_loss(labels_N, p_NK, labels=classes)),
        ece=calibration_error(p_NK, labels_N),
        per_class={
            name: float(confusion_KK[i, i] / support_K[i]) if support_K[i] else None for i, name in enumerate(names)
        },
        class_names=names,
        confusion=confusion_KK.tolist(),
    )


def _check(p_NK: np.ndarray, labels_N: np.ndarray, names: list[str]) -> None:
    if p_NK.ndim != 2 or p_NK.shape[1] != len(names) or labels_N.shape != p_NK.shape[:1]:
        raise DataError(
            f"probabilities {p_NK.shape}, labels {labels_N.shape} and {len(names)} class names do not "
            "fit together; give [N, K], [N] and K"
        )
    if len(labels_N) == 0:
        raise DataError("the data to score is empty; give at least one image")
    if len(names) < 2:
        raise DataError(f"a classifier needs at least 2 classes to be scored, got {len(names)}: {names}")
    if labels_N.min() < 0 or labels_N.max() >= len(names):
        raise DataError(
            f"labels run from {labels_N.min()} to {labels_N.max()}, the model has classes 0 to {len(names) - 1}; "
            "score it on data with its own classes"
        )
    bad = int((~np.isfinite(p_NK)).any(axis=1).sum())
    if bad:
        raise DivergedError(
            f"the model's output is not a finite number for {bad} of {len(labels_N)} images; "
            "train again with a lower learning rate or in float32"
        )


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the expected calibration error: sum over bins b of n_b / N * |accuracy_b - confidence_b|.

    `probabilities` [N, K], `labels` [N]. The confidence of an image is its largest probability. Bin b of B = `ECE_BINS`
    equal bins contains the confidences in (b / B, (b + 1) / B] (Guo et al., arXiv 1706.04599, Eq. 3).
    """
    confidence, accuracy, count_B = bins(probabilities.max(1), probabilities.argmax(1) == labels)
    return float((count_B[count_B > 0] * np.abs(accuracy - confidence)).sum() / len(labels))


def bins(
    confidence_N: np.ndarray, correct_N: np.ndarray, number: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean confidence and accuracy per non-empty bin (b / B, (b + 1) / B], and the counts of all B bins."""
    bin_N = np.clip(np.ceil(confidence_N * number).astype(int) - 1, 0, number - 1)
    count_B = np.bincount(bin_N, minlength=number)
    filled = count_B > 0
    mean, accuracy = (np.bincount(bin_N, x, number)[filled] / count_B[filled] for x in (confidence_N, correct_N))
    return mean, accuracy, count_B

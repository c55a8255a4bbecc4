"""Calibrates probabilities with temperature scaling: one number divides all logits (arXiv 1706.04599).

The temperature is fitted on the validation split and stored with the weights. Evaluation, prediction and export apply it. The
order of the classes, and so the accuracy, does not change.

Legend: N images, K classes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.model_selection import KFold

from ..checkpoint import OtherAnswer, load_weights, save_weights, weights_file
from ..data import ImageSet
from ..data.finding import find
from ..device import choose_device
from ..errors import CheckpointError, DataError, warn
from ..weights import FOLDER
from .evaluate import labelled, predict_files
from .inference import Predictor, logits
from .metrics import score

FOLDS = 5
KNOWN_AS_OTHER = 0.05  # share of images of the classes that may be answered "other"
BOUNDS = (0.01, 100.0)  # limits of the search for a temperature
FIGURES = ("nll", "ece", "top1")


def fit_temperature(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Fits the temperature that minimises the mean negative log-likelihood of `labels_N` (section 4.2 of the paper).

    Raises DataError if there is no minimum inside BOUNDS, for example if every image is recognised.
    """
    z_NK, rows = np.asarray(logits_NK, np.float64), np.arange(len(labels_N))

    def nll(log_temperature: float) -> float:
        return -log_softmax(z_NK / math.exp(log_temperature), axis=1)[rows, labels_N].mean()

    low, high = map(math.log, BOUNDS)  # the loss is convex in 1 / T, so there is at most one minimum
    result = minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    recognised = int((z_NK.argmax(1) == labels_N).sum())
    inside = low + 1e-3 < result.x < high - 1e-3  # else the best temperature is at or beyond a bound
    if recognised == len(labels_N) or not inside:
        raise DataError(
            f"no temperature between {BOUNDS[0]:g} and {BOUNDS[1]:g} fits these {len(labels_N)} validation images, of which "
            f"{recognised} are recognised; use more images, some recognised and some mistaken"
        )
    return math.exp(result.x)


def cross_validated(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Divides the logits of each image by the temperature fitted on the other folds, or by 1 if the fit fails."""
    out_NK = np.array(logits_NK, np.float64)
    for others, fold in KFold(min(FOLDS, len(out_NK)), shuffle=True, random_state=0).split(out_NK):
        with contextlib.suppress(DataError):
            out_NK[fold] /= fit_temperature(logits_NK[others], labels_N[others])
    return out_NK


def other_answer(best_N: np.ndarray, right_N: np.ndarray, strangers_M: np.ndarray | None = None) -> OtherAnswer:
    """Returns the threshold of the answer "other", and its error rates.

    A share KNOWN_AS_OTHER of the validation images is below the threshold. `best_N`: the highest probability for each
    validation image. `right_N`: whether its class is correct. `strangers_M`: the highest probability for images outside the
    classes. The rate of known images is cross-validated.
    """

    def threshold(best: np.ndarray) -> float:
        return float(np.quantile(best, KNOWN_AS_OTHER, method="lower"))

    refused_N = np.zeros(len(best_N), bool)
    for others, fold in KFold(min(FOLDS, len(best_N)), shuffle=True, random_state=0).split(best_N):
        refused_N[fold] = best_N[fold] < threshold(best_N[others])
    limit = threshold(best_N)

    def share(best: np.ndarray | None) -> float | None:
        return None if best is None or not len(best) else float((best >= limit).mean())

    return OtherAnswer(limit, float(refused_N.mean()), len(best_N), share(best_N[~right_N]), share(strangers_M))


def calibrate(
    checkpoint: str | Path,
    data: Any = None,
    device: str = "auto",
    skip_unreadable: bool = False,
    reading: Mapping[str, Any] = MappingProxyType({}),
    others: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Fits a temperature on the validation split of `data` (None: the training data) and stores it in the checkpoint.

    Also stores the threshold of the answer "other", and replaces earlier values. `data`: a name, a folder, or arrays by
    split, as in `load_data`. `reading`: fields of `ReadingConfig` that differ from training. `others`: image files or
    folders outside the classes.

    Returns {"checkpoint": the file, "temperature", "other": fields of `OtherAnswer`, "val": the result of `before_and_after`,
    "test": the same if `data` has such a split}. "val" also has "cross_validated": the metrics with a temperature that is
    fitted on other images. Raises DataError if there is no validation split, or if cross-validation does not increase the
    likelihood. Raises CheckpointError and RunFolderError.
    """
    where, _ = choose_device(device)
    path = weights_file(checkpoint)
    if path.parent == FOLDER:
        raise CheckpointError(
            f"{checkpoint} comes with the package and cannot be changed; copy {path} and calibrate the copy"
        )
    stored = load_weights(path)
    predictor = Predictor(stored.read_as(reading, data), path, str(where))
    source, split = data if data is not None else stored.config.data, stored.config.split
    splits = find(source, reading=predictor.config.reading).splits
    if "val" not in splits and not ("train" in splits and (split.val_fraction or split.folds)):
        raise DataError(
            f"{source} has no validation images, and the run held none out; calibration needs them: name data with a "
            "val/ folder (--data), or train with --split.val-fraction 0.1"
        )

    def measured(split: str) -> tuple[ImageSet, np.ndarray]:
        images = labelled(predictor, source, split, skip_unreadable)
        return images, logits(predictor.model, images.images, predictor.config, where).numpy()

    names = ["val", *(["test"] if "test" in splits else [])]
    parts = {name: measured(name) for name in names}
    images, z_NK = parts["val"]
    temperature = fit_temperature(z_NK, images.labels.numpy())
    crossed = _figures(cross_validated(z_NK, images.labels.numpy()), images)
    before = _figures(z_NK, images)
    if crossed["nll"] >= before["nll"]:
        raise DataError(
            f"a temperature fitted on four fifths of these {len(images)} validation images does not help on the others (NLL "
            f"{before['nll']:.3f} before, {crossed['nll']:.3f} after); nothing is stored: hold out more images"
        )
    p_NK = softmax(z_NK / temperature, axis=1)
    predictor.temperature = temperature
    strangers, failures = predict_files(predictor, others, 1, 0.0) if others else ([], [])
    warn(*failures)
    strangers_M = np.array([guess.probabilities[0] for guess in strangers]) if others else None
    other = other_answer(p_NK.max(1), p_NK.argmax(1) == images.labels.numpy(), strangers_M)
    save_weights(path, replace(stored, temperature=temperature, other=other))
    results = {name: before_and_after(z_NK, images, temperature) for name, (images, z_NK) in parts.items()}
    results["val"]["cross_validated"] = crossed
    return {"checkpoint": str(path), "temperature": temperature, "other": asdict(other), **results}


def before_and_after(logits_NK: np.ndarray, images: ImageSet, temperature: float) -> dict[str, Any]:
    """Returns {"n", "before": {"nll", "ece", "top1"}, "after": {...}} for images with these logits."""
    both = {"before": logits_NK, "after": logits_NK / temperature}
    return {"n": len(images), **{when: _figures(z_NK, images) for when, z_NK in both.items()}}


def _figures(logits_NK: np.ndarray, images: ImageSet) -> dict[str, float]:
    metrics = score(softmax(logits_NK, axis=1), images.labels, images.class_names)
    return {name: getattr(metrics, name) for name in FIGURES}

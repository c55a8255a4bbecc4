"""Summarises the classes and errors of a classifier, and computes confidence intervals. Does not import torch."""

from __future__ import annotations

from typing import Any

from ..config import imbalanced
from .metrics import Metrics


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of an accuracy measured on `n` images (Wilson 1927, without continuity correction)."""
    from scipy.stats import binomtest

    limits = binomtest(round(accuracy * n), n).proportion_ci(0.95, method="wilson")
    return limits.low, limits.high


def chance_level(figures: dict[str, Any]) -> float:
    """Returns the accuracy of always predicting the most frequent class. `figures`: fields of `Metrics`."""
    return max(map(sum, figures["confusion"])) / figures["n"]


def macro_accuracy(figures: dict[str, Any]) -> str:
    """Returns the macro accuracy as text if the sizes of the classes are `imbalanced`, else "".

    `figures`: fields of `Metrics`.
    """
    sizes = [size for row in figures["confusion"] if (size := sum(row))]
    if not imbalanced(sizes):
        return ""
    return (
        f"macro accuracy {100 * figures['balanced_accuracy']:.2f} % over classes of {min(sizes)} to {max(sizes)} images"
    )


def worst_first(found: Metrics) -> list[tuple[str, float | None, int, str, int]]:
    """Returns (class, recognised share, images, most frequent wrong class, its count) per class.

    The least recognised classes come first; among equal classes, larger ones. Classes without images (share None) come
    last.
    """
    rows = []
    for i, name in enumerate(found.class_names):
        row = found.confusion[i]
        times, other = max(((n, j) for j, n in enumerate(row) if j != i), key=lambda pair: pair[0])
        rows.append((name, found.per_class[name], sum(row), found.class_names[other], times))
    return sorted(rows, key=lambda r: (r[1] is None, r[1], -r[2]))


def confused_pairs(found: Metrics) -> list[tuple[str, str, int, int]]:
    """Returns (class, predicted class, count, images of the class) per pair of confused classes, most frequent first."""
    pairs = [
        (found.class_names[i], found.class_names[j], times, sum(row))
        for i, row in enumerate(found.confusion)
        for j, times in enumerate(row)
        if i != j and times
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[3]))

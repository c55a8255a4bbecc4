"""Creates the parts of the page other than the model: files, title, choice of samples, effect of confidence thresholds.

Legend: N images, K classes.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..results import name_of

PAGE = ("index.html", "page.css", "page.js", "png.js")


def page_files() -> dict[str, bytes]:
    """Returns the files of the page that do not depend on the model."""
    return {name: (resources.files(__package__) / "page" / name).read_bytes() for name in PAGE}


def task(data: Any) -> str:
    """Returns the title of a page: the name of its data, or "" for arrays, which have no name."""
    name = name_of(str(data)) if isinstance(data, (str, Path)) else ""
    name = name.partition(":")[2] or name
    return "" if name == "arrays" else name[:1].upper() + name[1:].replace("_", " ").replace("-", " ")


def thresholds(p_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, list[float | None]]:
    """Returns the effect of confidence thresholds from 0 to 100 %, in steps of 0.1 %.

    "answered": share of images with an answer at this threshold. "right": share of correct answers among these, or None
    without answers.
    """
    confidence_N, right_N = p_NK.max(1), p_NK.argmax(1) == labels_N
    shares: dict[str, list[float | None]] = {"answered": [], "right": []}
    for permille in range(1001):
        sure_N = 1000 * confidence_N >= permille
        shares["answered"].append(round(float(sure_N.mean()), 4))
        shares["right"].append(round(float(right_N[sure_N].mean()), 4) if sure_N.any() else None)
    return shares


def sample_places(labels_N: np.ndarray, count: int) -> list[int]:
    """Returns the indices of `count` images from as many classes as possible, or of all images if there are fewer."""
    rank_N = np.zeros(len(labels_N), int)  # index of each image within its class
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        rank_N[members] = np.arange(len(members))
    return sorted(np.lexsort((labels_N, rank_N))[:count].tolist(), key=lambda place: labels_N[place])

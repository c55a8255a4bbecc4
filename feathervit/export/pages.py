"""Makes the parts of the page besides the model: its files, a title, sample images, the effect of confidence thresholds.

Legend: N images, K classes.
"""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.transforms.functional import to_pil_image

from ..results import name_of
from .job import Images

PAGE = ("index.html", "page.css", "page.js", "png.js")


def page_files() -> dict[str, bytes]:
    """Returns the files of the page that do not depend on the model."""
    return {name: (resources.files(__package__) / "page" / name).read_bytes() for name in PAGE}


def task(data: Any) -> str:
    """Returns the title of a page: the name of its data. It is empty for arrays, which have no name."""
    name = name_of(str(data)) if isinstance(data, (str, Path)) else ""
    name = name.partition(":")[2] or name
    return "" if name == "arrays" else name[:1].upper() + name[1:].replace("_", " ").replace("-", " ")


def thresholds(p_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, list[float | None]]:
    """Returns the effect of thresholds of confidence from 0 to 100 %.

    "answered": the share of the images that get an answer. "right": the share of these with the right answer, or None if no
    image gets an answer.
    """
    confidence_N, right_N = p_NK.max(1), p_NK.argmax(1) == labels_N
    found: dict[str, list[float | None]] = {"answered": [], "right": []}
    for percent in range(101):
        sure_N = 100 * confidence_N >= percent
        found["answered"].append(round(float(sure_N.mean()), 4))
        found["right"].append(round(float(right_N[sure_N].mean()), 4) if sure_N.any() else None)
    return found


def sample_places(labels_N: np.ndarray, count: int) -> list[int]:
    """Returns the indices of `count` images of as many classes as possible; of all images, if there are fewer."""
    rank_N = np.zeros(len(labels_N), int)  # the number of each image within its class
    for label in np.unique(labels_N):
        own = np.flatnonzero(labels_N == label)
        rank_N[own] = np.arange(len(own))
    return sorted(np.lexsort((labels_N, rank_N))[:count].tolist(), key=lambda place: labels_N[place])


def sample_images(images: Images, count: int) -> dict[str, bytes]:
    """Returns PNGs of `count` images, as stored, by file name. No file of the user is copied."""
    found = {}
    for number, place in enumerate(sample_places(images.labels, count)):
        out = io.BytesIO()
        to_pil_image(images.pixels[place]).save(out, "PNG")
        found[f"sample-{number}.png"] = out.getvalue()
    return found

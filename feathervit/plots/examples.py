"""Selects and draws the images of a report: worst mistakes, most confused pairs of classes, samples per class.

Legend: B batch, C channels, S image side, K classes, N images.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from ..data import ImageSet
from ..data.image import resize
from ..data.imageset import evenly
from . import texts
from .tiles import png_bytes, rgb, tiles

SAMPLES = 8  # images per class
CLASSES = 30  # maximum number of classes with samples
MISTAKES = 12
PAIRS = 8
PER_PAIR = 4  # mistaken images per pair
SIDE = 96  # px, maximum side of an image


def mistakes(
    p_NK: np.ndarray, images: ImageSet, train: ImageSet, files: dict[str, bytes]
) -> tuple[list[dict[str, Any]], str]:
    """Returns the mistakes with the highest confidence, each with a training image of the predicted class, and a note."""
    guess, labels, names = p_NK.argmax(1), images.labels.numpy(), images.class_names
    wrong = np.flatnonzero(guess != labels)
    worst = wrong[np.argsort(-p_NK[wrong, guess[wrong]], kind="stable")][:MISTAKES]
    rows = [
        {
            "uri": strip(images.images[i : i + 1]),
            "true": names[labels[i]],
            "guess": names[guess[i]],
            "like": _like(train, guess[i]),
            "confidence": float(p_NK[i, guess[i]]),
            "source": images.sources[i],
            "file": images.sources[i].rpartition("/")[2],
        }
        for i in worst.tolist()
    ]
    if rows:
        captions = [f"{row['true']}, predicted as {row['guess']} ({texts.percent(row['confidence'])})" for row in rows]
        shown = small(images.images[torch.from_numpy(worst)])
        files["mistakes"] = png_bytes(tiles(shown.split(1), captions))
    most = f", the {len(rows)} with the highest confidence" if len(rows) < len(wrong) else ""
    return rows, f"{len(wrong)} of {len(labels)} images are classified wrongly{most}."


def _like(train: ImageSet, label: int) -> str:
    """Returns the middle training image of a class as a data URI, or "" if there is none."""
    members = torch.nonzero(train.labels == int(label)).flatten()
    return strip(train.images[members[len(members) // 2]][None]) if len(members) else ""


def confused(
    pairs: Sequence[tuple[str, str, int, int]],
    guess_N: np.ndarray | None = None,
    images: ImageSet | None = None,
    train: ImageSet | None = None,
) -> list[dict[str, Any]]:
    """Returns the first PAIRS of `evaluation.confusion.confused_pairs`, with thumbnails if images are given."""
    rows = []
    for true, predicted, times, n in pairs[:PAIRS]:
        row = {"true": true, "guess": predicted, "times": times, "n": n, "uri": "", "like": ""}
        if images is not None and guess_N is not None:
            names = images.class_names
            mistaken = np.flatnonzero(
                (images.labels.numpy() == names.index(true)) & (guess_N == names.index(predicted))
            )
            row["uri"] = strip(images.images[torch.from_numpy(mistaken[:PER_PAIR])], PER_PAIR)
            row["like"] = _like(train, names.index(predicted))
        rows.append(row)
    return rows


def samples(train: ImageSet, files: dict[str, bytes]) -> dict[str, Any]:
    """Returns strips of evenly spaced training images: one strip per class, or one strip if there are no labels."""
    count_K = np.bincount(train.labels.numpy(), minlength=len(train.class_names))
    if len(count_K) < 2:
        chosen = small(train.some(SAMPLES).images)
        files["samples"] = png_bytes(tiles([chosen]))
        return {"samples": [("training images", None, strip(chosen))], "samples_title": "Samples"}
    shown = [k for k in range(len(count_K)) if count_K[k]][:CLASSES]
    rows = []
    for k in shown:
        own = torch.nonzero(train.labels == k).flatten()
        chosen = own[evenly(len(own), SAMPLES)]
        rows.append((train.class_names[k], int(count_K[k]), small(train.images[chosen])))
    files["samples"] = png_bytes(tiles([own for _, _, own in rows], [name for name, _, _ in rows]))
    title = "Samples of each class" if len(shown) == len(count_K) else f"Samples of the first {len(shown)} classes"
    return {"samples": [(name, count, strip(own, SAMPLES)) for name, count, own in rows], "samples_title": title}


def small(images_BCRR: Tensor) -> Tensor:
    """Resizes images to `SIDE` px if they are larger."""
    return resize(images_BCRR, SIDE) if images_BCRR.shape[-1] > SIDE else images_BCRR


def strip(images_BCSS: Tensor, places: int = 0) -> str:
    """Returns the data URI of images side by side with gaps, padded to the width of `places` images."""
    images_B4SS = F.pad(rgb(small(images_BCSS)), (0, 0, 0, 0, 0, 1), value=255)  # with an alpha channel
    images_B4SS = F.pad(images_B4SS, (0, 0, 0, 0, 0, 0, 0, max(0, places - len(images_B4SS))))
    side, count = images_B4SS.shape[-1], len(images_B4SS)
    gap = max(1, side // 12)
    row_4HW = make_grid(images_B4SS, nrow=count, padding=gap)
    return uri(png_bytes(to_pil_image(row_4HW if count == 1 else row_4HW[:, gap : gap + side, gap:-gap])))


def uri(png: bytes) -> str:
    """Returns the data URI of a PNG, for embedding in the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()

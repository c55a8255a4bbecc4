"""Finds near-duplicates: images with the same content and different pixels, such as re-encoded, resized or mirrored copies.

Candidates have perceptual hashes that differ in few bits: the signs of the lowest cosine frequencies of a grey thumbnail, as
in pHash (Zauner, 2010). The colour thumbnails of a pair must also correlate, because simple images share hashes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import dctn

from .image import resize
from .imageset import with_channels

BITS = 6  # maximum number of different bits in two hashes of 64 bits
CORRELATION = 0.97  # minimum correlation of two thumbnails
FLAT = 2.0  # images with a smaller standard deviation of levels are not compared
_GREY, _COLOUR, _LOW = 32, 16, 8  # sides of the thumbnails and of the block of frequencies
_PAIRS = 1 << 22  # hashes compared at a time


class Thumbnail(NamedTuple):
    """Holds the 64-bit `hashes` of an image and its mirror image, and the `levels` of its thumbnail.

    `levels` is int16 [3, 16, 16], minus the mean of each channel.
    """

    hashes: tuple[int, int]
    levels: np.ndarray


def thumbnail(x_CHW: torch.Tensor) -> Thumbnail:
    """Returns the thumbnail of an image, uint8 [1 or 3, H, W]."""
    small = with_channels(x_CHW[None], 3) if x_CHW.shape[0] == 1 else x_CHW[None]
    grey_HW = resize(with_channels(small, 1), _GREY)[0, 0].numpy().astype(np.float32)
    levels = resize(small, _COLOUR)[0].numpy().astype(np.int16)
    levels -= levels.mean((1, 2), keepdims=True).astype(np.int16)
    return Thumbnail((_hash(grey_HW), _hash(grey_HW[:, ::-1])), levels)


def alike(first: list[Thumbnail], second: list[Thumbnail] | None = None) -> list[tuple[int, int]]:
    """Returns (index in `first`, index in `second`) of near-duplicates, sorted. `second` None: pairs i < j inside `first`."""
    if not first or second == []:
        return []
    inside, second = second is None, first if second is None else second
    own_N = np.array([t.hashes[0] for t in first], np.uint64)
    hashes_M2 = np.array([t.hashes for t in second], np.uint64)
    pairs, rows = [], max(1, _PAIRS // len(second))
    for start in range(0, len(first), rows):
        differ_BM2 = np.bitwise_count(own_N[start : start + rows, None, None] ^ hashes_M2)
        for i, j in np.argwhere((differ_BM2 <= BITS).any(-1)).tolist():
            if (not inside or start + i < j) and _correlate(first[start + i], second[j]):
                pairs.append((start + i, j))
    return pairs


def _hash(grey_HW: np.ndarray) -> int:
    low = dctn(grey_HW, norm="ortho")[:_LOW, :_LOW].ravel()
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _correlate(a: Thumbnail, b: Thumbnail) -> bool:
    if a.levels.std() < FLAT or b.levels.std() < FLAT:
        return False
    return any(
        np.corrcoef(a.levels.ravel(), other.ravel())[0, 1] >= CORRELATION for other in (b.levels, b.levels[..., ::-1])
    )

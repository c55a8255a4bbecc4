"""Converts an image to pixels, in the same way for training, evaluation, prediction, export and the browser.

Steps: open, make square, resize once, normalise. Opening reads the first frame, rotates it according to EXIF, converts it to
grey or RGB in 8 bits, and puts transparent images on white. The resize is float32 bilinear with antialiasing, rounded. libjpeg
decodes a much larger JPEG at 1/2, 1/4 or 1/8 of its size, never below twice the requested size. The square is then cropped at
fractions of decoded pixels, so that it covers the same part of the image. A pixel budget, shared by all threads, bounds the
memory of images during decoding.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..config import RunConfig
from ..errors import DataError
from .damage import CHECKED, doubt, fault
from .depth import colour_values, eight_bits, file_mode, is_deep, value_range
from .opening import LARGE, MAX_GIB, Source, budget, decoded_bytes, opened, reason, refuse_large, return_memory

Fit = Literal["crop", "pad", "stretch"]
_ORIENTATION = 0x0112  # the EXIF tag
_PHOTOMETRIC = 262  # the TIFF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MIRRORED = {
    2: (True, False),
    3: (True, True),
    4: (False, True),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}  # x, y


class ImageError(DataError):
    """An image that cannot be read. `why` is the reason without the file name."""

    def __init__(self, source: Source, why: str):
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "an image"
        super().__init__(f"cannot read {name}: {why}")
        self.why = why


def open_image(source: Source, channels: int = 3, scale: float | None = None, max_gib: float = MAX_GIB) -> torch.Tensor:
    """Reads an image at its full size as uint8 [channels, H, W], upright.

    source: a path, the bytes of a file, or a PIL image. channels: 1 (grey) or 3 (RGB). scale: the value of white in images
    of more than 8 bits (see depth.py). max_gib: memory limit of the decoded image. Raises ImageError with one line that
    names the file and the reason.
    """
    with _decoding(source, channels, scale=scale, max_gib=max_gib) as (image, *_):
        return _pixels(image, channels).contiguous()


@contextmanager
def examined(
    source: Source, channels: int, scale: float | None = None, max_gib: float = MAX_GIB
) -> Iterator[tuple[torch.Tensor, str | None, str | None]]:
    """Opens an image like `open_image`. Yields its pixels, PIL's name of its format, and possible damage (see damage.py).

    For use in threads: the pixels count against the budget until the end of the block. A JPEG that is too large for
    `max_gib` is decoded at a fraction of its size.
    """
    with _decoding(source, channels, scale=scale, thorough=True, max_gib=max_gib) as (image, _, kind, doubted):
        yield _pixels(image, channels), kind, doubted


class _Decoded(NamedTuple):
    """Holds an image in 8 bits, the (width, height) of the file, its format, and possible damage."""

    image: Image.Image
    size: tuple[int, int]
    kind: str | None
    doubt: str | None


@contextmanager
def _decoding(
    source: Source,
    channels: int,
    at_least: int | None = None,
    fit: Fit = "crop",
    scale: float | None = None,
    thorough: bool = False,
    max_gib: float = MAX_GIB,
) -> Iterator[_Decoded]:
    """Decodes an image. Its pixels count against the budget until the end of the block.

    `at_least`: a JPEG may be decoded at a smaller size, with sides of at least this length. `thorough`: also look for
    possible damage. Raises ImageError for any failure inside the block.
    """
    if channels not in (1, 3):
        raise DataError(f"image files are read with 1 or 3 channels, not {channels}; give arrays for other numbers")
    with _naming(source), opened(source) as image:
        size = image.size
        if at_least:
            image.draft(None, (at_least, at_least))
        elif thorough and decoded_bytes(image, size, channels) > max_gib * 2**30:
            image.draft(None, (size[0] // 8, size[1] // 8))
        refuse_large(image, size, fit == "pad", max_gib, channels)
        # Decoding a progressive JPEG keeps all coefficients of the image at any scale.
        pixels = size[0] * size[1] if "progressive" in image.info else image.width * image.height
        with budget.share(pixels):
            mode = file_mode(image)
            image.load()  # load now, because reading EXIF first may hide truncated pixels
            kind, data = image.format, _file_bytes(source) if image.format in CHECKED else b""
            if why := fault(data, image):
                raise OSError(why)
            doubted = doubt(data, image) if thorough else None
            image = _in_eight_bits(image, mode, source, scale) if is_deep(mode) else image
            yield _Decoded(image, size, kind, doubted)


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Raises ImageError for any failure inside the block: PIL raises OSError, SyntaxError, struct.error, zlib.error..."""
    try:
        yield
    except Exception as error:
        raise ImageError(source, reason(error, source)) from error


def to_stored(
    source: Source,
    size: int | None,
    channels: int = 3,
    fit: Fit = "crop",
    scale: float | None = None,
    max_gib: float = MAX_GIB,
) -> torch.Tensor:
    """Reads an image as uint8 [channels, size, size]: `open_image`, `fit_square`, `resize`. size None: no resize.

    Training (at its stored size), evaluation and prediction (at the model's size) use this function.
    """
    with _decoding(source, channels, 2 * size if size else None, fit, scale, max_gib=max_gib) as (image, full, *_):
        if size and image.size != full:
            return _scaled_square(image, full, size, channels, fit)
        x_CHW = fit_square(_pixels(image, channels), fit)
        return x_CHW.contiguous() if size is None else resize(x_CHW, size)


def fit_square(x: torch.Tensor, fit: Fit) -> torch.Tensor:
    """Converts pixels [..., H, W] to a square [..., S, S], before any resize.

    "crop": crops the centre; S is the short side. "pad": adds black borders; S is the long side. In both, an odd pixel goes
    to the right or the bottom. "stretch": returns the pixels unchanged, because `resize` stretches them.
    """
    height, width = x.shape[-2:]
    if fit == "stretch" or height == width:
        return x
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return x[..., top : top + side, left : left + side]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return torch.nn.functional.pad(x, (left, side - width - left, top, side - height - top))


def resize(x: torch.Tensor, size: int) -> torch.Tensor:
    """Resizes uint8 [..., H, W] to uint8 [..., size, size]: float32 bilinear with antialiasing, rounded to the nearest."""
    if x.shape[-2:] == (size, size):
        return x.contiguous()
    planes_NHW = x.reshape(-1, *x.shape[-2:])
    # Resize at most 16 million pixels at a time, to limit the memory of the float32 copies.
    pieces = planes_NHW.split(max(1, (1 << 24) // (x.shape[-2] * x.shape[-1])))
    out_NHW = torch.cat([_interpolate(piece, size) for piece in pieces])
    return out_NHW.reshape(*x.shape[:-2], size, size)


def normalise(x: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Converts uint8 [..., C, H, W] to float32 (x / 255 - mean) / std. Mean and std hold one value, or one per channel."""
    mean_C11, std_C11 = _constants(tuple(mean), tuple(std), x.device)
    return (x.float() / 255 - mean_C11) / std_C11


@functools.lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and deviation on a device. Cached, because a copy to a GPU waits for the work in progress."""
    with torch.inference_mode(False):
        return tuple(torch.tensor(t, dtype=torch.float32, device=device).view(-1, 1, 1) for t in (mean, std))


def as_input(x: torch.Tensor, config: RunConfig) -> torch.Tensor:
    """Converts stored images, uint8 [B, C, R, R], to input of the model: float32 [B, C, S, S], resized and normalised."""
    return normalise(resize(x, config.img_size), config.images.mean, config.images.std)


def header(source: Source) -> tuple[int, int, str]:
    """Reads (width, height, `file_mode`) from the header of a file, before decoding and EXIF rotation. Raises ImageError."""
    with _naming(source), opened(source) as image:
        return image.width, image.height, file_mode(image)


def values_in(source: Source, max_gib: float = MAX_GIB) -> tuple[str, float, float] | None:
    """Returns the range of values in a file of more than 8 bits per channel (see `value_range`), or None for 8 bits.

    Raises ImageError.
    """
    with _naming(source), opened(source) as image:
        mode = file_mode(image)
        if not is_deep(mode):
            return None
        refuse_large(image, image.size, False, max_gib)
        with budget.share(image.width * image.height):
            image.load()
            return value_range(_deep_values(image, mode, source), mode)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences PIL's warnings (odd EXIF, large images). Filters are global, so enter the block before threads start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


# ---------------------------------------------------------------------------------------------------------------------


def _interpolate(x_NHW: torch.Tensor, size: int) -> torch.Tensor:
    out = torch.nn.functional.interpolate(
        x_NHW[:, None].float(memory_format=torch.contiguous_format),
        size=(size, size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return out[:, 0].round_().clamp_(0, 255).to(torch.uint8)


def _scaled_square(image: Image.Image, full: tuple[int, int], size: int, channels: int, fit: Fit) -> torch.Tensor:
    """Applies `fit_square` and `resize` to a JPEG of `full` (width, height) that is decoded at a fraction of it.

    A square in whole decoded pixels would be misplaced by up to one pixel, and libjpeg rounds the sides up. Together, these
    errors change values by several grey levels. Therefore the box has fractional coordinates, as in Pillow's `thumbnail`,
    and the resize works on float planes.
    """
    orientation = _orientation(image)
    scale = 1 << round(math.log2(max(full) / max(image.size)))  # 2, 4 or 8
    sides = np.array(full)
    extent = sides if fit == "stretch" else np.full(2, max(full) if fit == "pad" else min(full))
    spare = sides - extent  # negative for "pad"
    before = np.trunc(spare / 2)  # an odd pixel goes to the right or the bottom of the upright image
    before = np.where(_MIRRORED.get(orientation, (False, False)), spare - before, before)
    first = before / scale  # x and y of the square's corner, in decoded pixels
    last = first + extent / scale
    image = _and_close(image, image.convert("L" if channels == 1 else "RGB"))
    x_HWC = np.asarray(image, np.float32).reshape(image.height, image.width, channels)
    if fit == "pad":  # the last decoded column and row may be partly outside the image, which is black there
        x_HWC[:, -1] *= sides[0] / scale - (image.width - 1)
        x_HWC[-1] *= sides[1] / scale - (image.height - 1)
    (left, top), (right, bottom) = np.floor(first).astype(int), np.ceil(last).astype(int)
    black = ((max(0, -top), max(0, bottom - image.height)), (max(0, -left), max(0, right - image.width)), (0, 0))
    x_HWC = np.pad(x_HWC[max(0, top) : bottom, max(0, left) : right], black)
    box = (*(first - (left, top)), *(last - (left, top)))
    planes = [
        Image.fromarray(x_HWC[..., c]).resize((size, size), Image.Resampling.BILINEAR, box) for c in range(channels)
    ]
    upright = [plane.transpose(_UPRIGHT[orientation]) for plane in planes] if orientation in _UPRIGHT else planes
    return torch.from_numpy(np.rint(np.stack(upright)).clip(0, 255).astype(np.uint8))


def _pixels(image: Image.Image, channels: int) -> torch.Tensor:
    """Returns the pixels of a decoded image, uint8 [C, H, W]. Converts bands, because full copies need much memory."""
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = _and_close(image, image.transpose(turn))
    x_CHW = np.empty((channels, image.height, image.width), np.uint8)
    rows = max(1, (1 << 20) // image.width)
    for top in range(0, image.height, rows):
        band = _converted(image.crop((0, top, image.width, min(top + rows, image.height))), channels)
        x_CHW[:, top : top + rows] = np.asarray(band).reshape(band.height, band.width, channels).transpose(2, 0, 1)
    return torch.from_numpy(x_CHW)


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image to grey or RGB, on white if it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        image = white
    if image.mode == "LAB":  # Pillow cannot convert LAB to grey directly
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _and_close(old: Image.Image, new: Image.Image) -> Image.Image:
    old.close()  # free the pixels at once, so that there are never three copies of a large image
    if new.width * new.height > LARGE:
        return_memory()
    return new


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block is not an error if the pixels are valid
        return 1


def _file_bytes(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _in_eight_bits(image: Image.Image, mode: str, source: Source, scale: float | None) -> Image.Image:
    """Converts an image to 8 bits per channel, with the orientation tag of the file."""
    levels = eight_bits(_deep_values(image, mode, source), scale, alpha=mode in ("LA;16", "RGBA;16"))
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # 0 is white: PIL inverts only images of 8 bits
        levels = 255 - levels
    out = Image.fromarray(levels if levels.ndim == 2 or levels.shape[2] > 1 else levels[..., 0])
    out.getexif()[_ORIENTATION] = _orientation(image)
    return _and_close(image, out)


def _deep_values(image: Image.Image, mode: str, source: Source) -> np.ndarray:
    if is_deep(image.mode):
        return np.asarray(image)
    with opened(source) as again:
        return colour_values(np.asarray(image), again)

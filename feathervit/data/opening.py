"""Opens image files. Limits their formats, the memory of one decoded image, and the total memory of all threads."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from PIL import Image, features

Source = str | os.PathLike | bytes | Image.Image
_SAMPLE_FORMAT = 339  # the TIFF tag
NO_BYTES = "an empty file"
MAX_GIB = 1.0  # default memory limit of one decoded image

# Image.open tries only these formats. Others are excluded: EPS would run Ghostscript on an untrusted file.
_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .gif .tif .tiff .mpo .ppm .pgm .pbm .pnm .pfm"
_OPTIONAL = {  # format -> suffixes, whether it is available, requirement
    "AVIF": (".avif .avifs", features.check("avif"), "a Pillow that is built with AVIF"),
    "JPEG2000": (".jp2 .j2k .jpx .jpf .j2c", features.check("jpg_2000"), "a Pillow that is built with JPEG 2000"),
    "HEIF": (".heic .heif .hif", find_spec("pillow_heif") is not None, "pip install 'feathervit[heic]'"),
}
_OTHERS = (  # images in formats that are not supported
    ".jxl .svg .psd .xcf .exr .hdr .tga .ico .eps .dcm .jxr .wdp .pcx .bpg "
    ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pef .srw"
)
FORMATS = _FORMATS + [name for name, (_, there, _) in _OPTIONAL.items() if there]
SUFFIXES = frozenset(" ".join([_SUFFIXES, *(own for own, there, _ in _OPTIONAL.values() if there)]).split())
# Suffix of images that cannot be read here -> requirement.
UNREADABLE = dict.fromkeys(_OTHERS.split(), "conversion to JPEG or PNG")
UNREADABLE |= {suffix: needs for own, there, needs in _OPTIONAL.values() if not there for suffix in own.split()}

# The raised error includes what PIL logs about a damaged file.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Opens a path, the bytes of a file, or a copy of a PIL image, and reads only the header. Raises what PIL raises."""
    if isinstance(source, Image.Image):
        yield source.copy()
        return
    if isinstance(source, (str, os.PathLike)) and stat.S_ISFIFO(os.stat(source).st_mode):
        raise OSError("a pipe, not a file")  # opening it would wait for a writer
    if "HEIF" in FORMATS and "HEIF" not in Image.OPEN:
        _register_heif()
    with (
        _without_pixel_limit,
        Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image,
    ):
        if image.format == "TIFF" and image.mode == "L" and image.tag_v2.get(_SAMPLE_FORMAT) == (2,):
            raise OSError("its 8 bits are signed, which PIL reads as unsigned; convert it")
        yield image


def refuse_large(image: Image.Image, full: tuple[int, int], padded: bool, limit: float, channels: int = 0) -> None:
    """Raises MemoryError if the decoded image (or its padded square, if `padded`) needs more than `limit` GiB.

    `full`: the (width, height) of the file, because a JPEG may be decoded at a fraction of it. `channels`: see
    `decoded_bytes`.
    """
    needed = decoded_bytes(image, full, channels)
    if padded:
        needed = max(needed, 4 * max(image.size) ** 2)
    if needed > limit * 2**30:
        raise MemoryError(
            f"its {full[0]} x {full[1]} pixels take {needed / 2**30:.3g} GiB of memory when decoded; the limit is {limit:.3g} "
            "per image, and --max-image-gib raises it"
        )


def decoded_bytes(image: Image.Image, full: tuple[int, int], channels: int = 0) -> int:
    """Returns the memory of an opened image in bytes: pixels as decoded by PIL, and a uint8 copy with `channels`."""
    pixel = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    needed = (pixel + channels) * image.width * image.height
    if "progressive" in image.info:  # all coefficients at any scale, 2 bytes each
        needed += int(2 * _samples(image) * full[0] * full[1])
    return needed


def reason(error: Exception, source: Source = b"") -> str:
    """Returns the reason why an image cannot be read, in a few words."""
    if isinstance(error, Image.UnidentifiedImageError):
        path = source if isinstance(source, (str, os.PathLike)) else ""
        if source == b"" or (path and not os.path.getsize(path)):
            return NO_BYTES
        suffix = os.path.splitext(path)[1].lower()
        needs = f"; {suffix} needs {UNREADABLE[suffix]}" if suffix in UNREADABLE else ""
        return f"not an image of a known format{needs}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:200] or type(error).__name__


class Budget:
    """Limits the total number of pixels in all threads to `total`. A single image may exceed it."""

    def __init__(self, total: int):
        self.total, self.free, self.changed = total, total, threading.Condition()

    @contextmanager
    def share(self, pixels: int) -> Iterator[None]:
        pixels = min(pixels, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            if pixels > LARGE:
                return_memory()
            with self.changed:
                self.free += pixels
                self.changed.notify_all()


budget = Budget(32_000_000)  # at most about 8 bytes per pixel: under 0.3 GB
LARGE = 4_000_000


def return_memory() -> None:
    """Returns freed memory to the system under glibc. Does nothing elsewhere.

    glibc keeps freed memory per thread. With sixteen threads, this is gigabytes.
    """
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


# ---------------------------------------------------------------------------------------------------------------------


class _WithoutPixelLimit:
    """Disables PIL's pixel limit inside the block, because our limit is on memory. Several threads may be inside."""

    def __init__(self) -> None:
        self.inside, self.limit, self.lock = 0, None, threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.inside += 1

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                Image.MAX_IMAGE_PIXELS = self.limit


_without_pixel_limit = _WithoutPixelLimit()


def _samples(image: Image.Image) -> float:
    """Returns the samples per pixel of a JPEG: 3 for colour, 1.5 if its colour has half the width and height, 1 for grey."""
    layers = getattr(image, "layer", None) or [(1, 1, 1, 0)] * 3
    widest, highest = max(layer[1] for layer in layers), max(layer[2] for layer in layers)
    return sum(layer[1] * layer[2] for layer in layers) / (widest * highest)


def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()

"""Defines the types of a dataset before and after decoding.

`ImageSet` holds decoded images, one uint8 tensor with its labels. `Images` holds labels and sources before decoding; it can be
split, counted and inspected. `ArrayImages` implements it for pixels; `FileImages` for files is in cache.py. Every source (a
name, a folder, the hub, arrays) becomes a `Found`, and is stored by the same code.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ..errors import ConfigError
from .image import Fit, fit_square, normalise, resize
from .names import wanted_classes

if TYPE_CHECKING:
    from .layout import Layout

Progress = Callable[[int, int], None]  # called with (images done, total images)
NATIVE_LIMIT = 96  # px: small square images of one size are stored unchanged up to this side


@dataclass(eq=False)
class ImageSet:
    """Holds decoded images: `images` uint8 [N, C, R, R] (may be memory-mapped), `labels` int64 [N].

    `sources` holds the origin of each image: a path relative to the root of the dataset, with /, or "digits/train[17]".
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    sources: list[str]
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | torch.Tensor) -> ImageSet:
        """Returns the images at `indices`, in that order, with the same classes."""
        index_N = torch.as_tensor(indices, dtype=torch.int64)
        sources = [self.sources[i] for i in index_N.tolist()]
        return ImageSet(self.images[index_N], self.labels[index_N], self.class_names, sources, self.name)

    def some(self, most: int) -> ImageSet:
        """Returns at most `most` of the images, evenly spaced, including the first and the last."""
        return self.subset(evenly(len(self), most))

    def dataset(
        self, img_size: int | None = None, mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.5,)
    ) -> InputDataset:
        """Returns a dataset of model inputs, for a `torch.utils.data.DataLoader` and a custom training loop.

        `img_size` None: the stored size, which may be larger than the input of a model. `mean` and `std`: one value, or one
        per channel, on a scale from 0 to 1; the defaults are those of the recipes.
        """
        return InputDataset(self, img_size or self.images.shape[-1], mean, std)

    def fingerprint(self) -> str:
        """Returns 32 hexadecimal digits that change with the sources, labels, classes, image shape or pixels.

        Reads all pixels of up to 8 GB, at about 0.5 GB per second. For larger sets, reads an evenly spaced sample of
        images.
        """
        digest = text_digest([*self.class_names, "", *self.sources, str(tuple(self.images.shape))])
        digest.update(self.labels.numpy().tobytes())
        digest.update(pixel_digest(self.images.numpy(), 8_000_000_000).encode())
        return digest.hexdigest()


class InputDataset(torch.utils.data.Dataset):
    """Dataset of pairs (image float32 [C, S, S], label). Images are resized and normalised per batch."""

    def __init__(self, images: ImageSet, img_size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        self.images, self.img_size, self.mean, self.std = images, img_size, mean, std

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns a batch. A DataLoader calls this method instead of `__getitem__`."""
        index_B = torch.as_tensor(indices)
        x_BCSS = normalise(resize(self.images.images[index_B], self.img_size), self.mean, self.std)
        return list(zip(x_BCSS, self.images.labels[index_B], strict=True))


@dataclass
class DataSplits:
    """Holds the splits of a dataset. `record` is written to splits.json, `notes` are lines for the banner.

    `skipped` holds the skipped unreadable files, each as "SOURCE: why". `scale`: the value of white in images of more than 8
    bits (None: there are no such images).
    """

    train: ImageSet
    val: ImageSet | None
    test: ImageSet | None
    record: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    scale: float | None = None

    def fingerprints(self, pixels: bool = True) -> dict[str, str]:
        """Returns split -> fingerprint; without `pixels`, one that is equal at all image sizes."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {
            name: (images if pixels else replace(images, images=torch.empty(0))).fingerprint()
            for name, images in splits.items()
            if images is not None
        }


@dataclass(frozen=True)
class Scan:
    """Holds the information from the headers of the readable images. `modes`: PIL mode -> count.

    `native_side`: the side in pixels if all images are square, of one size and at most `NATIVE_LIMIT`, else None.
    """

    median_short_side: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    native_side: int | None = None


@dataclass(frozen=True)
class Values:
    """Holds the values in images of more than 8 bits per channel.

    `tops`: "i" (integers) or "f" (floats) -> the largest value of each image. `least`: the smallest value of all images.
    """

    tops: dict[str, list[float]] = field(default_factory=dict)
    least: float = 0.0


class Images(Protocol):
    """Holds the images of one split before they are stored. `labels` int64 [N] and `sources` as in `ImageSet`."""

    labels: np.ndarray
    sources: list[str]

    def subset(self, indices: np.ndarray) -> Images: ...

    def scan(self) -> Scan: ...

    def values(self) -> Values:
        """Returns the values in images of more than 8 bits per channel."""

    def at_scale(self, scale: float | None) -> Images:
        """Returns the same images, to be stored with this value as white if they have more than 8 bits."""

    def store(
        self, size: int, channels: int | None, fit: Fit, progress: Progress | None
    ) -> tuple[torch.Tensor, list[tuple[int, str]]]:
        """Returns the readable images, uint8 [n, C, size, size], and (index, why) per unreadable image."""


@dataclass(eq=False)
class ArrayImages:
    """Holds images given as pixels: uint8 [N, C, H, W]."""

    images: torch.Tensor
    labels: np.ndarray
    sources: list[str]

    def subset(self, indices: np.ndarray) -> ArrayImages:
        index_N = torch.from_numpy(indices)
        return ArrayImages(self.images[index_N], self.labels[indices], [self.sources[i] for i in indices])

    def scan(self) -> Scan:
        channels, height, width = self.images.shape[1:]
        mode = {1: "L", 3: "RGB"}.get(channels, f"{channels} channels")
        return Scan(min(width, height), {mode: len(self.labels)}, native_side([(width, height)]))

    def values(self) -> Values:
        return Values()

    def at_scale(self, scale: float | None) -> ArrayImages:
        return self

    def store(
        self, size: int, channels: int | None, fit: Fit, progress: Progress | None
    ) -> tuple[torch.Tensor, list[tuple[int, str]]]:
        images = self.images
        if images.shape[-2:] != (size, size):
            images = torch.cat([resize(fit_square(part, fit), size) for part in images.split(256)])
        if progress:
            progress(len(self.labels), len(self.labels))
        return with_channels(images, channels), []


@dataclass
class Found:
    """Holds a source before decoding. `how` describes the origin of each split.

    `layout`: the detected layout of a folder. `unknown`: classes of val and test that are missing from train, at the end of
    `class_names`; a model cannot learn them. `groups`: split -> the group of each image, if there are groups.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Images]
    how: dict[str, str]
    notes: list[str] = field(default_factory=list)
    layout: Layout | None = None
    unknown: tuple[str, ...] = ()
    groups: dict[str, list[str]] | None = None

    def only(self, classes: Iterable[str]) -> Found:
        """Returns only the images of these classes. Raises UnknownNameError."""
        wanted = wanted_classes(classes, self.class_names)
        kept = [i for i, name in enumerate(self.class_names) if name in wanted]
        place = np.full(len(self.class_names), -1)
        place[kept] = np.arange(len(kept))
        splits, groups = {}, {}
        for split, images in self.splits.items():
            rows = np.flatnonzero(place[images.labels] >= 0)
            part = images.subset(rows)
            splits[split] = replace(part, labels=place[part.labels])
            groups[split] = [self.groups[split][row] for row in rows] if self.groups else []
        names = tuple(self.class_names[i] for i in kept)
        unknown = tuple(name for name in self.unknown if name in wanted)
        return replace(self, class_names=names, splits=splits, unknown=unknown, groups=self.groups and groups)

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Returns split -> class name -> number of images (0 for classes without images)."""
        counts = {split: Counter(images.labels.tolist()) for split, images in self.splits.items()}
        return {s: {name: c[i] for i, name in enumerate(self.class_names)} for s, c in counts.items()}


def native_side(sizes: Iterable[tuple[int, int]]) -> int | None:
    """Returns the `native_side` (see `Scan`) of images of these widths and heights."""
    width, height = next(iter(distinct := set(sizes)), (0, 1))
    return width if len(distinct) == 1 and width == height <= NATIVE_LIMIT else None


def with_channels(x: torch.Tensor, channels: int | None) -> torch.Tensor:
    """Converts uint8 [N, C, H, W] to the given number of channels (None: unchanged).

    Converts grey to RGB, or RGB to grey by ITU-R 601 luma. Raises ConfigError for other conversions.
    """
    current = x.shape[1]
    if channels is None or channels == current:
        return x
    if current == 1:
        return x.expand(-1, channels, -1, -1).contiguous()
    if (current, channels) == (3, 1):
        weights_C11 = torch.tensor([19595, 38470, 7471]).view(3, 1, 1)  # PIL's, in units of 2^-16
        parts = [(part.long() * weights_C11).sum(1, keepdim=True) + 0x8000 >> 16 for part in x.split(1024)]
        return torch.cat([part.to(torch.uint8) for part in parts])
    raise ConfigError(f"images.channels is {channels} but the data has {current}; leave it out, or convert the arrays")


def evenly(count: int, most: int) -> np.ndarray:
    """Returns at most `most` evenly spaced numbers below `count`, including 0 and the largest if `most` is at least 2."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


def text_digest(lines: Iterable[str]) -> hashlib.blake2b:
    """Returns a hash of lines. File names that are not valid Unicode are accepted."""
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line.encode("utf-8", "surrogatepass") + b"\0")
    return digest


def pixel_digest(images: np.ndarray, whole: int = 64_000_000) -> str:
    """Returns a hash of uint8 [N, ...]: of all images up to `whole` bytes, else of 1,024 evenly spaced images."""
    digest = hashlib.blake2b(str(images.shape).encode(), digest_size=16)
    rows = range(len(images))
    if images.nbytes > whole:
        rows = evenly(len(images), 1024)
    for i in rows:
        digest.update(np.ascontiguousarray(images[i]))
    return digest.hexdigest()

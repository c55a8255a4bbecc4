"""Finds datasets by name: scikit-learn's digits, which need no download, and torchvision's CIFAR-10/100, SVHN, Flowers-102.

torchvision downloads into the cache folder and checks the MD5 of each file. Its CIFAR reader unpickles only verified files.
Splits, label order and class names are the official ones.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from ..errors import DataError
from ..files import downloads
from .cache import FileImages, stamp_of
from .imageset import ArrayImages, Found


def find_named(name: str) -> Found:
    """Finds a dataset of `NAMED`, and downloads it if needed.

    Raises DataError if the download fails. The message names the folder for files that are downloaded by hand.
    """
    return NAMED[name](name)


def _digits(name: str) -> Found:
    """Returns 1,797 handwritten digits of 8x8 pixels and 17 grey levels (UCI; E. Alpaydin, C. Kaynak, 1998)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8))
    full = ArrayImages(images, labels.astype(np.int64), [f"{name}[{i}]" for i in range(len(labels))])
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    splits = {"train": full.subset(np.sort(train)), "test": full.subset(np.sort(test))}
    how = {"train": "the other 80 %", "test": "a fixed fifth, stratified, seed 0 (the set has no official split)"}
    return Found(name, tuple("0123456789"), splits, how)


def _cifar(name: str) -> Found:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    at = downloads(name)
    splits, class_names = {}, ()
    for split in ("train", "test"):
        part = _fetch(name, kind.url, at / kind.base_folder, lambda s=split: kind(at, s == "train", download=True))
        splits[split] = _arrays(f"{name}/{split}", part.data.transpose(0, 3, 1, 2), part.targets)
        class_names = tuple(part.classes)
    return _official(name, class_names, splits)


def _svhn(name: str) -> Found:
    from torchvision.datasets import SVHN

    at = downloads(name)
    splits = {}
    for split in ("train", "test"):
        url, file, _ = SVHN.split_list[split]
        part = _fetch(name, url, at / file, lambda s=split: SVHN(at, s, download=True))
        splits[split] = _arrays(f"{name}/{split}", part.data, part.labels)
    return _official(name, tuple("0123456789"), splits)


def _flowers(name: str) -> Found:
    from torchvision.datasets import Flowers102

    at = downloads(name)
    folder = at / "flowers-102"
    url = "102flowers.tgz (unpacked there), imagelabels.mat and setid.mat of www.robots.ox.ac.uk/~vgg/data/flowers/102"
    splits = {}
    for split in ("train", "val", "test"):
        # `loader=Path` skips decoding, because our cache decodes the images.
        part = _fetch(name, url, folder, lambda s=split: Flowers102(at, s, download=True, loader=Path))
        splits[split] = _files(folder, [part[i] for i in range(len(part))])
    return _official(name, tuple(Flowers102.classes), splits)


NAMED: dict[str, Callable[[str], Found]] = {
    "digits": _digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "flowers102": _flowers,
}


# ---------------------------------------------------------------------------------------------------------------------


def _fetch(name: str, url: str, place: Path, make: Callable[[], Any]) -> Any:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock:
            with suppress(OSError):  # a read-only folder must already contain the files
                lock.enter_context(FileLock(place.parent / ".lock"))  # several processes may download them
            return make()
    except Exception as error:  # a download can fail in many ways: no network, full disk, an HTML page for a file
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"cannot get {name!r}: {why}; tried {url}. Without a network, put the files into {place}"
            " (set FEATHERVIT_CACHE for another cache folder), or give a folder of images"
        ) from error


def _arrays(name: str, x_NCHW: np.ndarray, labels: Any) -> ArrayImages:
    images = torch.from_numpy(np.ascontiguousarray(x_NCHW))
    return ArrayImages(images, np.asarray(labels, dtype=np.int64), [f"{name}[{i}]" for i in range(len(images))])


def _files(root: Path, files: list[tuple[Path, int]]) -> FileImages:
    paths, labels = zip(*files, strict=True)
    sources = [path.relative_to(root).as_posix() for path in paths]
    return FileImages(paths, np.array(labels, np.int64), sources, [stamp_of(path) for path in paths], str(root))


def _official(name: str, class_names: tuple[str, ...], splits: dict[str, Any]) -> Found:
    return Found(name, class_names, splits, dict.fromkeys(splits, "official split"))

"""Data sets by name: scikit-learn's digits, which need no download, and torchvision's CIFAR-10/100, SVHN, Flowers-102.

torchvision downloads into the cache folder and checks each file's MD5; its CIFAR reader unpickles only files that have
passed. Splits, label order and class names are the official ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .cache import FilePictures, cache_folder
from .imageset import ArrayPictures, Found


def find_named(name: str) -> Found:
    """One of `NAMED`, downloaded if need be. Raises DataError when that fails, saying where files can be laid."""
    return NAMED[name](name)


def _digits(name: str) -> Found:
    """1,797 handwritten digits of 8x8 pixels and 17 grey levels (UCI; E. Alpaydin, C. Kaynak, 1998)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8))
    whole = ArrayPictures(images, labels.astype(np.int64), [f"{name}[{i}]" for i in range(len(labels))])
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    splits = {"train": whole.subset(np.sort(train)), "test": whole.subset(np.sort(test))}
    how = {"train": "the other 80 %", "test": "a fixed fifth, stratified, seed 0 (the set has no official split)"}
    return Found(name, tuple("0123456789"), splits, how)


def _cifar(name: str) -> Found:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    at = _folder(name)
    parts = {
        split: _fetch(name, at / kind.base_folder, kind.url, lambda train=split == "train": kind(at, train, download=True))
        for split in ("train", "test")
    }
    splits = {s: _arrays(f"{name}/{s}", p.data.transpose(0, 3, 1, 2), p.targets) for s, p in parts.items()}
    return Found(name, tuple(parts["train"].classes), splits, _official(splits))


def _svhn(name: str) -> Found:
    from torchvision.datasets import SVHN

    at = _folder(name)
    splits = {}
    for split in ("train", "test"):
        url, file, _ = SVHN.split_list[split]
        part = _fetch(name, at / file, url, lambda split=split: SVHN(at, split, download=True))
        splits[split] = _arrays(f"{name}/{split}", part.data, part.labels)
    return Found(name, tuple("0123456789"), splits, _official(splits))


def _flowers(name: str) -> Found:
    from torchvision.datasets import Flowers102

    at = _folder(name)
    folder = at / "flowers-102"
    url = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ (102flowers.tgz unpacked, imagelabels.mat, setid.mat)"
    splits = {}
    for split in ("train", "val", "test"):
        part = _fetch(name, folder, url, lambda split=split: _FlowerFiles(at, split, download=True))
        splits[split] = part.pictures(folder)
    return Found(name, tuple(Flowers102.classes), splits, _official(splits))


def _flower_files() -> type:
    """torchvision's class with a way to its list of files, which it shows only picture by picture."""

"""Converts images and labels given from Python to a dataset: `(images, labels)`, or a dict of such pairs by split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image

from ..errors import ConfigError, UnknownNameError
from .cache import FileImages, stamp_of
from .columns import index_labels, splits_of
from .given import Array, as_image, as_images, as_labels, channels_first, stacked
from .image import Source
from .imageset import ArrayImages, Found, Images
from .names import SPLITS


def find_arrays(source: Any, labelled: bool = True) -> Found:
    """Returns the splits of a pair, or of a dict of pairs by split that contains train. The classes are the labels of train.

    See given.py for the accepted images and labels. `labelled` False: images without labels are also accepted. Raises
    ConfigError, and UnknownNameError for an unknown split.
    """
    given = dict(source) if isinstance(source, Mapping) else {"train": source}
    names = splits_of("the dict of arrays", map(str, given))
    if unknown := [str(name) for name in given if str(name) not in names.values()]:
        raise UnknownNameError("split", unknown[0], SPLITS)
    if "train" not in names:
        raise ConfigError(f"the dict of arrays holds {', '.join(names) or 'nothing'}; it needs 'train'")
    pairs = {split: _pair(split, given[name], labelled) for split, name in names.items()}
    for split, (images, labels) in pairs.items():
        if len(images) != len(labels) or not len(images):
            raise ConfigError(f"{split}: {len(images)} images and {len(labels)} labels; one label per image is needed")
    labels = index_labels("the data", {split: labels.tolist() for split, (_, labels) in pairs.items()})
    splits = {}
    for split, rows in labels.rows.items():
        full = _images(split, pairs[split][0], np.zeros(len(pairs[split][1]), np.int64))
        splits[split] = replace(
            full if len(rows) == len(full.labels) else full.subset(rows), labels=labels.index[split]
        )
    return Found(
        "arrays", labels.class_names, splits, dict.fromkeys(splits, "arrays"), labels.notes, None, labels.unknown
    )


def _pair(split: str, pair: Any, labelled: bool) -> tuple[Array | list[Source | Array], np.ndarray]:
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not labelled and not (is_pair and _axes(pair[1]) == 1):
        images = stacked(as_images(pair, f"images of {split}"))
        return images, np.zeros(len(images), dtype=np.int64)
    if not is_pair:
        raise ConfigError(f"{split} must be a pair (images, labels), got {type(pair).__name__}")
    return stacked(as_images(pair[0], f"images of {split}")), as_labels(pair[1], f"labels of {split}")


def _axes(given: Any) -> int:
    try:
        return np.ndim(given)
    except ValueError:  # a ragged list
        return 0


def _images(split: str, images: Array | list[Source | Array], labels: np.ndarray) -> Images:
    names = [f"arrays/{split}[{i}]" for i in range(len(images))]
    if not isinstance(images, list):
        return ArrayImages(channels_first(images), labels, names)
    items = [as_image(x) if isinstance(x, (np.ndarray, torch.Tensor)) else x for x in images]
    sources = [str(x) if isinstance(x, Path) else name for x, name in zip(items, names, strict=True)]
    return FileImages(items, labels, sources, [_stamp(item) for item in items], os.getcwd())


def _stamp(item: Source) -> str:
    """Returns a text that identifies the content of an item."""
    if isinstance(item, Path):
        return stamp_of(item)
    data = item if isinstance(item, bytes) else item.tobytes()
    digest = hashlib.blake2b(data, digest_size=16)
    if not isinstance(item, Image.Image):
        return f" {digest.hexdigest()}"
    orientation = item.getexif().get(ExifTags.Base.Orientation)
    digest.update(repr((item.getpalette(), item.info.get("transparency"), orientation)).encode())
    return f"{item.mode} {item.size} {digest.hexdigest()}"

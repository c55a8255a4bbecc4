"""Hugging Face data sets, `hf:OWNER/NAME`, or a local folder of parquet files, `hf:PATH`, by `datasets` (extra `hub`).

The columns are found by their types: an Image, and a ClassLabel or a column named as labels are. Pictures stay encoded
and are decoded through our cache, as files are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError, UnknownNameError
from ..files import expanded
from .arrays import SPLIT_NAMES
from .cache import FilePictures
from .image import Source
from .imageset import Found

_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "class_name", "target", "category")


def find_hub(name: str, labelled: bool = True) -> Found:
    """`name` without "hf:". Where no labels are needed and there is no column of them, all pictures are of one class.

    Raises DataError: extra missing, set not found, columns not recognised.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError("hf: needs the package datasets: pip install 'feathervit[hub]'") from error
    try:
        loaded = datasets.load_dataset(str(expanded(name)) if expanded(name).is_dir() else name)
    except Exception as error:  # what it raises depends on the hub, the network, and the file format
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"cannot load hf:{name}: {why}") from error
    parts = {SPLIT_NAMES[split]: part for split, part in loaded.items() if split in SPLIT_NAMES}
    if "train" not in parts:
        raise DataError(f"hf:{name} has the splits {', '.join(loaded)}; it needs one named train")
    image = _image_column(name, parts["train"].features, datasets.Image)
    label = _label_column(parts["train"].features, datasets.ClassLabel)
    if label is None and labelled:
        raise DataError(
            f"hf:{name} has no column of class labels; its columns are {', '.join(parts['train'].features)}"
        )
    kind = parts["train"].features.get(label)
    if label is None:
        class_names, place = ("pictures",), {None: 0}
    elif isinstance(kind, datasets.ClassLabel):
        class_names, place = tuple(kind.names), {i: i for i in range(kind.num_classes)}
    else:
        values = sorted(set(parts["train"][label]))
        class_names, place = tuple(map(str, values)), {value: i for i, value in enumerate(values)}
    splits = {}
    for split, part in parts.items():
        labels = list(part[label]) if label else [None] * len(part)
        strange = [value for value in labels if value not in place]
        if strange:
            raise UnknownNameError("class", str(strange[0]), class_names, f"it is a label in {split} and not in train")
        items = _Column(part.cast_column(image, datasets.Image(decode=False)), image)
        index = np.array([place[value] for value in labels], dtype=np.int64)
        sources = [f"{split}[{i}]" for i in range(len(labels))]
        # The fingerprint of `datasets` changes with the data, so that each picture needs no stamp of its own.
        splits[split] = FilePictures(items, index, sources, [""] * len(labels), f"hf:{name} {part._fingerprint}")
    return Found(name.rstrip("/").rsplit("/", 1)[-1], class_names, splits, dict.fromkeys(splits, f"split of hf:{name}"))


class _Column(Sequence):
    """Encoded pictures, read from the table one at a time."""

    def __init__(self, table: Any, column: str):
        self.table, self.column = table, column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> Source:
        cell = self.table[int(i)][self.column] or {}
        return cell.get("bytes") or cell.get("path") or b""


def _image_column(name: str, features: Any, kind: type) -> str:
    for column, feature in features.items():
        if isinstance(feature, kind):
            return column
    raise DataError(f"hf:{name} has no column of pictures; its columns are {', '.join(features)}")


def _label_column(features: Any, kind: type) -> str | None:
    for column, feature in features.items():
        if isinstance(feature, kind):
            return column
    for column in _LABEL_COLUMNS:
        if getattr(features.get(column), "dtype", "").startswith(("int", "uint", "string", "large_string")):
            return column
    return None

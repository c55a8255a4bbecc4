"""Reads Hugging Face datasets with the package `datasets` (extra `hub`): `hf:OWNER/NAME`, or a local folder, `hf:PATH`.

Columns are recognised by their types: an Image, and a ClassLabel or a column with a common name for labels. Images stay
encoded; our cache decodes them like files.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..config import ReadingConfig
from ..errors import ConfigError, DataError
from ..files import cache_folder, expanded
from .cache import FileImages, stamp_of
from .columns import LABELS, choose_column, index_labels, plain, splits_of, whole_number
from .image import Source
from .imageset import Found, text_digest
from .names import few

_DATA = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".tar", ".zip")


def find_hub(name: str, labelled: bool = True, reading: ReadingConfig = ReadingConfig()) -> Found:  # noqa: B008 (frozen)
    """Finds a dataset on the hub or in a local folder. `name` is given without "hf:".

    If labels are not needed and no column holds them, all images belong to one class. Splits without labels are skipped. The
    first note lists the columns and splits in use. Raises DataError if the extra is missing, the dataset is not found, or
    its columns are not recognised. Raises ConfigError if several columns or splits are candidates.
    """
    if not name.strip("/"):
        raise DataError("hf: needs a name or a folder: hf:OWNER/NAME or hf:FOLDER")
    try:
        import datasets
    except ImportError as error:
        raise DataError("hf: needs the package datasets: pip install 'feathervit[hub]'") from error
    loaded, unused = _loaded(name, datasets)
    where = f"hf:{name}"
    names = splits_of(where, [split for split in loaded if not any(fnmatchcase(split, p) for p in reading.ignore)])
    if not names:
        raise DataError(f"{where} has the splits {', '.join(loaded)}; none is named train, val or test")
    parts = {split: loaded[own] for split, own in names.items()}
    first = next(iter(parts.values()))
    image = _image_column(where, first, datasets, reading)
    label = _label_column(where, first, datasets, reading, labelled)
    if label is None and labelled:
        others = [column for column in first.features if column != image]
        raise DataError(
            f"{where} has no column of class labels; its columns are {', '.join(first.features)}"
            + (f"; name one: --label-column {others[0]}" if others else "")
        )
    kind = first.features.get(label)
    values = {
        split: [whole_number(value) for value in part[label]] if label in part.features else [None] * len(part)
        for split, part in parts.items()
    }
    if any(isinstance(value, float) and value == value for part in values.values() for value in part):
        raise ConfigError(
            f"{where}: the column {label} holds fractions, not classes; name another one with --label-column"
        )
    labels = index_labels(where, values, kind.names if isinstance(kind, datasets.ClassLabel) else None, labelled)
    splits, groups = {}, {}
    for split, rows in labels.rows.items():
        part = parts[split].cast_column(image, datasets.Image(decode=False))
        sources = [f"{split}[{i}]" for i in rows]
        # The fingerprint of `datasets` changes with the data, so that the images need no stamps.
        root = f"{where} {part._fingerprint}"
        splits[split] = FileImages(_Column(part, image, rows), labels.index[split], sources, [""] * len(rows), root)
        if reading.groups in first.features:
            column = list(part[reading.groups])
            groups[split] = [str(column[row]) for row in rows]
    used_splits = ", ".join(f"{split} is {names[split]}" for split in splits)
    columns = f"images in the column {image}" + (f", labels in the column {label}" if label else "")
    skipped = [f"split {own} ({len(part)} images)" for own, part in loaded.items() if own not in names.values()]
    skipped += [f"files that are not in a split ({len(unused)}: {few(unused, 5)})"] if unused else []
    texts = [f"read as: {used_splits}; {columns}; {len(labels.class_names)} classes: {few(labels.class_names)}"]
    texts += [f"skipped: {', '.join(skipped)}"] if skipped else []
    return Found(
        name=name.rstrip("/").rsplit("/", 1)[-1],
        class_names=labels.class_names,
        splits=splits,
        how=dict.fromkeys(splits, f"split of {where}"),
        notes=["; ".join([*texts, *labels.notes])],
        unknown=labels.unknown,
        groups=groups or None,
    )


def _loaded(name: str, datasets: ModuleType) -> tuple[Any, list[str]]:
    """Loads a dataset by name, NAME:CONFIG or folder. Also returns the data files in the folder that `datasets` ignores.

    Raises DataError.
    """
    folder, unused = expanded(name), []
    try:
        if not folder.is_dir():
            return datasets.load_dataset(*name.split(":", 1)), unused
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _DATA and path.is_file())
        # `datasets` identifies a file by path and time. Our stamp also detects a replaced file with the same time.
        key = text_digest(f"{path} {stamp_of(path)}" for path in files).hexdigest()
        builder = datasets.load_dataset_builder(str(folder), cache_dir=str(cache_folder() / "hub" / key))
        used = {Path(file).resolve() for part in (builder.config.data_files or {}).values() for file in part}
        builder.download_and_prepare()
        return builder.as_dataset(), [str(path.relative_to(folder)) for path in files if path.resolve() not in used]
    except Exception as error:  # the exception depends on the hub, the network and the file format
        why = " ".join(str(error).split())[:300] or type(error).__name__
        several = f"; name one: hf:{name}:CONFIG" if "onfig name is missing" in why else ""
        raise DataError(f"cannot load hf:{name}: {why}{several}") from error


class _Column(Sequence):
    """Sequence of the encoded images of some rows of a table, read one at a time."""

    def __init__(self, table: Any, column: str, rows: np.ndarray):
        self.table, self.column, self.rows = table, column, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Source:
        cell = self.table[int(self.rows[i])][self.column] or {}
        return cell.get("bytes") or cell.get("path") or b""


def _image_column(where: str, table: Any, datasets: ModuleType, reading: ReadingConfig) -> str:
    features = table.features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    column = choose_column(where, "images", "--image-column", reading.image_column, features, images)
    if column not in images:
        raise DataError(
            f"{where} has no column of images{f' {column!r}' * bool(column)}; its columns are {', '.join(features)}"
        )
    return column


def _label_column(where: str, table: Any, datasets: ModuleType, reading: ReadingConfig, labelled: bool) -> str | None:
    features = table.features
    fits = [
        column
        for column, feature in features.items()
        if isinstance(feature, datasets.ClassLabel)
        or getattr(feature, "dtype", "").startswith(("int", "uint", "float", "string", "large_string", "bool"))
    ]
    requested = reading.label_column
    if requested in features and requested not in fits:
        raise ConfigError(
            f"--label-column {requested}: this column of {where} does not hold one number or text per image"
        )
    candidates = [c for c in fits if isinstance(features[c], datasets.ClassLabel) or plain(c) in LABELS]
    if not labelled and not requested and len(candidates) > 1:
        return None
    same = len(candidates) > 1 and not requested and _say_the_same(table, candidates)
    return choose_column(where, "labels", "--label-column", requested, features, candidates, same)


def _say_the_same(table: Any, columns: list[str]) -> bool:
    """Returns whether the columns divide the rows into the same classes, such as a number and its name."""
    values = [list(table[column]) for column in columns]
    return len({len(set(part)) for part in (*values, list(zip(*values, strict=True)))}) == 1

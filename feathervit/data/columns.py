"""Finds the columns of tables and hub datasets, and converts labels to classes.

If several columns are candidates, the error message names the flag that selects one. Rows without a label are skipped, and a
note reports their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, UnknownNameError
from .names import SPLITS, find_splits, same_name

PATHS = (
    *("path", "image", "img", "file", "filename", "file_name", "filepath", "file_path"),
    *("image_path", "img_path", "image_file", "image_name"),
)
LABELS = ("label", "labels", "fine_label", "class", "class_name", "classname", "target", "category", "label_name", "y")
_NONE = (-1, "-1")  # values that mark a missing label in some datasets
SPLIT_COLUMNS = ("split", "subset", "partition", "set")


def plain(name: str) -> str:
    """Returns the name of a column in lower case, with underscores for spaces and hyphens, as in the lists above."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def choose_column(
    where: str, what: str, flag: str, asked: str, columns: Iterable[str], candidates: Sequence[str], same: bool = False
) -> str | None:
    """Returns the requested column, else the only candidate, or None if there is no candidate.

    `same`: all candidates hold the same labels. Raises UnknownNameError if the requested column is not in `columns`, and
    ConfigError if there are several candidates.
    """
    if asked:
        if asked not in columns:
            raise UnknownNameError("column", asked, columns, f"given with {flag} for {where}")
        return asked
    if len(candidates) > 1 and not same:
        raise ConfigError(
            f"{where} has several columns that may be the {what}: {', '.join(candidates)}; name one: {flag} {candidates[0]}"
        )
    return candidates[0] if candidates else None


def splits_of(where: str, names: Iterable[str]) -> dict[str, str]:
    """Returns split -> name for the `names` that refer to a split, in the order train, val, test.

    Raises ConfigError if two names mean the same split.
    """
    found: dict[str, str] = {}
    for name, split in find_splits(names).items():
        if split in found:
            raise ConfigError(
                f"{where} has two names for the split {split!r}: {found[split]} and {name}; leave one out with --ignore {name}"
            )
        found[split] = name
    return {split: found[split] for split in SPLITS if split in found}


@dataclass
class Labels:
    """Holds the labels of a dataset as classes.

    `rows`: split -> the rows with a label. `index`: split -> their classes, int64. Splits without labels are not included.
    `unknown`: classes missing from train, at the end of `class_names`. `notes`: lines about skipped rows and splits.
    """

    class_names: tuple[str, ...]
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    index: dict[str, np.ndarray] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def index_labels(
    where: str, values: Mapping[str, Sequence[Any]], names: Sequence[str] | None = None, labelled: bool = True
) -> Labels:
    """Converts the labels of each split to classes: the sorted labels of train, or `names` indexed by integer labels.

    `labelled` False: if any label is missing, labels are ignored and all images belong to one class.

    Missing labels are None, an empty text, NaN, and -1 unless it is a class of train. Raises DataError if no image of train
    has a label.
    """

    def is_label(value: Any) -> bool:
        empty = value is None or value != value or (isinstance(value, str) and not value.strip())
        return not empty and (value not in _NONE or minus_one)

    minus_one = names is None and any(value in _NONE for value in values.get("train", ()))
    rows = {split: [i for i, value in enumerate(part) if is_label(value)] for split, part in values.items()}
    if not labelled and any(len(rows[split]) < len(part) for split, part in values.items()):
        return index_labels(where, {split: ["images"] * len(part) for split, part in values.items()})
    used = {split: {part[i] for i in rows[split]} for split, part in values.items()}
    everywhere = set().union(*used.values())
    base = range(len(names)) if names is not None else used.get("train", everywhere)
    texts = {v: same_name(names[v] if names is not None and v in base else str(v)) for v in {*base, *everywhere}}
    known = tuple(dict.fromkeys(texts[v] for v in _sorted(base)))
    found = Labels(known, unknown=tuple(sorted({texts[v] for v in everywhere}.difference(known))))
    found.class_names += found.unknown
    place = {value: found.class_names.index(text) for value, text in texts.items()}
    for split, part in values.items():
        if not rows[split] and split == "train":
            raise DataError(f"{where} has no label in {split}: all {len(part)} are missing")
        if not rows[split]:
            found.notes.append(f"{split} has no labels ({len(part)} images): left out")
            continue
        if lost := len(part) - len(rows[split]):
            found.notes.append(f"{lost} of {len(part)} images of {split} have no label: left out")
        found.rows[split] = np.array(rows[split], dtype=np.int64)
        found.index[split] = np.array([place[part[i]] for i in rows[split]], dtype=np.int64)
    return found


def whole_number(value: Any) -> Any:
    """Converts a float without fraction to an integer. Returns any other value unchanged.

    Table readers convert integers to floats if other labels in the column are missing.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (isinstance(value, str), value))

"""Finds the data of a user: a dataset name, a folder, a table, an archive, a hub dataset or arrays. Decodes nothing."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import ReadingConfig
from ..errors import ConfigError, DataError, UnknownNameError
from ..files import expanded
from .archive import is_archive, unpack
from .arrays import find_arrays
from .cache import FileImages
from .folders import check_exists, find_folder
from .groups import across_splits, groups_by_pattern
from .hub import find_hub
from .imageset import Found
from .named import NAMED, find_named
from .names import TABLES, other_case
from .opening import UNREADABLE
from .table import find_table


def find(source: Any, labelled: bool = True, reading: ReadingConfig = ReadingConfig()) -> Found:  # noqa: B008
    """Finds data like `locate`, and raises an error for data that is not suitable for training.

    Raises UnknownNameError for a class that is missing from train, DataError for class folders without readable images, and
    ConfigError for a group in two splits.
    """
    found = locate(source, labelled, reading)
    for name in found.unknown:
        label = found.class_names.index(name)
        split = next(split for split, images in found.splits.items() if label in images.labels)
        known = [known for known in found.class_names if known not in found.unknown]
        hint = f"{split} has this class, but train does not{other_case(name, known)}"
        raise UnknownNameError("class", name, known, hint)
    if found.layout and found.layout.lost and labelled:
        folder, kinds = next(iter(found.layout.lost.items()))
        raise DataError(
            f"{found.layout.root}: {len(found.layout.lost)} class folders hold only images that cannot be read here, "
            f"such as {folder} ({kinds}). They need {UNREADABLE[kinds.split(', ')[0].split()[1]]}; or leave the folder out "
            f"with --ignore {folder.rstrip('/')}"
        )
    if both := across_splits(found.groups or {}):
        name, splits = next(iter(both.items()))
        raise ConfigError(
            f"{len(both)} groups are in several splits, such as {name!r} in {' and '.join(splits)}; move their images into "
            "one, or leave --groups out"
        )
    return found


def locate(source: Any, labelled: bool = True, reading: ReadingConfig = ReadingConfig()) -> Found:  # noqa: B008
    """Finds any source and lists its images. Decodes nothing. Downloads named datasets if needed.

    Raises DataError, UnknownNameError, and ConfigError if the source is ambiguous.
    """
    found = _located(source, labelled, reading)
    for images in found.splits.values():
        if isinstance(images, FileImages):
            images.max_gib = reading.max_image_gib
    if reading.groups and not found.groups:
        if not any(isinstance(images, FileImages) for images in found.splits.values()):
            raise ConfigError(f"--groups has no effect on {found.name}: its images have no paths")
        groups = {split: groups_by_pattern(reading.groups, images.sources) for split, images in found.splits.items()}
        found = replace(found, groups=groups)
    return found.only(reading.classes) if reading.classes and not found.layout else found


# ---------------------------------------------------------------------------------------------------------------------


def _located(source: Any, labelled: bool, reading: ReadingConfig) -> Found:
    if not isinstance(source, (str, os.PathLike)):
        return find_arrays(source, labelled)
    text = os.fsdecode(source)
    if not text:
        raise DataError(f"no data named: give a folder, or one of {', '.join(NAMED)}")
    if text == "arrays" and not expanded(text).exists():
        raise DataError(
            "the data came as arrays, which are not stored in files; name image files, or a folder with --data"
        )
    if text.startswith("hf:"):
        return find_hub(text[3:], labelled, reading)
    if text in NAMED:
        return find_named(text)
    if Path(text).suffix.lower() in TABLES and expanded(text).is_file():
        return find_table(expanded(text), reading, labelled)
    if is_archive(expanded(text)) and expanded(text).is_file():
        folder, note = unpack(expanded(text))
        found = find_folder(folder, reading, labelled)
        return replace(found, name=expanded(text).name.partition(".")[0], notes=[f"{found.notes[0]}; {note}"])
    if near := difflib.get_close_matches(text, NAMED, n=2, cutoff=0.6) if not expanded(text).exists() else []:
        raise DataError(f"no dataset or folder {text!r}; did you mean {' or '.join(near)}?")
    place = check_exists(Path(text), f"; the named datasets are {', '.join(NAMED)}, and hf:NAME")
    return find_folder(place, reading, labelled)

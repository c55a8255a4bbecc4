"""Finds the images of a folder without opening files. layout.py interprets the folder structure."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np

from ..config import ReadingConfig
from ..errors import DataError
from ..files import expanded
from .cache import FileImages, stamp
from .imageset import Found
from .layout import KNOWN, Part, read_layout
from .names import TABLES


def find_folder(path: str | Path, reading: ReadingConfig = ReadingConfig(), labelled: bool = True) -> Found:  # noqa: B008
    """Returns the images of a folder by split, without opening them.

    `layout` and the first note describe the detected layout. `labelled` False: all images at any depth belong to train,
    except those of val and test. Raises DataError, ConfigError, UnknownNameError.
    """
    root = check_exists(Path(path))
    layout = read_layout(root, reading, labelled)
    train = layout.parts.get("train")
    if not layout.parts and labelled and not layout.lost:
        summary = f"{len(layout.loose)} images are not in class folders" if layout.loose else "no images were found"
        if layout.loose and (tables := [name for name in layout.others if Path(name).suffix.lower() in TABLES]):
            raise DataError(
                f"{root}: {summary}; if {tables[0]} holds their labels, give it with --data {root / tables[0]}"
            )
        raise DataError(
            f"{root}: {summary}; each class needs a folder with its images. {KNOWN}. Without labels, use pretrain, and data "
            "check --unlabelled"
        )
    if not train and not labelled:
        exception = f", except in {', '.join(p.folder for p in layout.parts.values())}" if layout.parts else ""
        raise DataError(f"no images below {root}{exception}; give a folder with images, at any depth")
    class_names = tuple(sorted(train.classes)) if train and labelled else layout.class_names
    unknown = tuple(name for name in layout.class_names if name not in class_names)
    class_names += unknown
    splits = {split: _images(root, part, class_names) for split, part in layout.parts.items()}
    how = {split: part.folder or "class folders" for split, part in layout.parts.items()}
    if not labelled:
        how = dict.fromkeys(splits, "all images below")
    return Found(root.resolve().name, class_names, splits, how, [layout.line()], layout, unknown)


def check_exists(root: Path, hint: str = "") -> Path:
    """Returns `root`. Raises DataError if it is not a folder, with similar names beside it, or else with the hint.

    Runs store absolute paths, so only these may belong to a run.
    """
    root = expanded(root)
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(
            f"{root} is not a folder, a table ({', '.join(TABLES)}) or an archive (.zip, .tar, .tar.gz, ...)"
        )
    parent = root.parent
    beside = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(root.name, beside, n=3, cutoff=0.5)
    if near:
        hint = f"; did you mean {' or '.join(str(parent / n) for n in near)}?"
    elif root.is_absolute():
        hint = "; if a run was trained on it and it was moved, give the run its new place with --data"
    raise DataError(f"no folder {root}{hint}")


def _images(root: Path, part: Part, class_names: tuple[str, ...]) -> FileImages:
    place = {name: i for i, name in enumerate(class_names)}
    files = [(place[name], relative, stat) for name, group in sorted(part.classes.items()) for relative, stat in group]
    return FileImages(
        items=[root / relative for _, relative, _ in files],
        labels=np.array([label for label, _, _ in files], dtype=np.int64),
        sources=[relative for _, relative, _ in files],
        stamps=[stamp(stat) for _, _, stat in files],
        root=str(root.resolve()),
    )

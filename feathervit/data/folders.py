"""Image folders: ROOT/<class>/... or ROOT/train|val|test/<class>/..., found without opening a file.

Classes are folders, sorted by name; pictures may lie deeper. Hidden files, files that are no pictures, and symbolic
links that lead back to where one came from are passed over; the first two kinds that might surprise are counted.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import DataError, UnknownNameError
from ..files import expanded
from .cache import FilePictures
from .image import SUFFIXES
from .imageset import Found

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass
class Tree:
    """The files of one split: class -> [(path relative to the root with /, stat)], and the others' suffixes, counted.

    `loose` are pictures that lie beside the class folders, `empty` class folders without a picture.
    """

    classes: dict[str, list[tuple[str, os.stat_result]]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def find_folder(path: str | Path) -> Found:
    """The pictures of a folder, per split ("train" where there are none), nothing opened. Raises DataError."""
    root = check_exists(Path(path))
    trees = read_trees(root)
    if not any(tree.classes for tree in trees.values()):
        loose = sum(len(tree.loose) for tree in trees.values())
        lie = f"{loose} pictures lie beside each other" if loose else "no pictures were found"
        raise DataError(f"{root}: {lie}; pictures are expected in one folder a class: ROOT/cat/1.jpg, ROOT/dog/2.jpg")
    first = next(split for split in ("train", "val", "test") if split in trees and trees[split].classes)
    class_names = tuple(sorted(trees[first].classes))
    for split, tree in trees.items():
        for name in tree.classes:
            if first == "train" and name not in class_names:
                raise UnknownNameError("class", name, class_names, f"it is in {root / split}, and train has none such")
    if first != "train":
        class_names = tuple(sorted({name for tree in trees.values() for name in tree.classes}))
    splits = {split: _pictures(root, tree, class_names) for split, tree in trees.items() if tree.classes}
    single = set(trees) == {"train"} and not _split_folders(root)
    how = {split: "class folders" if single else f"{split}/" for split in splits}
    return Found(root.resolve().name, class_names, splits, how, _notes(trees))


def find_unlabelled(path: str | Path) -> Found:
    """The pictures below a folder, however they lie: all but those in val/ and test/ are for training. Raises DataError.

    The folders at the top, or in train/, count as classes, so that a part of the pictures may be drawn from each alike;
    pictures that lie beside them are one more, "pictures".
    """
    root = check_exists(Path(path))
    trees = read_unlabelled(root)
    class_names = tuple(sorted({name for tree in trees.values() for name in tree.classes}))
    splits = {split: _pictures(root, tree, class_names) for split, tree in trees.items() if tree.classes}
    if "train" not in splits:
        held = f", but for those in {', '.join(f'{f.name}/' for f in _by_split(root).values())}" if splits else ""
        raise DataError(f"no pictures below {root}{held}; give a folder that holds some, in any folders")
    return Found(root.resolve().name, class_names, splits, dict.fromkeys(splits, "all pictures below"), _notes(trees))


def read_unlabelled(root: Path) -> dict[str, Tree]:
    """split -> its files, as `find_unlabelled` takes them."""
    folders = _by_split(root)
    train = folders.pop("train", None)
    trees = {"train": _with_loose(root, _read_tree(root, train or root, tuple(f.name for f in folders.values())))}
    if train:  # what lies beside it, in a folder of no split's name, is more of the same
        beside = _with_loose(root, _read_tree(root, root, (train.name, *(f.name for f in folders.values()))))
        for name, files in beside.classes.items():
            trees["train"].classes[name] = sorted([*trees["train"].classes.get(name, []), *files], key=_name)
        trees["train"].others += beside.others
    return trees | {split: _with_loose(root, _read_tree(root, top)) for split, top in folders.items()}


def _name(file: tuple[str, os.stat_result]) -> str:
    return file[0]


def _with_loose(root: Path, tree: Tree) -> Tree:
    """The tree with its loose pictures as a class of their own."""
    loose = [(name, (root / name).stat()) for name in tree.loose if (root / name).exists()]
    tree.loose = []
    if loose:
        tree.classes["pictures"] = sorted([*tree.classes.get("pictures", []), *loose], key=_name)
    return tree


def check_exists(root: Path, hint: str = "") -> Path:
    """`root`, or DataError with the nearest names beside it, or the hint where there are none."""
    root = expanded(root)
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} is a file; a folder of pictures is expected (unpack an archive first)")
    parent = root.parent
    beside = [entry.name for entry in os.scandir(parent) if _is_folder(entry)] if parent.is_dir() else []
    near = difflib.get_close_matches(root.name, beside, n=3, cutoff=0.5)
    mend = f"; did you mean {' or '.join(str(parent / n) for n in near)}?" if near else hint
    raise DataError(f"no folder {root}{mend}")


def read_trees(root: Path) -> dict[str, Tree]:
    """split -> its files. A root without split folders is read as one split, "train"."""
    folders = _by_split(root)
    if not folders:
        return {"train": _read_tree(root, root)}
    trees = {split: _read_tree(root, folders[split]) for split in ("train", "val", "test") if split in folders}
    if "train" in trees and not trees["train"].classes:
        raise DataError(f"{root / 'train'} holds no class folders with pictures")
    return trees


# ---------------------------------------------------------------------------------------------------------------------


def _by_split(root: Path) -> dict[str, Path]:
    """split -> its folder, for the splits that have one."""
    found: dict[str, Path] = {}
    names = _split_folders(root)
    for name in names:
        split = SPLIT_FOLDERS[name.lower()]
        if split in found:
            raise DataError(f"{root} has two folders for the split {split!r} ({', '.join(names)}); keep one")
        found[split] = root / name
    return found


def _split_folders(root: Path) -> list[str]:
    """train/, val/, test/ where they hold folders: a folder of pictures called "train" is a class (a vehicle, say)."""
    names = sorted(e.name for e in _entries(root) if e.name.lower() in SPLIT_FOLDERS and _is_folder(e))
    inner = {name: list(_entries(root / name)) for name in names}
    if all(e.name.lower() in SPLIT_FOLDERS for e in _entries(root) if _is_folder(e)):
        return names
    return [n for n in names if any(_is_folder(e) for e in inner[n]) and not any(_is_picture(e.name) for e in inner[n])]


def _read_tree(root: Path, top: Path, without: tuple[str, ...] = ()) -> Tree:
    """The files below `top`, but for those in its folders named in `without`."""
    tree = Tree()
    above = {_identity(folder) for folder in [top.resolve(), *top.resolve().parents]}
    for entry in _entries(top):
        if entry.name in without and _is_folder(entry):
            continue
        if not _is_folder(entry):
            (tree.loose if _is_picture(entry.name) else tree.others).append(Path(entry).relative_to(root).as_posix())
            continue
        found = []
        for file in _walk(Path(entry), above):
            relative = file.relative_to(root).as_posix()
            try:
                stat = file.stat()
            except OSError:  # a link to nothing, or to itself
                stat = None
            if stat and _is_picture(file.name):
                found.append((relative, stat))
            else:
                tree.others.append(relative)
        if found:
            tree.classes[entry.name] = sorted(found, key=lambda item: item[0])
        else:
            tree.empty.append(entry.name)
    return tree


def _walk(folder: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """Files under `folder`, links followed, but never into a folder that it lies in."""
    here = _identity(folder)
    if here in above:
        return
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _walk(Path(entry), above | {here})
        else:
            yield Path(entry)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if e.name[0] != "." and e.name != "__MACOSX"), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"cannot look into {folder}: {(error.strerror or str(error)).lower()}") from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _pictures(root: Path, tree: Tree, class_names: tuple[str, ...]) -> FilePictures:
    place = {name: i for i, name in enumerate(class_names)}
    files = [(place[name], relative, stat) for name, group in sorted(tree.classes.items()) for relative, stat in group]
    return FilePictures(
        items=[root / relative for _, relative, _ in files],
        labels=np.array([label for label, _, _ in files], dtype=np.int64),
        sources=[relative for _, relative, _ in files],
        stamps=[f"{stat.st_size} {stat.st_mtime_ns}" for _, _, stat in files],
        root=str(root.resolve()),
    )


def _notes(trees: dict[str, Tree]) -> list[str]:
    notes = []
    others = Counter(Path(name).suffix.lower() or "no suffix" for tree in trees.values() for name in tree.others)
    if others:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(5))
        notes.append(f"passed over {others.total()} files that are no pictures known here ({kinds})")
    if loose := sum(len(tree.loose) for tree in trees.values()):
        notes.append(f"passed over {loose} pictures that lie outside the class folders")
    if empty := sorted({name for tree in trees.values() for name in tree.empty}):
        notes.append(f"class folders without pictures: {', '.join(empty[:10])}{', ...' if len(empty) > 10 else ''}")
    return notes

"""Detects the layout of a folder of images: splits, classes, and skipped files with reasons.

Two layouts are supported, ROOT/CLASS/1.jpg and ROOT/SPLIT/CLASS/1.jpg, also inside wrapping folders of an archive. A folder
with several possible layouts, or none, is an error. A wrong guess could train on test images, or treat splits as classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..config import ReadingConfig
from ..errors import ConfigError, DataError
from ..text import shown
from .names import SPLITS, few, find_splits, is_general, same_name, wanted_classes
from .opening import UNREADABLE
from .walk import Folder, Skipped, walk

Image = tuple[str, os.stat_result]  # path from the root, with /

KNOWN = (
    "The known layouts are ROOT/CLASS/1.jpg, ROOT/train|val|test/CLASS/1.jpg, and a table with the columns path and label. "
    "--classes A,B names the class folders, --ignore PATTERN leaves folders out"
)


@dataclass
class Part:
    """Holds one split: its folder, with / at the end ("" for the root), and class -> images, sorted by path."""

    folder: str
    classes: dict[str, list[Image]] = field(default_factory=dict)


@dataclass
class Layout:
    """Holds the layout of a folder. `parts`: split -> its part, in the order train, val, test; only splits with images.

    `skipped`: skipped files and folders. `empty`: class folders without images. `lost`: class folders without readable
    images. `loose`: images outside the class folders. `others`: files that are not images. `hints`: remarks for the user.
    Paths are relative to the root, with /.
    """

    root: Path
    labelled: bool = True
    parts: dict[str, Part] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=Skipped)
    empty: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of all splits, sorted."""
        return tuple(sorted({name for part in self.parts.values() for name in part.classes}))

    def line(self) -> str:
        """Returns one line: the splits, the classes, and the skipped files with reasons."""
        names = self.class_names
        classes = f"{len(names)} classes: {few(names)}" if self.labelled else "images in any folders"
        default = "all of it" if len(self.parts) == 1 else "the rest"
        splits = ", ".join(f"{split} is {part.folder or default}" for split, part in self.parts.items())
        skipped = [text] if (text := self.skipped.text()) else []
        kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in self.others)
        for what, of in (("images that cannot be read here", True), ("files that are not images", False)):
            matching = {kind: count for kind, count in kinds.most_common() if (kind in UNREADABLE) == of}
            if matching:
                named = few([f"{count} {kind}" for kind, count in matching.items()], 5)
                skipped.append(f"{what} ({sum(matching.values())}: {named})")
        if self.loose:
            skipped.append(f"images outside of the class folders ({len(self.loose)}: {few(self.loose, 3)})")
        if self.empty:
            skipped.append(f"folders without images ({len(self.empty)}: {few(self.empty, 5)})")
        texts = [
            f"read as: {splits}; {classes}",
            *([f"skipped: {', '.join(skipped)}"] if skipped else []),
            *self.hints,
        ]
        return "; ".join(texts)


def read_layout(root: Path, reading: ReadingConfig = ReadingConfig(), labelled: bool = True) -> Layout:  # noqa: B008
    """Reads the layout of `root`. `labelled` False: includes images in any folders; each folder at the top is a class.

    Raises ConfigError if `root` fits several layouts or none. Raises DataError if a split exists twice or train has no
    classes. Raises UnknownNameError for a class in `reading` that does not exist.
    """
    top, skipped = walk(root, reading.ignore, reading.classes)
    layout = Layout(root, labelled, skipped=skipped, others=top.all_others())
    if not labelled and reading.classes:
        raise ConfigError("--classes has no effect without labels; use --ignore PATTERN to leave folders out")
    if not labelled:
        _read_unlabelled(layout, _unwrapped(top))
    elif reading.classes:
        _read_named(layout, _unwrapped(top), _wanted(top, reading.classes))
    else:
        _read_guessed(layout, _unwrapped(top))
    layout.parts = {split: layout.parts[split] for split in SPLITS if split in layout.parts}
    return layout


# ---------------------------------------------------------------------------------------------------------------------
# Layouts that are detected


def _read_guessed(layout: Layout, top: Folder) -> None:
    splits = find_splits(folder.name for folder in top.filled)
    if splits and len(splits) == len(top.filled):
        _take_splits(layout, top, top.filled, splits)
        _note_rest(layout, top)
    else:
        _take_classes(layout, "train", top, top.filled)


def _take_splits(
    layout: Layout, top: Folder, folders: list[Folder], splits: dict[str, str], wanted: Collection[str] = ()
) -> None:
    for folder in top.folders:
        if not folder.count and find_splits([folder.name]).get(folder.name) == "train":
            raise DataError(f"{layout.root / folder.path} holds no class folders with images. {KNOWN}")
    for split in SPLITS:
        candidates = [folder for folder in folders if splits[folder.name] == split]
        if len(candidates) > 1:
            names = ", ".join(folder.name for folder in candidates)
            raise DataError(
                f"{layout.root} has two folders for the split {split!r} ({names}); keep one, or --ignore {candidates[1].name}"
            )
        for folder in (_unwrapped(folder, through_splits=True) for folder in candidates):
            if split != "train" and _wraps_images(folder):
                folder = folder.filled[0]
            classes = [inner for inner in folder.filled if not wanted or same_name(inner.name) in wanted]
            layout.skipped.add_all("folders that --classes does not name", folder.filled, classes)
            if classes:
                _take_classes(layout, split, folder, classes, named=bool(wanted))
            elif split == "train":
                raise DataError(f"{layout.root / folder.path} holds no class folders with images. {KNOWN}")
            else:
                layout.skipped.add(f"{folder.count} images of {split} outside of class folders", folder.path)


def _take_classes(layout: Layout, split: str, top: Folder, folders: list[Folder], named: bool = False) -> None:
    """Adds `folders` inside `top` as the classes of a split. `named`: the user named them as classes."""
    if not named:
        _refuse_splits_beside(layout.root, folders)
        _refuse_splits_inside(layout.root, folders)
        _check_subfolders(layout, top, folders)
    if folders:
        part = layout.parts.setdefault(split, Part(top.path))
    for name, count in Counter(same_name(folder.name) for folder in folders).items():
        if count > 1:
            layout.hints.append(
                f"{count} folders are the class {shown(name)}: their names differ only in how they are written"
            )
    for folder in folders:
        images = part.classes.setdefault(same_name(folder.name), [])
        images += folder.all_images()
        images.sort(key=lambda image: image[0])
    _note_rest(layout, top)


def _note_rest(layout: Layout, top: Folder) -> None:
    layout.loose += [path for path, _ in top.images]
    for folder in top.folders:
        if folder.unreadable and not folder.count:
            layout.lost[folder.path] = few([f"{count} {kind}" for kind, count in folder.unreadable.most_common()], 5)
        elif not folder.count:
            layout.empty.append(folder.path)


def _refuse_splits_beside(root: Path, folders: list[Folder]) -> None:
    """Raises ConfigError if some class folders have names of splits. "train" alone may be a class, the vehicle."""
    splits = find_splits(folder.name for folder in folders)
    named = [folder for folder in folders if folder.name in splits]
    if named and (_must_be_splits(splits) or any(folder.filled for folder in named)):
        rest = [folder for folder in folders if folder.name not in splits]
        like = "is named like a split" if len(named) == 1 else "are named like splits"
        unlike = f", but {_listed(rest)} {'is' if len(rest) == 1 else 'are'} not" if rest else ""
        raise _ambiguous(root, f"{_listed(named)} {like}{unlike}")


def _refuse_splits_inside(root: Path, folders: list[Folder]) -> None:
    """Raises ConfigError if a class folder contains folders with names of splits, at any depth."""
    for folder in folders:
        splits = find_splits(inner.name for inner in folder.filled)
        if _must_be_splits(splits):
            raise _ambiguous(
                root, f"the class folder {folder.path} holds {', '.join(splits)}, and splits are not expected there"
            )
        _refuse_splits_inside(root, folder.filled)


def _check_subfolders(layout: Layout, top: Folder, folders: list[Folder]) -> None:
    """Raises ConfigError if most class folders contain folders of the same names, which may be classes or splits.

    A single common name only adds a hint.
    """
    counts = Counter(inner.name for folder in folders for inner in folder.filled)
    same = [name for name, count in counts.items() if count >= max(2, len(folders) / 2)]
    shares = [sum(inner.name in same for inner in folder.filled) / max(1, len(folder.filled)) for folder in folders]
    if len(folders) < 2 or min(shares) < 0.5:
        return
    mixed = any(folder.images for folder in folders)
    if len(same) > 1 or (len(counts) > 1 and not mixed):
        names = few([folder.path for folder in folders], 3)
        raise _ambiguous(
            layout.root, f"{names} all hold the same folders ({few(same, 5)}), which may be classes or splits"
        )
    if mixed:
        layout.hints.append(f"images in the folders {same[0]!r} of the classes are used too")


# ---------------------------------------------------------------------------------------------------------------------
# Layouts with classes named by the user


def _read_named(layout: Layout, top: Folder, wanted: set[str]) -> None:
    direct = [folder for folder in top.filled if same_name(folder.name) in wanted]
    others = [folder for folder in top.filled if folder not in direct]
    holders = [f for f in others if any(same_name(inner.name) in wanted for inner in _unwrapped(f).filled)]
    if direct and holders:
        raise _ambiguous(
            layout.root, f"the classes of --classes are in two places: {_listed(direct)}, and inside {_listed(holders)}"
        )
    if direct:
        _take_named(layout, top, direct)
        layout.skipped.add_all("folders that --classes does not name", others)
        return
    splits = find_splits(folder.name for folder in top.filled)
    if all(folder.name in splits for folder in holders):
        _take_splits(layout, top, holders, splits, wanted)
        layout.skipped.add_all("folders without a class that --classes names", others, holders)
    elif len(holders) == 1:
        _read_named(layout, _unwrapped(holders[0]), wanted)
    else:
        raise _ambiguous(layout.root, f"the classes of --classes are inside {_listed(holders)}, which are not splits")


def _take_named(layout: Layout, top: Folder, folders: list[Folder]) -> None:
    """Adds the class folders named by the user. Folders that contain splits are read as ROOT/CLASS/SPLIT/1.jpg."""
    splits = find_splits({inner.name: None for folder in folders for inner in folder.filled})
    if not _must_be_splits(splits):
        _take_classes(layout, "train", top, folders, named=True)
        return
    for folder in folders:
        if stray := [inner.path for inner in folder.filled if inner.name not in splits] or [
            p for p, _ in folder.images
        ]:
            raise _ambiguous(
                layout.root,
                f"the class folders hold splits ({few(list(splits), 3)}), but also {few(stray, 3)} outside of them",
            )
        for inner in folder.filled:
            part = layout.parts.setdefault(splits[inner.name], Part(f"{top.path}*/{inner.name}/"))
            part.classes.setdefault(same_name(folder.name), []).extend(inner.all_images())


def _wanted(top: Folder, classes: Sequence[str]) -> set[str]:
    """Returns the names of the requested class folders. Raises UnknownNameError."""
    return wanted_classes(
        classes, {same_name(folder.name) for folder in top.all_folders() if folder.count or folder.unreadable}
    )


# ---------------------------------------------------------------------------------------------------------------------
# Images without labels


def _read_unlabelled(layout: Layout, top: Folder) -> None:
    splits = find_splits(folder.name for folder in top.filled)
    for split in SPLITS:
        if len(own := [name for name, of in splits.items() if of == split]) > 1:
            raise DataError(f"{layout.root} has two folders for the split {split!r} ({', '.join(own)}); keep one")

    def take(folder: Folder, split: str | None, name: str | None) -> None:
        """Adds the images of a folder.

        `split` None: no folder above is a split. `name`: the top folder that holds this one, or the folder inside a split at
        the top.
        """
        if folder.images:
            part = layout.parts.setdefault(split or "train", Part(""))
            part.classes.setdefault(name or "images", []).extend(folder.images)
        inside = {} if split else find_splits(inner.name for inner in folder.filled)
        for inner in folder.filled:
            own = inside.get(inner.name)
            take(inner, split or own, name or (None if own else same_name(inner.name)))

    take(top, None, None)
    for split, part in layout.parts.items():
        folder = next((f"{top.path}{name}/" for name, of in splits.items() if of == split), "folders of that name")
        inside = all(path.startswith(folder) for images in part.classes.values() for path, _ in images)
        part.folder = folder if inside or split != "train" else ""
        for images in part.classes.values():
            images.sort(key=lambda image: image[0])


# ---------------------------------------------------------------------------------------------------------------------


def _unwrapped(folder: Folder, through_splits: bool = False) -> Folder:
    """Returns the first inner folder that contains several folders, such as pets/pets in pets/pets/cat.

    The folders in between contain one folder and no images. Returns `folder` if there is no such inner folder.
    """
    inner = folder
    while len(inner.filled) == 1 and not inner.images:
        if find_splits([inner.filled[0].name]) and not through_splits:
            return inner
        inner = inner.filled[0]
        if len(inner.filled) > 1 and not inner.images:
            return inner
    return folder


def _wraps_images(folder: Folder) -> bool:
    """Returns whether a split contains only one folder, which is not a class: test/test/1.jpg, test/images/1.jpg."""
    if folder.images or len(folder.filled) != 1 or folder.filled[0].filled:
        return False
    name = folder.filled[0].name
    return name == folder.name or (is_general(name) and any(map(str.isalpha, name)))


def _must_be_splits(splits: dict[str, str]) -> bool:
    """Returns whether names of splits cannot be classes. "train" alone may be a vehicle."""
    return not set(splits.values()) <= {"train"}


def _ambiguous(root: Path, why: str) -> ConfigError:
    return ConfigError(f"{root}: {why}. {KNOWN}")


def _listed(folders: Sequence[Folder]) -> str:
    return few([f"{folder.name}/ ({folder.count} images)" for folder in folders], 4)

"""Lists the contents of a folder once: folders, images, other files, and skipped files.

The following are skipped at any depth and counted by kind: files created by operating systems, network storage and tools; runs,
exports and studies of feathervit; virtual environments; the cache; patterns that the user ignores.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from ..errors import DataError
from ..files import cache_folder
from .names import few, same_name
from .opening import SUFFIXES, UNREADABLE

# Folders created by systems, without data, in lower case: recycle bins, thumbnails, snapshots, indexes.
_LEFT_BEHIND = (
    *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "@sharebin", "@syno*", "@transcode", "@appdata"),
    *("#recycle", "#snapshot", "~snapshot", "$recycle.bin", "$winreagent", "$windows.~*", "recycler", "recycled"),
    *("recycle bin", "recycle.bin", "system volume information", "found.[0-9][0-9][0-9]", "lost+found", "__macosx"),
    *("network trash folder", "temporary items", "thevolumesettingsfolder", "__pycache__", "node_modules", "*.lrdata"),
)
_LEFT_FILES = ("synophoto_thumb_*", "synovideo_*", "~$*")
_MARKERS = (  # names that identify a folder, and its kind
    (("config.json", "splits.json"), "a run"),
    (("config.json", "metrics.csv"), "a run"),
    (("config.json", "last.safetensors"), "a run"),
    (("config.json", "best.safetensors"), "a run"),
    (("export.json",), "an export"),
    (("plan.json", "study.json"), "a study"),
    (("pyvenv.cfg",), "a virtual environment"),
    (("conda-meta",), "a virtual environment"),
)
_IN_A_RUN = ("report", "reconstructions", "tensorboard", "wandb")  # folders written by a run


@dataclass
class Folder:
    """Holds the contents of a folder, without skipped files. `images` are (path, stat). Paths are relative to the root."""

    name: str
    path: str
    folders: list[Folder] = field(default_factory=list)
    images: list[tuple[str, os.stat_result]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @cached_property
    def count(self) -> int:
        """The number of images at any depth."""
        return len(self.images) + sum(folder.count for folder in self.folders)

    @cached_property
    def unreadable(self) -> Counter[str]:
        """Suffix -> number of images at any depth in formats that cannot be read here."""
        suffixes = (os.path.splitext(name)[1].lower() for name in self.all_others())
        return Counter(suffix for suffix in suffixes if suffix in UNREADABLE)

    @cached_property
    def filled(self) -> list[Folder]:
        """The subfolders that contain images at any depth."""
        return [folder for folder in self.folders if folder.count]

    def all_images(self) -> list[tuple[str, os.stat_result]]:
        """Returns the images at any depth, sorted by path."""
        return sorted((image for folder in self.all_folders() for image in folder.images), key=lambda image: image[0])

    def all_others(self) -> list[str]:
        """Returns the files at any depth that are not images."""
        return [name for folder in self.all_folders() for name in folder.others]

    def all_folders(self) -> Iterator[Folder]:
        """Yields this folder and all folders below it."""
        yield self
        for folder in self.folders:
            yield from folder.all_folders()


@dataclass
class Skipped:
    """Holds the skipped files and folders.

    `paths`: reason -> paths relative to the root, with / (folders end with /). `unused`: patterns without a match.
    """

    paths: dict[str, list[str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def add(self, reason: str, path: str) -> None:
        self.paths.setdefault(reason, []).append(path)

    def add_all(self, reason: str, folders: Sequence[Folder], but: Sequence[Folder] = ()) -> None:
        """Adds skipped folders, except those in `but`."""
        for folder in folders:
            if not any(folder is other for other in but):
                self.add(reason, folder.path)

    def text(self) -> str:
        """Returns each reason with the number and the names of its paths, or "" if nothing was skipped."""
        texts = [f"{reason} ({len(paths)}: {_names(paths)})" for reason, paths in self.paths.items()]
        return ", ".join(texts + [f"nothing that matches {pattern!r}" for pattern in self.unused])


def walk(root: Path, ignore: Sequence[str] = (), keep: Sequence[str] = ()) -> tuple[Folder, Skipped]:
    """Lists the contents of `root`. Returns the folder and the skipped files.

    `ignore`: patterns of names, or of paths relative to the root if they contain a "/". Folders named in `keep` are not
    skipped because of their names. Links are followed, except links to a parent folder. Raises DataError for a folder that
    cannot be read.
    """
    walker = _Walker(root, ignore, {part.lower() for name in keep for part in (name, *name.split(","))})
    above = {_identity(folder) for folder in root.resolve().parents}
    found = walker.read(root, "", above)
    walker.skipped.unused = [pattern for pattern in walker.ignore if pattern not in walker.used]
    return found, walker.skipped


class _Walker:
    def __init__(self, root: Path, ignore: Sequence[str], keep: set[str]):
        self.root, self.keep, self.skipped = root, keep, Skipped()
        self.ignore, self.used = [same_name(p.removeprefix("./").rstrip("/")) for p in ignore], set()
        self.cache = cache_folder().resolve()

    def read(self, path: Path, inside: str, above: set[tuple[int, int]]) -> Folder:
        """Reads a folder. `inside`: its path relative to the root, with / at the end, or "" for the root."""
        found = Folder(path.name, inside)
        entries = _entries(path)
        names = {entry.name for entry in entries}
        is_run = _made_by_program(names) == "a run"
        below = above | {_identity(path)}
        for entry in entries:
            place = inside + entry.name
            is_folder = _is_folder(entry)
            if entry.name.startswith(".") and not is_folder and not is_image(entry.name):
                continue  # files such as .DS_Store are not data
            if reason := self._why_skipped(entry, place, is_folder, is_run, below):
                self.skipped.add(reason, place + "/" * is_folder)
            elif is_folder:
                found.folders.append(self.read(Path(entry), place + "/", below))
            elif stat := _stat(entry):
                if is_image(entry.name):
                    found.images.append((place, stat))
                else:
                    found.others.append(place)
            else:
                self.skipped.add("broken links", place)
        return found

    def _why_skipped(
        self, entry: os.DirEntry, place: str, is_folder: bool, is_run: bool, above: set[tuple[int, int]]
    ) -> str | None:
        name = entry.name.lower()
        if fits := [p for p in self.ignore if fnmatchcase(same_name(place if "/" in p else entry.name), p)]:
            self.used.update(fits)
            return "left out by --ignore"
        if name.startswith("."):
            return "hidden folders" if is_folder else "hidden images"
        if not is_folder:
            return "files that operating systems create" if _matches(name, _LEFT_FILES) else None
        if _matches(name, _LEFT_BEHIND) and name not in self.keep:
            return "folders that operating systems create"
        if is_run and name in _IN_A_RUN:
            return "folders of a run"
        if _identity(Path(entry)) in above:
            return "links back to a folder above"
        if Path(entry).resolve() == self.cache:
            return "folders that hold the cache"
        kind = _made_by_program({inner.name for inner in _entries(Path(entry))})
        return f"folders that hold {kind}" if kind else None


def is_image(name: str) -> bool:
    """Returns whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


# ---------------------------------------------------------------------------------------------------------------------


def _names(paths: list[str]) -> str:
    counts = Counter(path.rstrip("/").rpartition("/")[2] for path in paths).most_common()
    return few([name for name, _ in counts], 5)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _made_by_program(names: set[str]) -> str | None:
    """Returns the kind of a folder that a program wrote ("a run", "an export", ...), or None for other folders."""
    return next((kind for markers, kind in _MARKERS if names.issuperset(markers)), None)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {(error.strerror or str(error)).lower()}") from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stat(entry: os.DirEntry) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # a link to nothing, or to itself
        return None


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino

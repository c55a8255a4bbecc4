"""Files written whole or not at all."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from .errors import RunFolderError


def write_bytes(path: Path, data: bytes) -> None:
    """Writes under a temporary name, syncs, renames: a reader sees the old file or the new one, never half of either.

    Raises RunFolderError, naming the folder and what it needs, where the file cannot be written.
    """
    draft = _draft(path)
    try:
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {path.name} into {path.parent}: {error.strerror or error}; the folder must exist, be writable "
            f"and have {max(1, len(data) // 1024)} KiB of room. What was there before is unharmed"
        ) from error


def clear_drafts(folder: Path) -> None:
    """Removes what killed processes were writing. For a folder in which nobody else writes. Raises RunFolderError."""
    try:
        for path in folder.glob(f".*.{'[0-9a-f]' * 32}.tmp"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot use {folder}: {error.strerror or error}; it must be writable") from error


def _draft(path: Path) -> Path:
    """A name of its own, also for writers on other machines."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def expanded(path: str | Path) -> Path:
    """The path with ~ replaced by the home folder; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def same_data(source: Any, trained_on: str) -> bool:
    """Whether two names mean one data set, however the path of a folder or file is written. Arrays have none."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    if str(source) == trained_on:
        return True
    a, b = expanded(source), expanded(trained_on)
    return a.exists() and b.exists() and a.samefile(b)


def make_folder(folder: Path) -> None:
    """The folder and those above it, where they are missing. Raises RunFolderError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make {folder}: {error.strerror or error}; its folder must be writable") from error


def cache_folder() -> Path:
    """$FEATHERVIT_CACHE, or `feathervit` in the platform's folder for a user's caches. Not made here."""
    if chosen := os.environ.get("FEATHERVIT_CACHE"):
        return expanded(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "feathervit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "feathervit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "feathervit"

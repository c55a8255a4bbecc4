"""Writes files atomically, and names the folders of the package."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from .errors import RunFolderError


def write_bytes(path: Path, data: bytes) -> None:
    """Writes under a temporary name, syncs, and renames: a reader sees the old file or the new one, never a part.

    Raises RunFolderError, with the folder and what it needs, if the file cannot be written.
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
            f"and have {max(1, len(data) // 1024)} KiB of free space. An earlier file is unchanged"
        ) from error


def clear_drafts(folder: Path) -> None:
    """Removes temporary files of killed processes. No other process may write in the folder. Raises RunFolderError."""
    try:
        for path in folder.glob(f".*.{'[0-9a-f]' * 32}.tmp"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot use {folder}: {error.strerror or error}; it must be writable") from error


def _draft(path: Path) -> Path:
    """A unique temporary name, also among writers on other machines."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def expanded(path: str | Path) -> Path:
    """Replaces ~ by the home folder. The path stays unchanged if there is no such user."""
    return Path(os.path.expanduser(path))


def same_data(source: Any, trained_on: str) -> bool:
    """Whether two names mean the same dataset, also if they are different paths of one folder or file. Arrays have no name."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    if str(source) == trained_on:
        return True
    a, b = expanded(source), expanded(trained_on)
    return a.exists() and b.exists() and a.samefile(b)


def make_folder(folder: Path) -> None:
    """Makes the folder and its parents. Raises RunFolderError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make {folder}: {error.strerror or error}; its folder must be writable") from error


def cache_folder() -> Path:
    """$FEATHERVIT_CACHE, or `feathervit` in the platform's folder for a user's caches. It may not exist yet."""
    if chosen := os.environ.get("FEATHERVIT_CACHE"):
        return expanded(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "feathervit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "feathervit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "feathervit"

"""Writes files atomically, and locates the cache and other folders."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from .errors import explained, warn


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a temporary file, syncs it, and renames it. A reader sees the complete old or new file, never a part.

    Raises RunFolderError, with the folder and its requirements, if the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # unique, also across machines
    space = f"{max(1, len(data) // 1024)} KiB of free space"
    advice = f"the folder must exist, be writable and have {space}. An earlier file is unchanged"
    with explained(f"cannot write {path.name} into {path.parent}", advice):
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def clear_drafts(folder: Path) -> None:
    """Removes temporary files of killed processes. No other process may write to the folder. Raises RunFolderError."""
    with explained(f"cannot use {folder}", "it must be writable"):
        for path in folder.glob(f".*.{'[0-9a-f]' * 32}.tmp"):
            path.unlink(missing_ok=True)


def expanded(path: str | Path) -> Path:
    """Replaces ~ with the home folder. Returns the path unchanged if the user does not exist."""
    return Path(os.path.expanduser(path))


def same_data(source: Any, trained_on: str) -> bool:
    """Returns whether two names refer to the same dataset, also through different paths of one folder or file.

    False for arrays, which have no name.
    """
    if not isinstance(source, (str, os.PathLike)):
        return False
    if str(source) == trained_on:
        return True
    a, b = expanded(source), expanded(trained_on)
    return a.exists() and b.exists() and a.samefile(b)


def make_folder(folder: Path) -> None:
    """Creates the folder and its parents. Raises RunFolderError on failure."""
    with explained(f"cannot make {folder}", "its folder must be writable"):
        folder.mkdir(parents=True, exist_ok=True)


def cache_folder() -> Path:
    """Returns the cache folder, without creating it.

    It is $FEATHERVIT_CACHE, or `feathervit` in the user cache folder of the platform. If that folder is not writable, it is
    a temporary folder, and a DataWarning is issued.
    """
    wanted, why = _wanted_cache()
    if wanted and not (why := _not_writable(wanted)):
        return wanted
    return _temporary_cache(f"{wanted} cannot be written: {why}" if wanted else why)


def downloads(name: str) -> Path:
    """Returns the cache folder of a downloaded dataset.

    A cache that is not writable is also used if it holds the dataset.
    """
    wanted, _ = _wanted_cache()
    folder = wanted and wanted / "downloads" / name
    return folder if folder and folder.is_dir() else cache_folder() / "downloads" / name


# ---------------------------------------------------------------------------------------------------------------------


def _wanted_cache() -> tuple[Path | None, str]:
    """Returns the preferred cache folder, or None and the reason why there is none."""
    if chosen := os.environ.get("FEATHERVIT_CACHE"):
        return expanded(chosen), ""
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "feathervit", ""
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "feathervit", ""
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "feathervit", ""
    except RuntimeError:
        return None, "there is no home folder: HOME is not set, and the system does not know this user"


def _not_writable(folder: Path) -> str:
    """Returns the reason why a folder is not writable, or "" if it is."""
    try:
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not above.is_dir():
            return f"{above} is a file"
        return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} does not let this user write"
    except OSError as error:
        return (error.strerror or str(error)).lower()


@functools.cache
def _temporary_cache(why: str) -> Path:
    """Returns a temporary folder that belongs to this user, and warns once."""
    folder = Path(tempfile.gettempdir()) / f"feathervit-{os.getuid() if hasattr(os, 'getuid') else os.getlogin()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            raise PermissionError
    except OSError:  # it belongs to another user, or is a file
        folder = Path(tempfile.mkdtemp(prefix="feathervit-"))
    warn(f"{why}; the cache is {folder} (FEATHERVIT_CACHE names another folder)")
    return folder

"""Unpacks a .zip or .tar file into the cache, once.

Archives are not trusted. A path that leads outside the archive is an error. Links and devices are skipped. The size of the
archive and the free disk space limit the unpacked size. The limit counts written bytes, not the sizes declared in the archive.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock

from ..errors import DataError, explained
from ..files import cache_folder
from .cache import stamp
from .imageset import text_digest

SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
_RATIO = 200  # unpacked bytes allowed per byte of an archive; images hardly compress
_SMALL = 2**30  # unpacked bytes allowed for any archive
_ROOM = 2**28  # bytes to leave free on the disk
_FILES = 5_000_000
_CHUNK = 2**20
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, ValueError, NotImplementedError),
)

Member = tuple[str, IO[bytes] | None]  # (name, content); the content is None if the member is not a file


def is_archive(path: Path) -> bool:
    """Returns whether a file name has the suffix of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(path: Path) -> tuple[Path, str]:
    """Unpacks an archive into the cache. Returns the folder and a note for the user.

    Uses an existing copy if it is complete. Raises DataError for an archive that is damaged, encrypted or too large, or that
    holds a path outside of it.
    """
    key = text_digest([str(path.resolve()), stamp(path.stat())]).hexdigest()
    folder = cache_folder() / "unpacked" / key
    advice = "set FEATHERVIT_CACHE to another folder, or unpack it yourself and give the folder"
    with explained(f"cannot unpack {path} into {folder.parent}", advice, DataError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{key}.lock"):  # several processes may unpack the same archive
            if not _is_whole(folder):
                _unpack(path, folder)
            record = json.loads(_record(folder).read_text())
    links = f", without {record['skipped']} links and devices" if record["skipped"] else ""
    return folder, f"unpacked from {path.name} into {folder}{links}"


# ---------------------------------------------------------------------------------------------------------------------


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _is_whole(folder: Path) -> bool:
    """Returns whether all unpacked files still exist. A cleanup by age may have removed some of them."""
    try:
        expected = json.loads(_record(folder).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return False
    return expected == sum(len(files) for _, _, files in os.walk(folder))


def _unpack(path: Path, folder: Path) -> None:
    draft = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)  # a killed process may have left it
    try:
        record = _write(path, draft)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
        _record(folder).write_text(json.dumps(record))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(path: Path, draft: Path) -> dict[str, int]:
    """Writes the files of the archive to `draft`. Returns the numbers of files and of skipped members."""
    draft.mkdir()
    most = max(_SMALL, _RATIO * path.stat().st_size)
    most = min(most, shutil.disk_usage(draft).free - _ROOM)
    files: set[Path] = set()
    written = skipped = 0
    try:
        for name, content in _members(path):
            if content is None:
                skipped += 1
                continue
            place = draft / _inside(path, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            files.add(place)
            if len(files) > _FILES:
                raise DataError(f"{path} holds more than {_FILES:,} files; unpack it yourself and give the folder")
            with place.open("wb") as file:
                while part := content.read(_CHUNK):
                    written += len(part)
                    if written > most:
                        raise DataError(
                            f"{path} ({path.stat().st_size / 1e6:.1f} MB) unpacks to more than {most / 1e6:,.0f} MB: too "
                            "much for images, or for the free space on the disk; unpack it yourself and give the folder"
                        )
                    file.write(part)
    except _DAMAGED as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot unpack {path}: {why}; it is damaged or not an archive of a known kind") from error
    except RuntimeError as error:  # zipfile raises it for a missing password
        raise DataError(f"cannot unpack {path}: {error}; unpack it yourself and give the folder") from error
    if not files:
        raise DataError(f"{path} holds no files")
    return {"files": len(files), "skipped": skipped}


def _members(path: Path) -> Iterator[Member]:
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG):
                    yield info.filename, None
                else:
                    with archive.open(info) as content:
                        yield info.filename, content
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isdir():
                yield member.name, archive.extractfile(member) if member.isreg() else None
        for _ in range(_SMALL // _CHUNK):  # read to the end, because a compressed archive ends with its checksum
            if not archive.fileobj.read(_CHUNK):
                break


def _inside(path: Path, name: str) -> Path:
    """Returns the path of a member. Raises DataError for a path that leads outside the archive on any system."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    drive = re.match(r"[A-Za-z]:[/\\]", name) or (os.name == "nt" and ":" in name)
    if name.startswith(("/", "\\")) or drive or ".." in parts or not parts or "\0" in name:
        raise DataError(f"{path} is not unpacked: its path {name!r} leads outside the archive")
    return Path(*parts)

"""Decodes image files once, in parallel, into one .npy file that is memory-mapped later.

Threads decode the images. Unlike processes, they start at once and need no guard in the user's script. PIL and torch release
the GIL during decoding (benchmarks/decode.py). A file is written under a temporary name, synced and renamed. A small JSON
record, written last, marks the file as valid. It holds the shape, the digest and the unreadable images. A partial or truncated
cache is therefore never used. Two processes may build the same cache at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..device import use_threads
from ..errors import DataError, explained
from ..files import cache_folder
from .depth import is_deep
from .image import Fit, ImageError, header, quiet, to_stored, values_in
from .imageset import Progress, Scan, Values, native_side, pixel_digest, text_digest
from .opening import MAX_GIB, Source

_FORMAT = 3  # increase if a code change alters the decoded pixels
_CHUNK = 16  # images per task
MISSING = "missing"  # the stamp of a file that does not exist; it is reported as unreadable
Form = tuple[int, int, Fit, float | None, float]  # size, channels, fit, scale, max_gib: the arguments of `to_stored`


def clear_cache() -> int:
    """Removes decoded images, unpacked archives and tables of local hub datasets. Returns the bytes freed.

    Keeps downloads.
    """
    freed = 0
    for folder in (cache_folder() / part for part in ("decoded", "unpacked", "hub")):
        freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def stamp(stat: os.stat_result) -> str:
    """Returns a text that changes if a file is written or replaced, even if its modification time stays the same."""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino} {stat.st_ctime_ns}"


def stamp_of(path: Path) -> str:
    """Returns the `stamp` of a file, or MISSING."""
    try:
        return stamp(path.stat())
    except OSError:
        return MISSING


@dataclass(eq=False)
class FileImages:
    """Holds image files, or other sources that `to_stored` accepts, and decodes them through the cache.

    `stamps` holds one text per image, which changes if the bytes of the image may have changed (see `stamp`). `root`
    distinguishes datasets. `scale`: the value of white in images of more than 8 bits. `max_gib`: the memory limit of one
    decoded image.
    """

    items: Sequence[Source]
    labels: np.ndarray
    sources: list[str]
    stamps: list[str]
    root: str
    scale: float | None = None
    max_gib: float = MAX_GIB

    def subset(self, indices: np.ndarray) -> FileImages:
        items, sources, stamps = ([part[i] for i in indices] for part in (self.items, self.sources, self.stamps))
        return replace(self, items=items, labels=self.labels[indices], sources=sources, stamps=stamps)

    def at_scale(self, scale: float | None) -> FileImages:
        return replace(self, scale=scale)

    def scan(self) -> Scan:
        return Scan(**self._remembered("headers", self._scan) or {})

    def values(self) -> Values:
        if not any(map(is_deep, self.scan().modes)):
            return Values()
        return Values(**self._remembered(f"values-{self.max_gib:g}", lambda: asdict(look(self.items, self.max_gib))))

    def store(
        self, size: int, channels: int | None, fit: Fit, progress: Progress | None
    ) -> tuple[torch.Tensor, list[tuple[int, str]]]:
        """Decodes the images, unless they are in the cache. The pixels are memory-mapped.

        progress(done, total) is called from this thread. Raises DataError if the cache folder is full or not writable.
        """
        form = (size, channels or 3, fit, self.scale, self.max_gib)
        base = _decoded_folder() / text_digest([self._key(), *map(str, form[:4])]).hexdigest()
        stored = _read(base)
        if stored and not any(_readable(self.items[i], form) for i, _ in stored[1]):
            if progress:
                progress(len(self.items), len(self.items))
            return stored
        with _explained(base.parent, f"{len(self.items) * form[1] * size * size / 1e6:.0f} MB are needed there; "):
            _build(base, self, form, progress)
        if stored := _read(base):
            return stored
        raise DataError(f"the decoded images in {base.parent} were removed or damaged while they were read; try again")

    def _key(self) -> str:
        lines = (f"{source}\0{stamp}" for source, stamp in zip(self.sources, self.stamps, strict=True))
        return text_digest([str(_FORMAT), self.root, *lines]).hexdigest()

    def _scan(self) -> dict[str, Any]:
        """Returns the fields of the scan, or {} if no image is readable."""
        headers = _read_all(header, self.items)
        if not headers:
            return {}
        short = statistics.median_low(min(width, height) for width, height, _ in headers)
        modes = dict(Counter(mode for *_, mode in headers))
        return asdict(Scan(short, modes, native_side((width, height) for width, height, _ in headers)))

    def _remembered(self, what: str, work: Callable[[], Any]) -> Any:
        """Returns `work()`, cached beside the decoded images: reading the headers of 50,000 images takes seconds.

        An empty result is not cached.
        """
        path = _decoded_folder() / f"{self._key()}.{what}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            return json.loads(path.read_text())["found"]
        result = work()
        if result:
            with _explained(path.parent), _replacing(path) as file:
                file.write(json.dumps({"root": self.root, "found": result}).encode())
        return result


def look(items: Sequence[Source], max_gib: float = MAX_GIB) -> Values:
    """Returns the values in all readable images of more than 8 bits per channel."""
    tops: dict[str, list[float]] = {}
    least = 0.0
    for kind, low, high in _read_all(partial(values_in, max_gib=max_gib), items):
        tops.setdefault(kind, []).append(high)
        least = min(least, low)
    return Values(tops, least)


def drop_outdated(root: str) -> list[str]:
    """Removes the decoded images of `root` if a file has changed without a change of its stamp.

    This can happen on file systems without inodes and change times. Returns the sources of these files.
    """
    changed: dict[str, bool] = {}
    known = []
    for path in _decoded_folder().glob("*.json"):
        with suppress(OSError, ValueError):
            record = json.loads(path.read_text())
            if isinstance(record, dict) and record.get("root") == root:
                known.append(path)
                for source, was, content in zip(
                    *(record.get(name, ()) for name in ("sources", "stamps", "contents")), strict=False
                ):
                    if source not in changed and (file := Path(root) / source).is_file() and stamp(file.stat()) == was:
                        changed[source] = _content(file) != content
    if any(changed.values()):
        for path in known:
            path.unlink(missing_ok=True)
    return [source for source, is_changed in changed.items() if is_changed]


# ---------------------------------------------------------------------------------------------------------------------


def _decoded_folder() -> Path:
    return cache_folder() / "decoded"


def workers() -> int:
    """Returns the number of decoding threads."""
    try:
        return min(16, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        return min(16, os.cpu_count() or 1)


def _read_all(read: Callable[[Source], Any], items: Sequence[Source]) -> list[Any]:
    """Returns `read(item)` of each readable item, in order, unless it is None."""

    def found(item: Source) -> Any:
        with suppress(ImageError):
            return read(item)

    with quiet(), ThreadPoolExecutor(workers()) as pool:
        return [one for one in pool.map(found, items) if one is not None]


def _content(item: Source) -> str:
    """Returns a hash of a file's bytes, or "" if it is not a readable file."""
    if isinstance(item, bytes):
        return hashlib.blake2b(item, digest_size=8).hexdigest()
    with suppress(OSError, TypeError), Path(item).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    return ""


def _readable(item: Source, form: Form) -> bool:
    with suppress(ImageError), quiet():
        to_stored(item, *form)
        return True
    return False


def _read(base: Path) -> tuple[torch.Tensor, list[tuple[int, str]]] | None:
    """Returns the images at `base` and the unreadable images, or None if the file is missing or incomplete."""
    try:
        record = json.loads(base.with_suffix(".json").read_text())
        images = np.load(base.with_suffix(".npy"), mmap_mode="c", allow_pickle=False)
        if list(images.shape) != record["shape"] or pixel_digest(images) != record["digest"]:
            return None
        return torch.from_numpy(images), [(int(i), str(why)) for i, why in record["skipped"]]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _build(base: Path, images: FileImages, form: Form, progress: Progress | None) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    _sweep(base.parent)
    with _replacing(base.with_suffix(".npy")) as file:
        skipped, contents = _fill(file, images.items, form, progress)
    pixels = np.load(base.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    record = {"shape": pixels.shape, "digest": pixel_digest(pixels), "skipped": skipped, "contents": contents}
    record |= {"root": images.root, "sources": images.sources, "stamps": images.stamps}  # for `drop_outdated`
    with _replacing(base.with_suffix(".json")) as file:
        file.write(json.dumps(record).encode())


def _fill(
    file: BinaryIO, items: Sequence[Source], form: Form, progress: Progress | None
) -> tuple[list[tuple[int, str]], list[str]]:
    """Writes the .npy file. Returns (index, why) per unreadable image, and a hash of the bytes per item."""
    size, channels, *_ = form
    contents = [""] * len(items)
    row = channels * size * size
    start = _write_header(file, len(items), channels, size)
    lock = threading.Lock()

    def work(first: int) -> list[tuple[int, str]]:
        bad = []
        for i in range(first, min(first + _CHUNK, len(items))):
            try:
                contents[i] = _content(items[i])
                pixels = to_stored(items[i], *form).numpy()
            except ImageError as error:
                bad.append((i, error.why))
                continue
            with lock:  # write instead of mapping, so that a full disk raises an error instead of killing the process
                file.seek(start + i * row)
                file.write(pixels)
        return bad

    skipped = []
    with quiet(), use_threads(1), ThreadPoolExecutor(workers()) as pool:  # the pool already runs in parallel
        for done, bad in enumerate(pool.map(work, range(0, len(items), _CHUNK)), start=1):
            skipped += bad
            if progress:
                progress(min(done * _CHUNK, len(items)), len(items))
    if len(skipped) == len(items):
        raise DataError(f"none of the {len(items)} images can be read; the first: {skipped[0][1]}")
    if skipped:
        _close_gaps(file, start, row, {i for i, _ in skipped}, len(items))
        _write_header(file, len(items) - len(skipped), channels, size)
    file.truncate(start + (len(items) - len(skipped)) * row)
    return skipped, contents


def _write_header(file: BinaryIO, count: int, channels: int, size: int) -> int:
    """Writes the header and returns the offset of the pixels. NumPy pads headers, so the count can change in place."""
    file.seek(0)
    shape = (count, channels, size, size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _close_gaps(file: BinaryIO, start: int, row: int, gaps: set[int], count: int) -> None:
    kept = min(gaps)
    for i in range(kept, count):
        if i not in gaps:
            file.seek(start + i * row)
            pixels = file.read(row)
            file.seek(start + kept * row)
            file.write(pixels)
            kept += 1


def _sweep(folder: Path) -> None:
    """Removes temporary files of killed processes that are older than a day."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                path.unlink()


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yields a temporary file. Syncs it and renames it to `path` at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(PermissionError):  # Windows: another process has mapped an identical file
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _explained(folder: Path, needs: str = "") -> AbstractContextManager[None]:
    advice = f"{needs}set FEATHERVIT_CACHE to another folder, or free some with `feathervit data cache --clear`"
    return explained(f"cannot write decoded images to {folder}", advice, DataError)

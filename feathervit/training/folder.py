"""Creates the run folder, locks it for one training at a time, and removes an earlier run.

Only files written by a run are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..checkpoint import STATES
from ..errors import FeatherVitError, RunFolderError, explained
from ..files import clear_drafts
from ..results import read_config
from .trackers import IDENTIFIERS

LOCK = ".feathervit.lock"
FILES = (  # the files of a run, in the order of their removal
    "config.json",  # first, because a run without its state must not look like a run that has just started
    *STATES,
    "best.safetensors",
    "last.safetensors",
    "reconstructions/*.png",
    "splits.json",
    "result.json",
    "report.html",
    "report/*.png",
    "metrics.csv",
    "tensorboard/events.*",
    IDENTIFIERS,
)


@contextmanager
def held(out: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Creates the run folder and locks it for this training. Removes a new folder if the training cannot start.

    The operating system releases the lock when the process ends, even after a crash. Raises RunFolderError if another
    training has locked the folder, if it is not writable, if it is not empty and neither `resume` nor `overwrite` is set, or
    if `overwrite` is set and it holds other files than a run.
    """
    with _usable(out):
        new = not (resume or out.exists())
    try:
        with _lock(out):
            for folder in (out, out / "reconstructions", out / "report"):
                clear_drafts(folder)
            if not resume and any(path.name != LOCK for path in out.iterdir()):
                if not _is_run(out):
                    raise RunFolderError(f"{out} is not empty and holds no run; name a new or an empty folder")
                if not overwrite:
                    raise RunFolderError(
                        f"{out} is not empty; resume it with --resume, start again with --overwrite, or name another"
                    )
            yield
    except FeatherVitError:
        if new:
            with suppress(OSError):  # the folder is not empty
                out.rmdir()
        raise


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    path = out / LOCK
    lock = FileLock(path, timeout=0)
    with _usable(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise RunFolderError(
                f"another process is training in {out}; wait until it ends, or name another folder"
            ) from None
    try:
        yield
    finally:
        try:
            with suppress(OSError):  # Windows cannot remove an open file
                path.unlink(missing_ok=True)  # before the release, so that a waiting process notices the removal
        finally:
            lock.release()


def _is_run(out: Path) -> bool:
    """Returns whether a folder holds a run, or the rest of a run that was being removed: only files of a run."""
    if (out / "config.json").exists():
        try:
            read_config(out)
            return True
        except RunFolderError:
            return False
    own = {path for pattern in (*FILES, LOCK) for path in out.glob(pattern)}
    return all(path in own for path in out.rglob("*") if path.is_file())


def _usable(out: Path) -> AbstractContextManager[None]:
    return explained(f"cannot use {out} as a run folder", "it must be writable")


def empty(out: Path) -> None:
    """Removes an earlier run. Raises RunFolderError if a file cannot be removed."""
    with explained(f"cannot empty {out}", "it must be writable"):
        for pattern in FILES:
            for path in out.glob(pattern):
                path.unlink()

"""The run folder: made, held by one training at a time, emptied of an earlier run. Only what a run writes is ever removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..checkpoint import STATES
from ..errors import FeatherVitError, RunFolderError
from ..files import clear_drafts

LOCK = ".feathervit.lock"


@contextmanager
def held(out: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Makes the run folder and holds it for this training; a folder that is new goes again where the training cannot begin.

    The lock is the operating system's and ends with the process, however that ends. Raises RunFolderError where another
    training holds the folder, where it cannot be written, and where it holds something that is neither resumed nor
    overwritten.
    """
    new = not (resume or _exists(out))
    try:
        with _lock(out):
            for folder in (out, out / "reconstructions", out / "report"):
                clear_drafts(folder)
            if not (resume or overwrite) and any(path.name != LOCK for path in out.iterdir()):
                raise RunFolderError(
                    f"{out} is not empty; resume it with --resume, start again with --overwrite, or name another"
                )
            yield
    except FeatherVitError:
        if new:
            with suppress(OSError):  # there is something in it
                out.rmdir()
        raise


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    path = out / LOCK
    lock = FileLock(path, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunFolderError(
            f"another training is running in {out}; wait until it ends, or name another folder"
        ) from None
    except OSError as error:
        raise _unusable(out, error) from error
    try:
        yield
    finally:
        try:
            with suppress(OSError):  # Windows removes no open file
                path.unlink(missing_ok=True)  # while it is held: whoever waits for this file sees that it is gone
        finally:
            lock.release()


def _exists(out: Path) -> bool:
    try:
        return out.exists()
    except OSError as error:
        raise _unusable(out, error) from error


def _unusable(out: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot use {out} as a run folder: {error.strerror or error}; it must be writable")


def empty(out: Path) -> None:
    """Removes an earlier run. Raises RunFolderError."""
    try:
        for pattern in (
            "config.json",  # first: a run without its state is not to be taken for one that was just begun
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
        ):
            for path in out.glob(pattern):
                path.unlink()
    except OSError as error:
        raise RunFolderError(f"cannot empty {out}: {error.strerror or error}; it must be writable") from error

"""Simulates a dead process or a full disk, starting at a chosen file change."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feathervit.errors import FeatherVitError


class Killed(BaseException):
    """Raised by every file change after the death of the process, so that clean-up does nothing either."""


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def from_change(at: float, error: Callable[[], BaseException]) -> Iterator[list[str]]:
    """Every file change from number `at` on, counted from 0, raises `error()`. Yields the changes so far.

    A change opens a file for writing, syncs, renames or removes it, makes a folder or sets a time. A full disk still
    allows removing files and setting times.
    """
    changes: list[str] = []

    def failing(name: str, real: Callable, changing: Callable[..., bool] = lambda *_, **__: True) -> Callable:
        def call(*args, **kwargs):
            if changing(*args, **kwargs):
                if len(changes) >= at and not (error is full and name in ("unlink", "utime")):
                    raise error()
                changes.append(f"{name} {args[0]}")
            return real(*args, **kwargs)

        return call

    def writes(_: Path, mode: str = "r", *args, **kwargs) -> bool:
        return mode[0] in "wax"

    def creates(_: str, flags: int, *args, **kwargs) -> bool:
        return bool(flags & os.O_CREAT)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace", "unlink", "mkdir", "utime"):
            patch.setattr(os, name, failing(name, getattr(os, name)))
        patch.setattr(os, "open", failing("create", os.open, creates))
        patch.setattr(Path, "open", failing("open", Path.open, writes))
        yield changes


def cut(at: int, error: Callable[[], BaseException], work: Callable[[], object], kind: type) -> list[str]:
    """Runs `work` with the fault from change `at` on. It must end as if killed, or with an error of `kind`.

    Returns the changes made.
    """
    with from_change(at, error) as made:
        try:
            work()
            assert error is full, "it continued after its death"  # the remaining work needed no space
        except Killed:
            assert error is Killed
        except FeatherVitError as raised:
            assert error is full and isinstance(raised, kind)
    return made


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without the time."""
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]


def drafts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name == ".state.next"]

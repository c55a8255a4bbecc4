"""Who works on what, among processes and machines that share a folder. No server, no lock that outlives its owner.

Claim number n is a file made with O_CREAT | O_EXCL: one process makes it, all others fail. The highest number counts.
It is held while its owner lives: on the owner's machine (where the system tells when a process began) that process is
there, on others its time is fresh (a thread touches it). It is given back by setting its time to long ago, which also a
full disk takes. A claim that is not held is taken over by making number n + 1. No claim is ever removed or renamed, so two
processes that find the same owner dead cannot both follow it. The machines' clocks must agree within a minute or so.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import RunFolderError

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0


class Claim:
    """What this process has claimed; given back at the end of a `with` block."""

    def __init__(self, path: Path):
        self.path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def mine(self) -> bool:
        """False when another process took this one for dead."""
        return _latest(self.path.parent) == _number(self.path)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # the next beat may fare better
                os.utime(self.path)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        _give_back(self.path)


def claim(folder: Path) -> Claim | None:
    """Claims `folder`, which is made; None while another process holds it. Raises RunFolderError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = _latest(folder)
        if number >= 0 and _held(_path(folder, number)):
            return None
        path = _path(folder, number + 1)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return None
        try:
            with os.fdopen(file, "w") as out:
                pid = os.getpid()
                out.write(json.dumps({"host": _host(), "pid": pid, "began": _began(pid), "time": time.time()}))
        except OSError:
            _give_back(path)
            raise
    except OSError as error:
        raise RunFolderError(f"cannot use {folder}: {error.strerror or error}; it must be writable") from error
    return Claim(path)


def _give_back(path: Path) -> None:
    with contextlib.suppress(OSError):  # then it is free when this process has ended
        os.utime(path, (0, 0))


def _path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number}.json"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("claim-"))


def _latest(folder: Path) -> int:
    return max(map(_number, folder.glob("claim-*.json")), default=-1)


def _held(path: Path) -> bool:
    touched = path.stat().st_mtime
    fresh = time.time() - touched < STALE_SECONDS
    try:
        owner: Any = json.loads(path.read_text())
    except ValueError:  # made a moment ago and not written yet
        return fresh
    here = owner["host"] == _host()
    if here and owner.get("began"):  # however long it, or the machine, has slept
        return touched > 0 and _began(owner["pid"]) == owner["began"]
    return fresh and (not here or _lives(owner["pid"]))


def _host() -> str:
    """This machine, and the name space that its process numbers are of (containers have their own)."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return socket.gethostname() + space


def _began(pid: int) -> str | None:
    """When a living process began, in the kernel's ticks, which tells it from a later one of the same number."""
    with contextlib.suppress(OSError, IndexError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else rest[18]
    return None


def _lives(pid: int) -> bool:
    if os.name != "posix":
        return True  # there only the time tells
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True

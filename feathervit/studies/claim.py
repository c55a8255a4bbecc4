"""Claims cells for one process among processes and machines that share a folder, without a server and without stale locks.

Claim number n is a file created with O_CREAT | O_EXCL: one process creates it, and all others fail. The highest number is
valid. A claim is held while its owner runs. On the machine of the owner, this is checked by process id and start time. On
other machines, the modification time of the file must be recent; a thread of the owner updates it. An owner releases a claim
by setting the time to 1970, which also works on a full disk. Another process acquires a released claim by creating number
n + 1. Claims are never removed or renamed, so that two processes cannot both replace a dead owner. The clocks of the machines
must agree within about a minute.
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

from ..errors import explained

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0


class Claim:
    """Holds a claim of this process. Releases it at the end of a `with` block."""

    def __init__(self, path: Path):
        self.path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def mine(self) -> bool:
        """Whether this process still owns the claim."""
        return _latest(self.path.parent) == _number(self.path)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # the next update may succeed
                os.utime(self.path)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        _give_back(self.path)


def claim(folder: Path) -> Claim | None:
    """Creates and claims `folder`. Returns None if another process holds it. Raises RunFolderError if it is not writable."""
    with explained(f"cannot use {folder}", "it must be writable"):
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
    return Claim(path)


def _give_back(path: Path) -> None:
    with contextlib.suppress(OSError):  # on failure, the claim is free when this process ends
        os.utime(path, (0, 0))


def _path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number}.json"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("claim-"))


def _latest(folder: Path) -> int:
    return max(map(_number, folder.glob("claim-*.json")), default=-1)


def _held(path: Path) -> bool:
    modified = path.stat().st_mtime
    fresh = time.time() - modified < STALE_SECONDS
    try:
        owner: Any = json.loads(path.read_text())
    except ValueError:  # the file was just created, and is still empty
        return fresh
    is_local = owner["host"] == _host()
    if is_local and owner.get("began"):  # valid even after a suspend of the machine
        return modified > 0 and _began(owner["pid"]) == owner["began"]
    return fresh and (not is_local or _lives(owner["pid"]))


def _host() -> str:
    """Returns the name of this machine and its process namespace, because containers have separate process ids."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return socket.gethostname() + space


def _began(pid: int) -> str | None:
    """Returns the start time of a running process in kernel ticks, which distinguishes processes with the same id."""
    with contextlib.suppress(OSError, IndexError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else rest[18]
    return None


def _lives(pid: int) -> bool:
    if os.name != "posix":
        return True  # only the time of the file shows that the owner ended
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process belongs to another user
    return True

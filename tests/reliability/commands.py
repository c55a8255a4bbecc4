"""Runs the command line in its own process and kills it, at a moment after its start or when a file changes.

Most processes are forked from one with loaded libraries, so that a kill hits their work and not the loading. Others start
a new interpreter, like a user.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from feathervit.training import state as saving

ROOT = Path(__file__).parents[2]
LOADED = [
    "tests.reliability.commands",
    "feathervit.cli",
    "feathervit.training.train",
    "feathervit.studies.cells",
    "sklearn.datasets",
    "rich.console",
]
SMALL = ["--model", "mlit_nano", "--arch.depth", "1", "--arch.dim", "16", "--img-size", "8", "--patch-size", "2"]
SMALL += ["--precision", "float32"]  # auto times steps, so two runs may differ
POSIX = os.name == "posix"

if POSIX:
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(LOADED)


@dataclass
class Ended:
    status: int  # below 0: the signal that killed it
    output: str
    seconds: float


class Command:
    """Runs `feathervit ARGUMENTS` on one thread, with a state at the end of each epoch.

    `fresh` starts a new interpreter. `limit`: bytes of the largest file that it may write.
    """

    def __init__(self, arguments: Sequence[object], log: Path, *, fresh: bool = False, limit: int | None = None):
        self.log, self.began = log, time.monotonic()
        arguments = list(map(str, arguments))
        self.fresh = fresh
        if fresh:
            program = (
                f"from tests.reliability.commands import begin; begin({arguments!r}, {{}}, {str(log)!r}, {limit!r})"
            )
            self.process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
        else:
            self.process = forking.Process(target=begin, args=(arguments, dict(os.environ), str(log), limit))
            self.process.start()

    @property
    def status(self) -> int | None:
        return self.process.poll() if self.fresh else self.process.exitcode

    def wait(self, seconds: float | None) -> None:
        if not self.fresh:
            self.process.join(seconds)
        elif seconds is None or seconds > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)

    def kill(self) -> Ended:
        self.process.kill()
        return self.end()

    def end(self) -> Ended:
        self.wait(300)
        output = self.log.read_text() if self.log.exists() else ""
        return Ended(self.status, output, time.monotonic() - self.began)


def begin(arguments: list[str], environment: dict[str, str], log: str, limit: int | None) -> None:
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    saving.SHORT_EPOCH_SECONDS, saving.WRITING_SHARE = 0.0, 1e9
    from feathervit.cli import main

    sys.exit(main(arguments))


def run(arguments: Sequence[object], log: Path, **options) -> Ended:
    return Command(arguments, log, **options).end()


def killed(arguments: Sequence[object], log: Path, folder: Path, chance: random.Random, seconds: float) -> Ended:
    """Kills the command at a random moment.

    In one of four cases it is a new interpreter, killed at any time within twice `seconds`. Otherwise the kill comes when a
    random number of files under `folder` has changed, at once or a moment later.
    """
    if chance.random() < 0.25:
        command = Command(arguments, log, fresh=True)
        command.wait(chance.uniform(0, 2 * seconds))
        return command.kill()
    left, seen = chance.randrange(1, 60), files(folder)
    command = Command(arguments, log)
    while command.status is None and left > 0:
        time.sleep(0.0005)
        now = files(folder)
        left -= len(now ^ seen)
        seen = now
    command.wait(chance.choice([0, 0, chance.uniform(0, 0.1)]))
    return command.kill()


def files(folder: Path) -> set[tuple[str, int]]:
    """The files, each with its inode, so that a replaced file counts as a new one."""
    found = set()
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.add((name, os.stat(os.path.join(path, name)).st_ino))
    return found


def finished(ended: Ended) -> bool:
    """Whether the command ended before it was killed. Any other status is a failure."""
    assert ended.status in (0, -signal.SIGKILL), ended.output
    return ended.status == 0

"""Runs the command line in its own process, forked from one with loaded libraries."""

from __future__ import annotations

import multiprocessing
import os
import sys
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


class Command:
    """Runs `feathervit ARGUMENTS` on one thread, with a state at the end of each epoch.

    `limit`: bytes of the largest file that it may write.
    """

    def __init__(self, arguments: Sequence[object], log: Path, *, limit: int | None = None):
        self.log = log
        self.process = forking.Process(
            target=begin, args=(list(map(str, arguments)), dict(os.environ), str(log), limit)
        )
        self.process.start()

    @property
    def status(self) -> int | None:
        return self.process.exitcode

    def end(self) -> Ended:
        self.process.join(300)
        return Ended(self.status, self.log.read_text() if self.log.exists() else "")


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

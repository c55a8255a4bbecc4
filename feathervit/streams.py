"""Wraps standard output and error so that they never stop the work, even if they are closed, broken or full.

Progress, warnings and errors go through `Words`, which drops them if nobody reads. A result is different: it waits for its
reader, and an error is raised if it cannot be written.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from .errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 1.0  # seconds that a reader may pause before text is dropped
_PIECE = 1024  # characters that a writable pipe takes without waiting, in any encoding


class Words:
    """Text stream for messages. It drops text that cannot be written within a second, and later reports how many lines."""

    def __init__(self, stream: TextIO):
        self.stream, self.dropped = stream, 0

    def write(self, text: str) -> int:
        if self.dropped and self._ready():
            lines, self.dropped = self.dropped, 0
            self._write(f"({lines} lines were dropped because nobody read them)\n")
        for start in range(0, len(text), _PIECE):
            self._write(text[start : start + _PIECE])
        return len(text)

    def flush(self) -> None:
        """Does nothing: `write` has written everything."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _write(self, text: str) -> None:
        if not self._ready():
            self.dropped += max(1, text.count("\n"))
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # broken, full, closed
            let_go(self.stream)

    def _ready(self) -> bool:
        """Returns whether a write returns at once: false only for a pipe or socket whose reader is behind."""
        try:
            number = self.stream.fileno()
            mode = os.fstat(number).st_mode
        except (OSError, ValueError, AttributeError):
            return True
        if os.name != "posix" or not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return True
        return bool(select.select([], [number], [], 0 if self.dropped else PATIENCE)[1])


class Result:
    """Standard output for a result. Raises BrokenPipeError if the reader is gone, and OutputError if writing fails otherwise.

    After an error it ignores writes.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        return self._sure(self.stream.write, text)

    def flush(self) -> None:
        self._sure(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _sure(self, do: Callable[..., Any], *args: str) -> Any:
        try:
            return do(*args)
        except OSError as error:
            let_go(self.stream)
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def let_go(stream: TextIO) -> None:
    """Redirects the stream and its buffered text to the null device, so that closing it cannot fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def open_closed() -> None:
    """Opens the null device for closed standard streams, so that no later file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open until the end)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides text that C libraries print on standard error, as libtiff does for a damaged file."""
    sys.stderr.flush()
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError):
            kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, 2)
            os.dup2(null, 2)
            os.close(null)
        yield


def console(stderr: bool = True) -> Console:
    """Returns the console for progress. An error of its stream does not stop the work."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream is None:
        return Console(quiet=True)
    stream = stream.stream if isinstance(stream, Result) else stream
    words = stream if isinstance(stream, Words) else Words(stream)
    # Programs that read the output need unwrapped lines.
    return Console(file=words, stderr=stderr, emoji=False, width=None if stream.isatty() else 4096)

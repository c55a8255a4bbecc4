"""Wraps standard output and error so that closed, broken or full streams never stop a run.

Progress, warnings and errors go through `Words`, which drops text that nobody reads. Results go through `Result`, which waits
for the reader and raises an error if writing fails.
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

PATIENCE = 1.0  # seconds to wait for a reader before text is dropped
_PIECE = 1024  # characters that a writable pipe accepts without blocking, in any encoding


class Words:
    """Writes messages to a text stream. Drops text that cannot be written within a second, and counts the dropped lines."""

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
        """Does nothing, because `write` already flushes."""

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
        """Returns whether a write does not block. False only for a pipe or socket whose reader is too slow."""
        try:
            descriptor = self.stream.fileno()
            mode = os.fstat(descriptor).st_mode
        except (OSError, ValueError, AttributeError):
            return True
        if os.name != "posix" or not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return True
        return bool(select.select([], [descriptor], [], 0 if self.dropped else PATIENCE)[1])


class Result:
    """Writes a result to standard output. Raises BrokenPipeError if the reader is gone, and OutputError for other failures.

    Ignores writes after an error.
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
    """Opens the null device for closed standard streams, so that no later file reuses their file descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free descriptor, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open until the end)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppresses text that C libraries print on standard error, such as warnings of libtiff for a damaged file."""
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
    """Returns the console for progress. Errors of its stream never stop a run."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream is None:
        return Console(quiet=True)
    stream = stream.stream if isinstance(stream, Result) else stream
    words = stream if isinstance(stream, Words) else Words(stream)
    # Programs that read the output need unwrapped lines.
    return Console(file=words, stderr=stderr, emoji=False, width=None if stream.isatty() else 4096)

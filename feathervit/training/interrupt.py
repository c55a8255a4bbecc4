"""Ctrl-C and SIGTERM as a request."""

from __future__ import annotations

import signal
from typing import Any


class Interrupt:
    """Ctrl-C or SIGTERM once: `asked` turns True, for the loop to stop after its step with a state saved. Twice: at once."""

    def __init__(self):
        self.asked = False
        self.before: dict[int, Any] = {}

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> None:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)
        except ValueError:
            pass  # not in the main thread: the caller's signals are the caller's

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

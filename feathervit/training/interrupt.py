"""Converts Ctrl-C and SIGTERM to a request to stop."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any


class Interrupt:
    """Sets `asked` on the first Ctrl-C or SIGTERM, so that the loop saves a state and stops. A second signal stops at once."""

    def __init__(self):
        self.asked = False
        self.before: dict[int, Any] = {}

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> None:
        with suppress(ValueError):  # Python allows handlers only in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

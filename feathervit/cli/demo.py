"""The verb `demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .flags import JsonFlag
from .printing import new_console, print_json


@dataclass
class Demo(JsonFlag):
    """Pre-train on handwritten digits, then train on ten labels per class, from these weights and from scratch."""

    out: str = "runs/demo"
    """Folder for the three runs; runs of an earlier demo are replaced."""
    seed: int = 0
    """Seed of the random numbers."""

    def execute(self) -> int:
        from ..demo import run

        result = run(Path(self.out), self.seed, new_console(self.json))
        if self.json:
            print_json(result)
        return 0 if result["finished"] else 130  # only Ctrl-C ends it early

"""The verb `results table`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..errors import ConfigError, UnknownNameError
from .flags import JsonFlag
from .printing import print_json


@dataclass
class ResultsTable(JsonFlag):
    """Print the papers' tables, with the published results beside ours from a folder of result files."""

    results: Positional[str] = "results"
    """The folder with the result files: NAME/study.json of the study papers, NAME/seed-N.json and weights/NAME.json."""
    only: str | None = None
    """One of the tables: claims, pretraining, table-7, table-8, table-9, poorvits, cct, feather, headline, seeds, weights."""

    def execute(self) -> int:
        from ..studies.library.papers import TABLES
        from ..studies.tables import tables

        if not Path(self.results).is_dir():
            raise ConfigError(f"{self.results} is not a folder; name the one with the result files")
        made = tables(self.results)
        if self.only is not None and self.only not in made:
            raise UnknownNameError("table", self.only, made)
        made = {self.only: made[self.only]} if self.only else made
        if self.json:
            print_json(made)
        else:
            print("\n\n".join(f"## {TABLES.get(name, name)}\n\n{text}" for name, text in made.items()))
        return 0

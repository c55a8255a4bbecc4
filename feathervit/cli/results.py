"""The verb `results table`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..errors import ConfigError, UnknownNameError
from .printing import print_json


@dataclass
class ResultsTable:
    """Print the papers' tables with their results and ours, from the result files in a folder."""

    results: Positional[str] = "results"
    """The folder with the result files: NAME/study.json of the study papers, NAME/seed-N.json and weights/NAME.json."""
    only: str | None = None
    """One of the tables: claims, pretraining, table-7, table-8, table-9, poorvits, cct, feather, headline, seeds, weights."""
    json: bool = False
    """Print one JSON object on standard output and nothing else: name -> Markdown."""


def results_table(args: ResultsTable, _: dict[str, Any]) -> int:
    from ..studies.library.papers import TABLES
    from ..studies.tables import tables

    if not Path(args.results).is_dir():
        raise ConfigError(f"{args.results} is not a folder; name the one with the result files")
    made = tables(args.results)
    if args.only is not None and args.only not in made:
        raise UnknownNameError("table", args.only, made)
    made = {args.only: made[args.only]} if args.only else made
    if args.json:
        print_json(made)
    else:
        print("\n\n".join(f"## {TABLES.get(name, name)}\n\n{text}" for name, text in made.items()))
    return 0

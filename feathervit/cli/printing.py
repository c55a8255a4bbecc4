"""Prints the output of the verbs: tables and lines for people, through rich, and JSON for programs."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..streams import console
from ..text import shown


def new_console(json_wanted: bool):
    """Returns the console for progress: standard output, or standard error if the result is JSON."""
    return console(stderr=json_wanted)


def print_result(*parts: Any, **words: Any) -> None:
    """Prints a table or line on standard output."""
    from rich.console import Console

    Console(emoji=False, width=None if sys.stdout.isatty() else 4096).print(*parts, **words)


def new_table(*columns: str):
    """Returns a table that never wraps its first column, so that names can be copied."""
    from rich.table import Column, Table

    first, *rest = columns
    return Table(Column(first, no_wrap=True), *rest, box=None)


def add_row(table: Any, *cells: str) -> None:
    """Adds a row of plain text. Names may hold line breaks, or square brackets, which rich would read as markup.

    On a terminal, the middle of a first cell that would fill over half of the line is left out, so that the others keep their
    place. In a file or pipe, it stays whole.
    """
    from rich.text import Text

    first, *rest = map(shown, cells)
    half = shutil.get_terminal_size((10_000, 24)).columns // 4
    if len(first) > 2 * half:
        first = f"{first[: half - 3]}...{first[-half:]}"
    table.add_row(*map(Text, (first, *rest)))


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value))


def check_places(*paths: str | None) -> None:
    """Raises ConfigError if the folder of a file does not exist, before measurements that take minutes."""
    for path in filter(None, paths):
        if not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"the folder of {path} does not exist; create {Path(path).absolute().parent} first")


def show(found: dict[str, Any], table: Callable[[dict[str, Any]], str], out: str | None, as_json: bool) -> int:
    """Prints the result of a benchmark as text or JSON, and writes it to `out` with its command and commit."""
    if out:
        from ..results import commit, public_command, write_json

        command = public_command(shlex.join(["feathervit", *sys.argv[1:]]))
        write_json(Path(out), {"command": command, "commit": commit(), **found})
    if as_json:
        print_json(found)
    else:
        print(table(found))
    return 0


def other_line(other: dict[str, Any]) -> str:
    """Describes the threshold of the answer "other" and its error rates. `other`: the fields of `OtherAnswer`."""
    rates = [f"{100 * other['known']:.1f} % of {other['n']} validation images get it"]
    if other["mistaken"] is not None:
        rates.append(f"{100 * other['mistaken']:.1f} % of wrong predictions do not get it")
    if other["strangers"] is None:
        rates.append("the share for images outside the classes is unknown: calibrate --others FOLDER measures it")
    else:
        rates.append(f"{100 * other['strangers']:.1f} % of images outside the classes do not get it")
    return f'the answer is "other" if the highest probability is under {100 * other["threshold"]:.1f} %: {", ".join(rates)}'

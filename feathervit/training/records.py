"""Writes the metrics of a run to metrics.csv, one row per epoch.

A process may be killed at any byte. `MetricsFile` drops a partial last line, and a resumed run truncates the file to the epoch
from which it continues.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..errors import RunFolderError, explained
from ..files import write_bytes


class MetricsFile:
    """Writes a CSV file with one row per epoch: "epoch" and any metrics. Raises RunFolderError if writing fails.

    The first row defines the columns. A later row may lack columns (its cells stay empty) or add columns (the file is
    rewritten with a longer header).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._columns: list[str] | None = None  # None: the file has not been read yet

    def rows(self) -> list[dict[str, Any]]:
        """Returns all complete rows. Cells are numbers or text, and None if empty. A missing file has no rows."""
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        complete = text[: text.rfind("\n") + 1]  # a killed process leaves a partial last line
        header, *lines = list(csv.reader(io.StringIO(complete))) or [[]]
        return [dict(zip(header, map(_value, line), strict=True)) for line in lines if len(line) == len(header)]

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row and closes the file."""
        if self._columns is None:
            self._rewrite(self.rows())
        if set(row) - set(self._columns):
            self._rewrite([*self.rows(), dict(row)])
            return
        with self._writing(), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines([row], self._columns))

    def _writing(self) -> AbstractContextManager[None]:
        return explained(f"cannot write {self.path}", "its folder must exist, be writable and have room")

    def sync(self) -> None:
        """Flushes the rows to the disk, so that they survive a power failure."""
        if self.path.exists():
            with self._writing(), self.path.open("ab") as file:
                os.fsync(file.fileno())

    def truncate(self, after_epoch: int) -> None:
        """Drops the rows after epoch `after_epoch`, so that a resumed run writes each epoch once.

        Raises RunFolderError if an earlier row is missing.
        """
        rows = [r for r in self.rows() if isinstance(r.get("epoch"), int) and r["epoch"] <= after_epoch]
        if [row["epoch"] for row in rows] != list(range(1, after_epoch + 1)):
            raise RunFolderError(
                f"{self.path} holds {len(rows)} of the run's {after_epoch} epochs; restore the file, or start a new run"
            )
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        header = dict(zip(self._columns, self._columns, strict=True))
        write_bytes(self.path, _lines([header, *rows] if rows else [], self._columns).encode())


def _lines(rows: list[Mapping[str, Any]], columns: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([row.get(name) for name in columns] for row in rows)
    return out.getvalue()


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell or None

"""What a run tells: metrics.csv for programs, a live bar or a few plain lines for people.

`MetricsFile` survives being killed at any byte: a half-written last line is dropped, and a resumed run cuts the file
back to the epoch it goes on from. `Display` never floods: on a terminal it is one bar that rich redraws, elsewhere
(a log file, CI) at most one line every few seconds, however short the epochs are. A loss that lives on a GPU is only
fetched when it is shown, so that telling does not slow training down.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunFolderError

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_SECONDS = 5.0  # between two lines where output is not a terminal
LIVE_SECONDS = 0.1  # between two redraws of the bar


class MetricsFile:
    """A CSV of one row an epoch; rows hold "epoch" and any figures. Raises RunFolderError where it cannot be written.

    The first row names the columns. A later row may lack some (empty cells) or bring new ones (the file is rewritten
    with the wider header).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; numbers are numbers, empty cells None. A missing file has no rows."""
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        whole = text[: text.rfind("\n") + 1]  # what follows the last line end was torn off while being written
        header, *lines = list(csv.reader(io.StringIO(whole))) or [[]]
        return [dict(zip(header, map(_number, line), strict=True)) for line in lines if len(line) == len(header)]

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row and flushes it."""
        columns = self._columns()
        if not columns or set(row) - set(columns):
            self._rewrite([*self.rows(), dict(row)])
            return
        with _writable(self.path):
            text = self.path.read_bytes()
            with self.path.open("r+b") as file:
                file.truncate(text.rfind(b"\n") + 1)
                file.seek(0, io.SEEK_END)
                file.write(_lines([row], columns).encode())

    def truncate(self, after_epoch: int) -> None:
        """Drops the rows of epochs later than `after_epoch`, so that a resumed run writes each epoch once."""
        rows = self.rows()
        kept = [row for row in rows if isinstance(row.get("epoch"), int) and row["epoch"] <= after_epoch]
        if kept != rows:
            self._rewrite(kept)

    def _columns(self) -> list[str]:
        rows = self.rows()
        return list(rows[0]) if rows else []

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with _writable(self.path):
            draft = self.path.with_name(self.path.name + ".tmp")
            header = _lines([dict(zip(columns, columns, strict=True))], columns) if columns else ""
            draft.write_text(header + _lines(rows, columns), encoding="utf-8", newline="")
            draft.replace(self.path)


class _writable:
    """Turns an OSError into a RunFolderError that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise RunFolderError(
                f"cannot write {self.path}: {error.strerror or error}; check that its folder exists, is writable and has room"
            ) from error


def _lines(rows: list[Mapping[str, Any]], columns: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([row.get(name) for name in columns] for row in rows)
    return out.getvalue()


def _number(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell or None

"""Reads labels from a table: a .csv, .tsv or .parquet file with columns for paths, labels, and optionally splits."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from ..config import ReadingConfig
from ..errors import ConfigError, DataError, UnknownNameError
from ..files import expanded
from .cache import MISSING, FileImages, stamp_of
from .columns import LABELS, PATHS, SPLIT_COLUMNS, choose_column, index_labels, plain, whole_number
from .imageset import Found
from .names import SPLITS, few, find_splits

Table = dict[str, list[str | None]]  # column -> values; "" or None for a missing value


def find_table(path: Path, reading: ReadingConfig = ReadingConfig(), labelled: bool = True) -> Found:  # noqa: B008 (frozen)
    """Finds the images listed in a table, without opening them. Paths are relative to `reading.root`, or to the table.

    Raises DataError for a table that cannot be read, lacks a column or contradicts itself. Raises ConfigError if several
    columns are candidates.
    """
    table = _read(path)
    where = path.name
    image = choose_column(where, "paths", "--image-column", reading.image_column, table, _called(table, PATHS))
    label = choose_column(where, "labels", "--label-column", reading.label_column, table, _called(table, LABELS))
    if image is None or (label is None and labelled):
        lacks = "paths (path, or --image-column)" if image is None else "labels (label, or --label-column)"
        raise DataError(f"{path} has no column of {lacks}; its columns are {few(list(table))}")
    split = _split_column(where, table)
    root = expanded(reading.root) if reading.root else path.parent
    files = [_place(root, name, f"{path}, row {row}") for row, name in enumerate(table[image], start=2)]
    values = table[label] if label else ["images"] * len(files)
    rows, notes = _distinct(where, files, values, table[split] if split else [None] * len(files), reading.ignore)
    stamps = {row: stamp_of(files[row]) for row in rows}
    missing = [str(files[row]) for row in rows if stamps[row] == MISSING]
    if rows and len(missing) == len(rows):
        raise DataError(
            f"{path}: all its {len(rows)} images are missing, such as {missing[0]}; give their folder with --root"
        )
    by_split = _by_split(where, rows, table[split] if split else None)
    labels = index_labels(
        str(path), {name: [values[row] for row in own] for name, own in by_split.items()}, None, labelled
    )
    below = root.absolute()
    if not all(files[row].is_relative_to(below) for row in rows):
        below = Path(os.path.commonpath([files[row].parent for row in rows]))

    def images(name: str) -> FileImages:
        own = [by_split[name][i] for i in labels.rows[name]]
        return FileImages(
            items=[files[row] for row in own],
            labels=labels.index[name],
            sources=[files[row].relative_to(below).as_posix() for row in own],
            stamps=[stamps[row] for row in own],
            root=str(below),
        )

    def groups(name: str) -> list[str]:
        return [str(table[reading.groups][by_split[name][i]]) for i in labels.rows[name]]

    splits = {name: images(name) for name in labels.rows}
    if missing:
        notes.append(f"{len(missing)} images are missing, such as {missing[0]}")
    text = f"read as: a table of {len(files)} rows; paths in the column {image}"
    text += f", labels in {label}" if label else ""
    text += f", splits in {split}" if split else ""
    text += f"; {len(labels.class_names)} classes: {few(labels.class_names)}"
    return Found(
        name=path.stem,
        class_names=labels.class_names,
        splits=splits,
        how=dict.fromkeys(splits, f"column {split}" if split else "all rows"),
        notes=["; ".join([text, *notes, *labels.notes])],
        unknown=labels.unknown,
        groups={name: groups(name) for name in splits} if reading.groups in table else None,
    )


# ---------------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Table:
    """Reads the columns of a table. Raises DataError."""
    read: Callable[[Path], Table] = _read_parquet if path.suffix.lower() == ".parquet" else _read_text
    try:
        table = read(path)
    except (OSError, UnicodeError, csv.Error) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {why}") from error
    if not table or not any(table.values()):
        raise DataError(
            f"{path} has no rows; a table needs a line of column names (path, label), and then a line per image"
        )
    return table


def _read_text(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
        lines = csv.reader(file, delimiter=mark, strict=True)
        columns = [name.strip() for name in next(lines, [])]
        if repeated := {name for name in columns if columns.count(name) > 1}:
            raise DataError(f"{path} has the column {sorted(repeated)[0]!r} twice")
        table: Table = {name: [] for name in columns}
        for cells in lines:
            if not any(cells):
                continue
            if len(cells) != len(columns):
                raise DataError(f"{path}, line {lines.line_num}: {len(cells)} values for {len(columns)} columns")
            for name, cell in zip(columns, cells, strict=True):
                table[name].append(cell.strip())
    return table


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError("a .parquet file needs pyarrow: pip install 'feathervit[hub]'") from error
    try:
        columns = parquet.read_table(path).to_pydict()
    except ArrowException as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    if inside := [name for name, cells in columns.items() if cells and isinstance(cells[0], (dict, bytes))]:
        raise DataError(
            f"{path} holds images instead of paths, in the column {inside[0]}; give its folder as hf:{path.parent}"
        )
    return {
        name: [None if c is None or c != c else str(whole_number(c)) for c in cells] for name, cells in columns.items()
    }


def _called(table: Table, names: tuple[str, ...]) -> list[str]:
    return [column for column in table if plain(column) in names]


def _split_column(where: str, table: Table) -> str | None:
    """Returns the column "split", or a column such as "subset" if all its values are names of splits."""
    fits = [
        column
        for column in _called(table, SPLIT_COLUMNS)
        if plain(column) == "split" or all(find_splits([value or ""]) for value in set(table[column]))
    ]
    if len(fits) > 1:
        raise ConfigError(f"{where} has several columns that may be the splits: {', '.join(fits)}; keep one of them")
    return fits[0] if fits else None


def _place(root: Path, name: str | None, row: str) -> Path:
    """Returns the absolute path of an image. If the file does not exist, also tries slashes and other Unicode forms."""
    if not name:
        raise DataError(f"{row} has no path")
    slashes = name.replace("\\", "/")
    forms = [name, *(unicodedata.normalize(form, text) for text in (name, slashes) for form in ("NFC", "NFD"))]
    paths = [Path(os.path.normpath((root / expanded(text)).absolute())) for text in dict.fromkeys(forms)]
    return next((path for path in paths if path.exists()), paths[0])


def _distinct(
    where: str, files: list[Path], labels: list[str | None], splits: list[str | None], ignore: tuple[str, ...]
) -> tuple[list[int], list[str]]:
    """Returns the rows that are not ignored, without repeated images, and notes.

    Raises DataError for an image with two labels or splits.
    """
    first: dict[Path, int] = {}
    skipped = repeated = 0
    for row, file in enumerate(files):
        if any(fnmatchcase(str(file) if "/" in p else file.name, f"*/{p}" if "/" in p else p) for p in ignore):
            skipped += 1
        elif file not in first:
            first[file] = row
        elif (labels[row], splits[row]) == (labels[first[file]], splits[first[file]]):
            repeated += 1
        else:
            before, now = ((labels[i], splits[i]) for i in (first[file], row))
            what = (
                f"the labels {before[0]!r} and {now[0]!r}"
                if before[0] != now[0]
                else f"the splits {before[1]} and {now[1]}"
            )
            raise DataError(f"{where}: rows {first[file] + 2} and {row + 2} both name {file}, with {what}")
    notes = [f"skipped: {skipped} rows, left out by --ignore"] if skipped else []
    notes += [f"{repeated} rows repeat another"] if repeated else []
    return list(first.values()), notes


def _by_split(where: str, rows: list[int], splits: list[str | None] | None) -> dict[str, list[int]]:
    """Returns split -> its rows, in the order train, val, test. Raises UnknownNameError for a value that is not a split."""
    if splits is None:
        return {"train": rows}
    found: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row in rows:
        name = splits[row] or ""
        if name not in (split := find_splits([name])):
            raise UnknownNameError("split", name, SPLITS, f"row {row + 2} of {where}")
        found[split[name]].append(row)
    return {split: own for split, own in found.items() if own}

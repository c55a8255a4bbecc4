"""The papers' tables in Markdown, their figures and ours side by side, made from result files. Loads no torch.

A row's file is RESULTS/reproduce/ROW.json, as `run.py` writes it; a row without one is "not run". Repeated runs of one
command are RESULTS/NAME/seed-N.json (scripts/seeds.py); of weights in the package RESULTS/weights/NAME.json tells.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import RunFolderError
from ..results import alike, read_result, spread
from .rows import ORDER, ROWS, SETS, TABLES, Row

DATA_NAMES = {"cifar100": "CIFAR-100", "cifar10": "CIFAR-10", "svhn": "SVHN", "flowers102": "Flowers-102"}
RECOVERED = "the table's figures are lost in the text at hand; recovered from what it and its sources say elsewhere"
DERIVED = "derived from a difference that the text gives"


def tables(results: str | Path) -> dict[str, str]:
    """Name -> Markdown of all tables: `TABLES`, "headline" (what has been run of them), "seeds" and "weights"."""
    results = Path(results)
    found = {name: _read(path, name) for name in ROWS if (path := results / "reproduce" / f"{name}.json").exists()}
    strange = sorted(p.stem for p in (results / "reproduce").glob("*.json") if p.stem not in ROWS)
    if strange:
        raise RunFolderError(f"{results / 'reproduce'} holds {strange[0]}.json, which is no row; remove or rename it")
    made = {"pretraining": _pretraining(_of("pretraining"), found)}
    made |= {name: _accuracies(_of(name), found) for name in TABLES if name not in made}
    ran = [ROWS[name] for name in ORDER if name in found and not ROWS[name].is_pretraining]
    made["headline"] = _accuracies(ran, found) if ran else "None of the papers' rows has been run yet."
    made["seeds"] = _seeds(results)
    made["weights"] = _weights(results)
    return made


def _of(name: str) -> list[Row]:
    """The rows of a table; those of one data set stand together."""
    rows = [row for row in ROWS.values() if name in row.tables]
    return sorted(rows, key=lambda row: SETS.index(row.data)) if name == "table-8" else rows


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["row"] != name:
            raise ValueError(f"it is of the row {found['row']!r}")
        return found
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} is no result of a row: {error}; run it again, or remove it") from error


class Notes:
    """Footnotes, numbered as they come, each text once."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def mark(self, *texts: str) -> str:
        numbers = [str(self.texts.setdefault(text, len(self.texts) + 1)) for text in texts if text]
        return f" [{', '.join(numbers)}]" if numbers else ""

    def lines(self) -> str:
        return "".join(f"\n\n[{number}] {text[0].upper()}{text[1:]}." for text, number in self.texts.items())


def _paper(row: Row, notes: Notes) -> str:
    if row.paper is None:
        return ""
    if row.certainty == "derived":
        return f"about {row.paper:.1f}{notes.mark(DERIVED)}"
    figure = f"{row.paper:.6f}" if row.is_pretraining else f"{row.paper:.2f}"
    return figure + notes.mark(RECOVERED if row.certainty == "recovered" else "", row.note)


def _accuracies(rows: list[Row], found: dict[str, Any]) -> str:
    head = (
        "Model",
        "Data",
        "Million parameters, paper",
        "Paper, %",
        "Ours, %",
        "Seeds",
        "Epochs",
        "Parameters",
        "File",
    )
    notes, lines = Notes(), []
    for row in rows:
        millions = "" if row.millions is None else f"{row.millions:g}"
        line = [row.name, DATA_NAMES[row.data], millions, _paper(row, notes)]
        result = found.get(row.id)
        cells = [c for c in result["cells"] if c["status"] == "finished"] if result else []
        if cells:
            top1 = [100 * c["test_top1"] for c in cells]
            ours = spread(top1) + notes.mark(result["note"] and f"{DATA_NAMES[row.data]}: {result['note']}")
            epochs = alike(" + ".join(map(str, c["epochs"])) for c in cells)
            line += [ours, str(len(cells)), epochs, alike(f"{c['parameters']:,}" for c in cells)]
            line.append(f"`results/reproduce/{row.id}.json`")
        else:
            line += ["failed" if result and result["cells"] else "not run" if row.recipe else "", *[""] * 4]
        lines.append(line)
    return _table(head, lines, left=2) + notes.lines()


def _pretraining(rows: list[Row], found: dict[str, Any]) -> str:
    head = (
        "Encoder",
        "Paper, loss",
        "Ours, loss",
        "masked pixels",
        "visible pixels",
        "balance",
        "Epochs",
        "Parameters",
        "File",
    )
    notes, lines = Notes(), []
    for row in rows:
        line = [row.name, _paper(row, notes) or notes.mark(row.note).strip()]
        result = found.get(row.id)
        if result and result["last"]:
            names = ("train_loss", "train_masked_mse", "train_visible_mse", "train_balance")
            figures = [f"{value:.5f}" if (value := result["last"].get(name)) is not None else "" for name in names]
            epochs = str(result["epochs"]) if result["finished"] else f"{result['epochs_run']} of {result['epochs']}"
            line += [*figures, epochs, f"{result['parameters']:,}", f"`results/reproduce/{row.id}.json`"]
        else:
            line += ["not run", *[""] * 6]
        lines.append(line)
    return _table(head, lines, left=1) + notes.lines()


def _seeds(results: Path) -> str:
    groups = defaultdict(list)
    for path in sorted(results.glob("*/seed-*.json")):
        groups[path.parent.name].append(read_result(path))
    head = ("Runs", "Data", "Test pictures", "Model", "Parameters", "Test top-1, %", "Seeds", "Epochs", "Minutes")
    lines = []
    for name, runs in groups.items():
        tests = [r.test for r in runs if r.test]
        lines.append(
            [
                f"`results/{name}`",
                alike(Path(r.data["name"]).name for r in runs),
                alike(f"{t['n']:,}" for t in tests),
                alike(f"`{r.model}`" for r in runs),
                alike(f"{r.parameters:,}" for r in runs),
                spread([100 * t["top1"] for t in tests]),
                str(len(tests)),
                alike(str(len(r.epochs)) for r in runs),
                f"{statistics.mean(r.minutes for r in runs):.1f}",
            ]
        )
    return _table(head, lines, left=2)


def _weights(results: Path) -> str:
    head = ("Weights", "Parameters", "Bytes", "These, test top-1, %", "All seeds, %", "Seeds", "File")
    lines = []
    for path in sorted((results / "weights").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        own = f"{100 * found['float16']['test_top1']:.2f}" if "float16" in found else ""
        tops = [100 * run["test_top1"] for run in found["runs"] if "test_top1" in run]
        line = [f"`{path.stem}`", f"{found['parameters']:,}", f"{found['bytes']:,}", own, spread(tops)]
        lines.append([*line, str(len(found["runs"])), f"`results/weights/{path.name}`"])
    return _table(head, lines, left=1)


def _table(head: tuple[str, ...], lines: list[list[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in ([*head], rule, *lines))

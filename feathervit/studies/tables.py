"""Writes the papers' tables in Markdown from result files: rows that were run and, collapsed, rows that were not.

The rows come from all RESULTS/NAME/study.json of the study `papers`. Repeated runs of a command are in
RESULTS/NAME/seed-N.json (scripts/seeds.py), and the records of weights in RESULTS/weights/NAME.json and
RESULTS/weights-not-kept/NAME.json. Does not import torch.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import valid
from ..files import read_json
from ..results import alike, collapsed, read_result, spread, table_of
from .claims_table import claims_table
from .definition import Published
from .library.papers import TABLES, papers

DATA_NAMES = {"cifar100": "CIFAR-100", "cifar10": "CIFAR-10", "svhn": "SVHN", "flowers102": "Flowers-102"}
RECOVERED = "the table is lost in the available text; recovered from other passages and sources"
DERIVED = "derived from a difference in the text"
Cells = list[dict[str, Any]]


def tables(results: str | Path) -> dict[str, str]:
    """Returns name -> Markdown: "headline" (all rows that were run), each of `TABLES`, "claims", "seeds", "weights", "long"."""
    results = Path(results)
    cells = read_papers(results)
    runs = [arm for arm, row in papers.published.items() if arm in cells and row.figure == "test_top1"]
    texts = {"headline": _accuracies(runs, cells) or "None of the papers' rows has been run."}
    for name in TABLES:
        arms = [arm for arm, row in papers.published.items() if name in row.tables]
        ran = [arm for arm in arms if arm in cells]
        written = (_losses if name == "pretraining" else _accuracies)(ran, cells)
        texts[name] = "\n\n".join(filter(None, [written, _not_run([arm for arm in arms if arm not in cells])]))
    texts |= {"claims": claims_table(results), "seeds": _seeds(results)}
    return texts | {"weights": _weights(results / "weights"), "long": _weights(results / "weights-not-kept")}


def read_papers(results: Path) -> dict[str, Cells]:
    """Returns the cells of each arm, with their "file". Raises RunFolderError for a file that cannot be read."""
    found: dict[str, Cells] = defaultdict(list)
    for path in sorted(results.glob("*/study.json")):
        with valid(f"{path} is not a result of a study", "; run it again, or remove it"):
            study = read_json(path)
            if study["name"] != papers.name:
                continue
            for cell in study["cells"]:
                if cell["arm"] not in papers.arms:
                    raise ValueError(f"{cell['arm']!r:.80} is not an arm of the study")
                if cell["seed"] in [other["seed"] for other in found[cell["arm"]]]:
                    raise ValueError(f"{cell['arm']}, seed {cell['seed']}, is in another file too")
                found[cell["arm"]].append({**cell, "file": path, "planned": study["epochs"][cell["arm"]]})
    return {arm: cells for arm, cells in found.items() if cells}


class Notes:
    """Collects distinct footnotes and numbers them in order."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def mark(self, *texts: str) -> str:
        numbers = [str(self.texts.setdefault(text, len(self.texts) + 1)) for text in texts if text]
        return f" [{', '.join(numbers)}]" if numbers else ""

    def lines(self) -> str:
        return "".join(f"\n\n[{number}] {text[0].upper()}{text[1:]}." for text, number in self.texts.items())


def _figure(own: Published) -> str:
    if own.value is None:
        return ""
    if own.certainty == "derived":
        return f"about {own.value:.1f}"
    return f"{own.value:.6f}" if own.figure == "train_loss" else f"{own.value:.2f}"


def _reported(own: Published, notes: Notes) -> str:
    """Returns the published result with its notes."""
    certainty = {"recovered": RECOVERED, "derived": DERIVED}.get(own.certainty, "")
    return (_figure(own) + notes.mark(certainty if own.value is not None else "", own.note)).strip()


def _not_run(arms: list[str]) -> str:
    """Returns the rows that were not run, with their published results, in collapsed sections."""
    quoted = [arm for arm in arms if arm not in papers.arms]
    parts = {
        "not run here": [arm for arm in arms if arm in papers.arms],
        "quoted as published; no run is planned here": quoted,
    }
    return "\n\n".join(
        collapsed(f"{len(rows)} row{'s' * (len(rows) > 1)} {words}", _figures(rows))
        for words, rows in parts.items()
        if rows
    )


def _figures(arms: list[str]) -> str:
    """Returns the published results of some rows as one line."""
    rows = [papers.published[arm] for arm in arms]
    several = len({own.data for own in rows}) > 1
    figures: dict[str, list[str]] = defaultdict(list)
    for own in rows:
        figures[own.name].append(f"{DATA_NAMES[own.data]} {_figure(own)}".strip() if several else _figure(own))
    texts = [f"{name} ({', '.join(filter(None, own))})" if any(own) else name for name, own in figures.items()]
    prefix = "With the paper's figures: " if any(map(_figure, rows)) else ""
    return f"{prefix}{'; '.join(texts)}."


def _cell(cells: Cells, read: Callable[[dict[str, Any]], str]) -> str:
    return alike(read(cell) for cell in cells)


def _progress(cell: dict[str, Any]) -> str:
    """Returns the epochs of the stages of a cell; for an unfinished cell, the number of finished epochs."""
    if cell["status"] == "begun":
        return f"{cell['epochs_run']} of {cell['planned'][cell['stage'] - 1]}"
    return " + ".join(map(str, cell.get("epochs", cell["planned"])))


def _accuracies(arms: list[str], found: dict[str, Cells]) -> str:
    notes, rows = Notes(), []
    for arm in arms:
        own, cells = papers.published[arm], found[arm]
        done = [cell for cell in cells if cell["status"] == "finished"]
        losses = {f"{DATA_NAMES[own.data]}: {cell['note']}" for cell in done if cell.get("note")}
        ours = spread([100 * cell["test_top1"] for cell in done]) + notes.mark(*sorted(losses))
        rows.append(
            {
                "Model": own.name,
                "Data": DATA_NAMES[own.data],
                "Million parameters, paper": "" if own.millions is None else f"{own.millions:g}",
                "Paper, %": _reported(own, notes),
                "Ours, %": ours if done else _cell(cells, lambda cell: cell["status"]),
                "Seeds": str(len(done)),
                "Epochs": _cell(done or cells, _progress),
                "Parameters": _cell(done, lambda cell: f"{cell['parameters']:,}"),
                "File": _cell(done or cells, _file),
            }
        )
    return table_of(rows, left=2) + notes.lines()


def _losses(arms: list[str], found: dict[str, Cells]) -> str:
    parts = {"Ours, loss": "loss", "masked pixels": "masked_mse", "visible pixels": "visible_mse", "balance": "balance"}
    notes, rows = Notes(), []
    for arm in arms:
        (cell,), own = found[arm], papers.published[arm]
        values = {named: cell.get(f"train_{part}") for named, part in parts.items()}
        rows.append(
            {
                "Encoder": own.name,
                "Paper, loss": _reported(own, notes),
                **{named: "" if value is None else f"{value:.5f}" for named, value in values.items()},
                "Epochs": _progress(cell),
                "Parameters": f"{cell['parameters']:,}" if "parameters" in cell else "",
                "File": _file(cell),
            }
        )
    return table_of(rows, left=1) + notes.lines()


def _file(cell: dict[str, Any]) -> str:
    return f"`results/{cell['file'].parent.name}`"


def _seeds(results: Path) -> str:
    groups = defaultdict(list)
    for path in sorted(results.glob("*/seed-*.json")):
        groups[path.parent.name].append(read_result(path))
    rows = []
    for name, runs in groups.items():
        tests = [r.test for r in runs if r.test]
        rows.append(
            {
                "Runs": f"`results/{name}`",
                "Data": alike(Path(r.data["name"]).name for r in runs),
                "Test images": alike(f"{t['n']:,}" for t in tests),
                "Model": alike(f"`{r.model}`" for r in runs),
                "Parameters": alike(f"{r.parameters:,}" for r in runs),
                "Test top-1, %": spread([100 * t["top1"] for t in tests]),
                "Seeds": str(len(tests)),
                "Epochs": alike(str(len(r.epochs)) for r in runs),
                "Minutes": f"{statistics.mean(r.minutes for r in runs):.1f}",
            }
        )
    return table_of(rows, left=2)


def _weights(records: Path) -> str:
    """Describes the records of scripts/ship.py in a folder. Core-hours include earlier runs and teachers."""
    rows = []
    for path in sorted(records.glob("*.json")):
        found = read_json(path)
        own = {"These, test top-1, %": "test_top1", "Flip averaged, %": "flip_test_top1"}
        values = {named: found.get("float16", {}).get(figure) for named, figure in own.items()}
        rows.append(
            {
                "Weights": f"`{path.stem}`",
                "Parameters": f"{found['parameters']:,}",
                "Bytes": f"{found['bytes']:,}",
                **{named: "" if top1 is None else f"{100 * top1:.2f}" for named, top1 in values.items()},
                "All seeds, %": spread([100 * run["test_top1"] for run in found["runs"] if "test_top1" in run]),
                "Seeds": str(len(found["runs"])),
                "Epochs": str(found["runs"][0]["epochs"]),
                "Core-hours": f"{statistics.mean(run['minutes'] * run['threads'] / 60 for run in found['runs']):.1f}",
                "File": f"`results/{records.name}/{path.name}`",
            }
        )
    return table_of(rows, left=1)

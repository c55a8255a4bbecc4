"""Writes the results of a study folder (study.json, table.md and chart.png) from its cells, whenever a cell ends.

study.json is the file to keep: it contains no paths of the machine and no weights. Accuracies are fractions.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scipy.stats import chi2

from ..config import from_dict
from ..errors import ConfigError, RunFolderError, valid
from ..files import read_json, write_bytes
from ..results import alike, spread, table_of, write_json
from ..training.records import MetricsFile
from .plan import Plan, read_plan
from .verdicts import paired

SCHEMA = 1
FEW_SEEDS = 5  # tables with fewer seeds state the uncertainty of the spread
POINTS = 200  # maximum number of points of a training curve
ABSOLUTE = re.compile(r"""(?<![\w.:/~])/(?:[^/\s'"]+/)*([^/\s'"]+)""")
ENVIRONMENT = ("version", "commit", "python", "torch", "threads", "device", "precision", "machine")


@dataclass
class Cell:
    """The content of cell.json: one arm with one seed. `changes`: its stages. `stages`: the `RunResult` of each stage.

    `figures`: "val_top1", "test_top1", "parameters", "macs", "minutes", "images_per_s"; "epochs" and "steps", lists over
    stages; after pre-training, "train_loss" and its parts. `note`: a remark on the data.
    """

    arm: str
    seed: int
    status: Literal["finished", "failed"]
    changes: list
    message: str = ""
    stages: list = field(default_factory=list)
    figures: dict = field(default_factory=dict)
    note: str = ""
    schema: int = SCHEMA


def cell_folder(out: Path, arm: str, seed: int) -> Path:
    return out / "cells" / arm / f"seed-{seed}"


def read_cell(out: Path, arm: str, seed: int) -> Cell | None:
    """Reads a cell. Returns None if it has not ended. Raises RunFolderError for an invalid file."""
    path = cell_folder(out, arm, seed) / "cell.json"
    with valid(f"{path} is not a cell of the study", "; remove it to run the cell again"):
        if not path.exists():
            return None
        cell = from_dict(Cell, read_json(path))
        if (cell.arm, cell.seed, cell.schema) != (arm, seed, SCHEMA):
            raise ConfigError(f"it is of arm {cell.arm!r}, seed {cell.seed}, schema {cell.schema}")
        for name, value in cell.figures.items():
            if not (isinstance(value, list) if name in ("epochs", "steps") else isinstance(value, int | float | None)):
                raise ConfigError(f"figures.{name} is {value!r:.80}")
        if not all(isinstance(stage, dict) and set(ENVIRONMENT) <= set(stage) for stage in cell.stages):
            raise ConfigError(f"stages must be results that hold {', '.join(ENVIRONMENT)}")
        return cell


def require_cells(out: Path) -> None:
    """Raises RunFolderError if `out` holds only the results of a study: new results would replace them."""
    if (out / "study.json").exists() and not (out / "cells").exists():
        raise RunFolderError(
            f"{out} holds the results of a study without its cells, and would lose them; restore {out / 'cells'}, or name "
            "another folder"
        )


def rebuild(out: Path) -> dict[str, Any]:
    """Writes study.json, table.md and chart.png from the cells in `out`. Returns the content of study.json.

    Raises RunFolderError if `out` holds no study, or only its results.
    """
    require_cells(out)
    plan = read_plan(out)
    found = collect(out, plan)
    write_json(out / "study.json", found)
    write_bytes(out / "table.md", (table(found) + "\n").encode())
    _chart(found, out / "chart.png")
    return found


def collect(out: Path, plan: Plan) -> dict[str, Any]:
    """Collects all results of a study, JSON-ready. "ran_on" lists the environments; each cell stores an index into it."""
    environments: list[dict] = []
    cells = []
    for seed in plan.seeds:
        for arm in plan.arms:
            cell = read_cell(out, arm, seed)
            if cell is None:
                cells += _begun(out, arm, seed)
                continue
            row = {"arm": arm, "seed": seed, "status": cell.status, "message": cell.message, **cell.figures}
            row |= {"note": cell.note} if cell.note else {}
            if cell.stages:
                environment = {name: cell.stages[-1][name] for name in ENVIRONMENT}
                if environment not in environments:
                    environments.append(environment)
                row["ran_on"] = environments.index(environment)
                row["curve"] = _curve(cell.stages)
                if not row["curve"]:
                    row["training"] = training_curve(cell.stages[-1]["epochs"])
            cells.append(row)
    private = {str(out): out.name, str(out.absolute()): out.name}
    if "/" in (data := str(plan.base.get("data", ""))):
        private |= {data: Path(data).name, str(Path(data).absolute()): Path(data).name}
    found = {**vars(plan), "cells": cells, "ran_on": environments}
    return {"schema": SCHEMA, **public(found, dict(sorted(private.items(), key=lambda item: -len(item[0]))))}


def _begun(out: Path, arm: str, seed: int) -> list[dict[str, Any]]:
    """Returns the current metrics of an unfinished cell: number of epochs in the current stage, and the last row."""
    files = sorted(cell_folder(out, arm, seed).glob("[0-9]*/metrics.csv"), key=lambda path: int(path.parent.name))
    rows = MetricsFile(files[-1]).rows() if files else []
    if not rows:
        return []
    figures = {"stage": int(files[-1].parent.name), "epochs_run": len(rows), **training_figures(rows[-1])}
    return [{"arm": arm, "seed": seed, "status": "begun", **figures, "training": training_curve(rows)}]


def training_figures(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the training metrics in the row of an epoch: "train_loss" and its parts."""
    return {name: value for name, value in (row or {}).items() if name.startswith("train_")}


def training_curve(rows: list[dict[str, Any]]) -> dict[str, list]:
    """Returns the training metrics of at most POINTS evenly spaced epochs, including the last epoch."""
    rows = rows[::-1][:: max(1, -(-len(rows) // POINTS))][::-1]
    names = ["epoch", *training_figures(rows[0])] if rows else []
    return {name: [_short(row.get(name)) for row in rows] for name in names}


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _curve(stages: list[dict[str, Any]]) -> list[list[float]]:
    """Returns [minutes since the start of the cell, validation top-1] for each validated epoch."""
    points, begun = [], 0.0
    for stage in stages:
        rows = [row for row in stage["epochs"] if row.get("val_top1") is not None]
        points += [[round(begun + row["minutes"], 3), round(row["val_top1"], 4)] for row in rows]
        begun += stage["minutes"] or 0.0
    return points


def public(value: Any, private: dict[str, str]) -> Any:
    """Replaces each absolute path in a value with its last component."""
    if isinstance(value, dict):
        return {public(k, private): public(v, private) for k, v in value.items()}
    if isinstance(value, list):
        return [public(v, private) for v in value]
    if isinstance(value, str):
        for path, name in private.items():
            value = value.replace(path, name) if len(path) > 1 else value
        return ABSOLUTE.sub(r"\1", value)
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Table and chart


def short_table(found: dict[str, Any]) -> list[str]:
    """Returns a table for a terminal of 80 columns: accuracy, number of cells and minutes of each arm."""
    split = "test" if any(c.get("test_top1") is not None for c in found["cells"]) else "val"
    wide = min(40, max(map(len, ("arm", *found["arms"]))))
    lines = [f"{'arm':<{wide}}  {split + ' top-1, %':<21}  {'n':<3}  minutes"]
    for arm in found["arms"]:
        done = [c for c in found["cells"] if c["arm"] == arm and c["status"] == "finished"]
        top1 = spread([100 * v for v in _values(done, f"{split}_top1")], ".1f")
        minutes = statistics.mean(spent) if (spent := _values(done, "minutes")) else None
        spent_text = "" if minutes is None else f"{minutes:.1f}"
        lines.append(f"{arm:<{wide}}  {top1:<21}  {len(done):<3}  {spent_text}".rstrip())
    return lines


def table(found: dict[str, Any]) -> str:
    """Returns a Markdown table with one row per arm: mean (range) over the finished cells.

    Differences are relative to the first arm on the same images, per seed.
    """
    firsts: dict[Any, str] = {}
    for arm in found["arms"]:
        firsts.setdefault(_images_of(found, arm), arm)
    first = next(iter(found["arms"])) if len(firsts) == 1 else "the first arm of its images"
    split = "test" if any(c.get("test_top1") is not None for c in found["cells"]) else "val"
    published = found.get("published") or {}
    beside = "Published" if published else f"{split.title()} less {first}, points"
    flipped, macro, stepped = (
        any(name in c for c in found["cells"]) for name in ("flip_test_top1", f"{split}_macro", "steps")
    )
    rows = []
    for arm in found["arms"]:
        cells = [c for c in found["cells"] if c["arm"] == arm]
        done = [c for c in cells if c["status"] == "finished"]
        others = {status: n for status in ("failed", "begun") if (n := sum(c["status"] == status for c in cells))}
        if published:
            own = published.get(arm, {}).get("value")
            against = "" if own is None else f"{own:g}"
        else:
            own = firsts[_images_of(found, arm)]
            against = "" if arm == own else spread(paired(found["cells"], own, arm, f"{split}_top1"), "+.2f")
        row = {
            "Arm": arm,
            "Val top-1, %": spread([100 * v for v in _values(done, "val_top1")]),
            "Test top-1, %": spread([100 * v for v in _values(done, "test_top1")]),
            beside: against,
            "n": f"{len(done)}" + "".join(f" ({n} {status})" for status, n in others.items()),
        }
        if flipped:
            row["Test, flip averaged"] = spread([100 * v for v in _values(done, "flip_test_top1")])
        if macro:
            row[f"{split.title()} macro, %"] = spread([100 * v for v in _values(done, f"{split}_macro")])
        row["Parameters"] = alike([f"{v:,}" for v in _values(done, "parameters")])
        row["MMACs"] = alike([f"{v / 1e6:.1f}" for v in _values(done, "macs")])
        epochs = _values(done, "epochs") or [found["epochs"].get(arm, [])]
        row["Epochs"] = alike([" + ".join(map(str, v)) for v in epochs])
        if stepped:
            row["Steps"] = alike([" + ".join(f"{n:,}" for n in v) for v in _values(done, "steps")])
        row["Minutes"] = spread(_values(done, "minutes"), ".1f")
        row["Images/s"] = f"{statistics.mean(speeds):,.0f}" if (speeds := _values(done, "images_per_s")) else ""
        rows.append({_escaped(name): _escaped(cell) for name, cell in row.items()})
    failures = [
        f"- {c['arm']}, seed {c['seed']}, failed: {c['message']}" for c in found["cells"] if c["status"] == "failed"
    ]
    below = " ".join(filter(None, ["Mean (range) of n seeds.", doubt(found), _chosen(found)]))
    text = [found["question"], "", table_of(rows, left=1), "", below, *(["", *failures] if failures else [])]
    return "\n".join(text).strip()


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _images_of(found: dict[str, Any], arm: str) -> tuple:
    """Returns the training images of an arm: name of the data, and images per class."""
    stage = found["arms"][arm][-1]
    return stage.get("data"), stage.get("split.train_per_class")


def _chosen(found: dict[str, Any]) -> str:
    """Returns the selected candidate of each arm, with the validation accuracies of all candidates."""
    texts = []
    for arm, tried in (found.get("trials") or {}).items():
        best = max(tried, key=lambda name: tried[name] or 0)
        others = ", ".join(f"{name} {100 * (top1 or 0):.1f}" for name, top1 in tried.items() if name != best)
        texts.append(f"{arm}: {best}, {100 * (tried[best] or 0):.1f} % ({others})")
    return f"Chosen by validation accuracy in trials: {'; '.join(texts)}." if texts else ""


def doubt(found: dict[str, Any]) -> str:
    """Returns a sentence on the uncertainty of the spread for fewer than FEW_SEEDS seeds, else ""."""
    counts = Counter(c["arm"] for c in found["cells"] if c["status"] == "finished")
    n = max(counts.values(), default=0)
    if not 0 < n < FEW_SEEDS:
        return ""
    if n == 1:
        return "One seed per arm shows no spread: any difference between arms may be chance."
    low, high = (math.sqrt((n - 1) / chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    return (
        f"Of {n} seeds the spread itself is uncertain: the true standard deviation is, at 95 %, {low:.1f} to {high:.1f} times "
        f"the measured one, and {n} differences of one sign have a chance of {2 / 2**n:.3g} where arms are equal."
    )


def _values(cells: list[dict[str, Any]], figure: str) -> list[Any]:
    return [c[figure] for c in cells if c.get(figure) is not None]


def _chart(found: dict[str, Any], path: Path) -> None:
    from ..plots.figures import png
    from .chart import draw_chart

    write_bytes(path, png(draw_chart(found), 150))

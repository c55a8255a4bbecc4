"""Runs rows of the papers' tables into one folder, in pieces of any length, to be carried on from there.

    OUT/results/ROW.json     what has come of a row so far; copied into results/reproduce/ it stands in the tables
    OUT/runs/ROW/            a study of one arm (studies/cells.py); of a pre-training row the run, in OUT/runs/ROW/run

A row trains on all of train and reports the last epoch. Pre-training is run once, under seed 0, for all the rows that start
from it: their seeds are those of fine-tuning, and the minutes in their results include it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..checkpoint import load_weights
from ..config import spec
from ..errors import ConfigError, DataError, RunFolderError, UnknownNameError
from ..files import make_folder, write_bytes
from ..recipes import recipe
from ..recipes.planning import whole
from ..results import RunResult, read_config, read_result, write_json
from ..studies.cells import run_study
from ..studies.claim import claim
from ..studies.definition import Size, Study
from ..studies.plan import stage_run
from ..studies.report import cell_folder, public, read_cell
from ..training.records import MetricsFile
from ..training.train import train
from . import rows as known
from .rows import Row

SCHEMA = 1
ALL_OF_TRAIN = {"split.val_fraction": 0.0, "split.keep": "last"}
POINTS = 200  # of a curve, at most
KEPT = (
    "version",
    "commit",
    "python",
    "torch",
    "threads",
    "device",
    "precision",
    "machine",
    "command",
    "seed",
    "config",
)


@dataclass(frozen=True)
class Place:
    """Where and how rows are run. `data`: a folder with a folder for each data set, named as it is (None: the named sets,
    downloaded). `pretrain_epochs`: instead of the recipes' thousands, for pre-training that has not begun. `retry_failed`:
    runs that failed start anew."""

    out: Path
    data: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    pretrain_epochs: int | None = None
    retry_failed: bool = False
    console: Console | None = None
    command: str = "feathervit results reproduce"

    def say(self, text: str) -> None:
        (self.console or Console(stderr=True)).print(text, emoji=False, markup=False, highlight=False, soft_wrap=True)

    def runs(self, row: Row) -> Path:
        return self.out / "runs" / row.id

    def data_of(self, row: Row) -> str:
        """The row's data set. Raises DataError where the folder has none of that name."""
        if self.data is None:
            return row.data
        if not (self.data / row.data).is_dir():
            raise DataError(f"{self.data} has no folder {row.data}")
        return whole(str(self.data / row.data))


@dataclass
class Reproduced:
    """How a call ended. `finished`: nothing is left of the rows. `begun`: rows that were worked on; `passed_over`: whose data
    or model is not here; `failed`: with a run that failed."""

    finished: bool = False
    begun: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False


def reproduce(names: Iterable[str], place: Place, max_minutes: float | None = None) -> Reproduced:
    """Runs these rows, one after another, for `max_minutes` in all.

    A row whose data or model is not here is passed over with a word, unless it is the only one. Every call gets on by
    a step at least. Raises FeatherVitError.
    """
    names = list(names)
    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"max_minutes must be above 0, got {max_minutes}")
    if place.pretrain_epochs is not None and place.pretrain_epochs < 1:
        raise ConfigError(f"pretrain_epochs must be at least 1, got {place.pretrain_epochs}")
    end = time.monotonic() + 60 * max_minutes if max_minutes is not None else float("inf")
    found = Reproduced()
    for name in names:
        row = known.row(name)
        if is_finished(row, place):
            continue
        if found.begun and time.monotonic() > end:
            break
        try:
            check(row, place)
        except (DataError, UnknownNameError, ConfigError) as error:
            if len(names) == 1:
                raise
            place.say(f"{name}: passed over: {error}")
            found.passed_over.append(name)
            continue
        found.begun.append(name)
        done, found.interrupted = _run(row, place, end)
        if not done or found.interrupted:
            break
    found.failed = [name for name in names if "failed" in _cells(known.row(name), place)]
    found.finished = all(is_finished(known.row(name), replace(place, retry_failed=False)) for name in names)
    return found


def is_finished(row: Row, place: Place) -> bool:
    """Whether there is nothing left to run of it."""
    if row.is_pretraining:
        result = place.runs(row) / "run" / "result.json"
        return result.exists() and read_result(result).finished
    return set(_cells(row, place)) <= ({"finished"} if place.retry_failed else {"finished", "failed"})


def _cells(row: Row, place: Place) -> list[str | None]:
    """The status of each seed's cell, None where it has not ended."""
    cells = [read_cell(place.runs(row), row.id, seed) for seed in place.seeds]
    return [cell.status if cell else None for cell in cells]


def check(row: Row, place: Place) -> None:
    """Raises FeatherVitError where the row cannot be run here: nothing to run, no such model, no data."""
    if not row.recipe:
        raise ConfigError(f"{row.id} is quoted as published and never run here")
    model = row.fields.get("model", recipe(row.recipe).model)
    if not model.startswith("timm:"):
        spec(model)
    place.data_of(row)
    if row.pretraining and not is_finished(start := known.row(row.pretraining), place):
        check(start, place)


def _run(row: Row, place: Place, end: float) -> tuple[bool, bool]:
    """One row, until it is finished or the time is over; with the pre-training it starts from. (finished, interrupted)."""
    start = known.row(row.pretraining) if row.pretraining else None
    if start and not is_finished(start, place):
        done, interrupted = _run(start, place, end)
        if not done or interrupted:
            return False, interrupted
    make_folder(place.out / "results")
    place.say(f"{row.id} ({place.runs(row)})")
    return (_pretrain if row.is_pretraining else _study)(row, place, end)


def _minutes_to(end: float) -> float | None:
    return max((end - time.monotonic()) / 60, 1e-9) if end < float("inf") else None


# ---------------------------------------------------------------------------------------------------------------------
# Rows of accuracies


def _study(row: Row, place: Place, end: float) -> tuple[bool, bool]:
    stages: list[dict[str, Any]] = [{**row.fields, "recipe": row.recipe}]
    if row.pretraining:
        start = known.row(row.pretraining)
        epochs = read_config(place.runs(start) / "run").epochs
        before = {**start.fields, "recipe": start.recipe, "data": start.data, "epochs": epochs}
        stages = [before, {**stages[0], "start_from": "{previous}"}]
        _lay_in(place.runs(start) / "run", [cell_folder(place.runs(row), row.id, s) / "1" for s in place.seeds])
    base = replace(recipe(row.recipe), data=place.data_of(row))
    study = Study(row.id, row.name, base, {row.id: stages}, {"": Size(place.seeds, ALL_OF_TRAIN)})
    ended = run_study(
        study,
        place.runs(row),
        retry_failed=place.retry_failed,
        max_minutes=_minutes_to(end),
        console=place.console,
        command=place.command,
    )
    curves = {}
    for seed in place.seeds:
        if cell := read_cell(place.runs(row), row.id, seed):
            curves[str(seed)] = [curve(stage["epochs"]) for stage in cell.stages]
    note = data_note(base.data) if place.data else ""
    write_json(
        place.out / "results" / f"{row.id}.json",
        {**ended.found, "schema": SCHEMA, "row": row.id, "data": row.data, "note": note, "curves": curves},
    )
    return not ended.left, ended.interrupted


def _lay_in(run: Path, folders: list[Path]) -> None:
    """The finished pre-training as the first stage of each cell: weights and configuration, the result last."""
    for folder in folders:
        if not (folder / "result.json").exists():  # of a whole run: it is written here only
            make_folder(folder)
            for name in ("best.safetensors", "config.json", "result.json"):
                write_bytes(folder / name, (run / name).read_bytes())


# ---------------------------------------------------------------------------------------------------------------------
# Rows of pre-training


def _pretrain(row: Row, place: Place, end: float) -> tuple[bool, bool]:
    held = claim(place.runs(row))
    if held is None:
        place.say(f"{row.id}: another process works on it")
        return False, False
    at = place.runs(row) / "run"
    with held:
        resume = (at / "config.json").exists()
        if resume and place.pretrain_epochs not in (None, begun := read_config(at).epochs):
            raise RunFolderError(
                f"{row.id} was begun in {at} with {begun} epochs, not {place.pretrain_epochs}; go on without "
                "--pretrain-epochs, or name another folder"
            )
        data = place.data_of(row)
        base = replace(recipe(row.recipe), data=data)
        study = Study(row.id, row.name, base, {row.id: row.fields}, {"": Size((0,))})
        _, _, changes = stage_run(study, ALL_OF_TRAIN, row.fields, 0, "", place.pretrain_epochs)
        with (place.runs(row) / "log.txt").open("a", encoding="utf-8") as log:
            outcome = train(
                None if resume else base,
                out=at,
                data=data,
                resume=resume,
                overwrite=not resume,
                max_minutes=_minutes_to(end),
                console=Console(file=log, width=120),
                command=place.command,
                **({} if resume else changes),
            )
        rows = outcome.result.epochs if outcome.result else MetricsFile(at / "metrics.csv").rows()
        write_json(
            place.out / "results" / f"{row.id}.json",
            public(
                {
                    "schema": SCHEMA,
                    "row": row.id,
                    "data": row.data,
                    "note": data_note(data) if place.data else "",
                    "finished": outcome.finished,
                    "epochs": read_config(at).epochs,
                    "epochs_run": len(rows),
                    "parameters": _encoder_parameters(at),
                    "last": rows[-1] if rows else {},
                    "curves": {"0": [curve(rows)]},
                    "run": _kept(outcome.result if outcome.finished else None),
                },
                {str(place.out.absolute()): place.out.name, data: Path(data).name},
            ),
        )
    return outcome.finished, outcome.interrupted


def _encoder_parameters(at: Path) -> int:
    """Without the decoder, which is left behind, and without a head."""
    weights = load_weights(at / "last.safetensors").weights
    return sum(t.numel() for name, t in weights.items() if name.startswith("encoder."))


def _kept(result: RunResult | None) -> dict[str, Any]:
    return {name: getattr(result, name) for name in (*KEPT, "minutes", "images_per_s")} if result else {}


# ---------------------------------------------------------------------------------------------------------------------


def curve(rows: list[dict[str, Any]]) -> dict[str, list]:
    """The training figures of at most POINTS epochs, evenly spaced, the last one among them."""
    step = max(1, -(-len(rows) // POINTS))
    rows = rows[::-1][::step][::-1]
    names = [name for name in (rows[0] if rows else {}) if name == "epoch" or name.startswith("train_")]
    return {name: [_short(row.get(name)) for row in rows] for name in names}


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def data_note(folder: str) -> str:
    """What must be said of a data set in picture files: how many of its training pictures are stored with losses."""
    train = Path(folder) / "train"
    files = [p.suffix.lower() for p in (train if train.is_dir() else Path(folder)).rglob("*") if p.is_file()]
    lossy = sum(suffix in (".jpg", ".jpeg") for suffix in files)
    return f"{lossy:,} of {len(files):,} training pictures are JPEG files" if lossy else ""

"""Runs the cells of a study in a folder that any number of processes and machines may share.

    OUT/plan.json                     the study and the epochs of each stage (plan.py)
    OUT/cells/ARM/seed-N/cell.json    a finished or failed cell: it never runs again
    OUT/cells/ARM/seed-N/1, 2, ...    run folders of its stages; log.txt holds their messages
    OUT/study.json, table.md, chart.png   the results of the cells (report.py)

All arms run with one seed before the next seed starts, so that an unfinished study can be compared seed by seed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, UnknownNameError
from ..recipes.planning import whole
from ..streams import console as words_console
from .cell import CellRun
from .claim import claim
from .definition import Stage, Study
from .plan import make_plan
from .report import Cell, cell_folder, read_cell, rebuild, require_cells
from .trials import with_choices

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Ended:
    """The outcome of a call.

    `found`: the content of study.json. `left`: number of cells of this call that have not ended. `elsewhere`: number of
    cells run by other processes. `failed`: number of failed cells of the study.
    """

    found: dict[str, Any]
    left: int
    elsewhere: int
    failed: int
    interrupted: bool


def run_study(
    study: Study,
    out: str | Path,
    *,
    size: str | None = None,
    data: str | Path | None = None,
    arms: Sequence[str] = (),
    epochs: Mapping[str, int] | None = None,
    seeds: tuple[int, ...] | None = None,
    minutes: float | None = None,
    shard: str | None = None,
    retry_failed: bool = False,
    max_minutes: float | None = None,
    trials: str | Path | None = None,
    plan_only: bool = False,
    console: Console | None = None,
    command: str = "feathervit.studies.cells.run_study(...)",
) -> Ended:
    """Runs the cells of `study` that have not ended and are not claimed by other processes.

    - `size`: one of the sizes of the study (None: the first).
    - `data`: a name or a folder that replaces the recipe's data. If the arms name their datasets, it is a folder with one
      folder per dataset, and arms with a missing dataset are skipped.
    - `arms`: run only these arms, in this order, and the arms that they start from.
    - `epochs`: arm -> epochs that replace the recipe's.
    - `seeds`, `minutes`: replace those of the size.
    - `shard` "i/n": run only the i-th of n parts of the cells, i from 1.
    - `retry_failed`: run failed cells again.
    - `max_minutes`: stop after that time, and save the state of the running cell.
    - `trials`: the study.json of the trials, required if arms have candidates.
    - `plan_only`: run no cells, and only fix their epochs.

    A cell whose run raises a FeatherVitError is recorded as failed, and the study continues. DataError and RunFolderError are
    faults of the machine and end the call. Raises ConfigError for invalid arguments.
    """
    console = console or words_console()

    def say(text: str) -> None:
        console.print(text, emoji=False, markup=False, highlight=False, soft_wrap=True)

    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"max_minutes must be above 0, got {max_minutes}")
    name = next(n for n, s in study.sizes.items() if s is study.size(size))
    changes = ({"seeds": seeds} if seeds else {}) | (
        {"minutes": minutes, "epochs": None} if minutes is not None else {}
    )
    once = study.shared()
    study = study.only(arms or study.size(size).arms or tuple(study.arms))
    study, tried = with_choices(study, Path(trials) if trials is not None else None)
    study = replace(
        study,
        arms={arm: _lengthened(study, arm, (epochs or {}).get(arm)) for arm in study.arms},
        sizes={name: replace(study.size(size), **changes)},
    )
    if unknown := sorted(set(epochs or {}) - set(study.arms)):
        raise UnknownNameError("arm", unknown[0], study.arms)
    if data is not None:
        study = _with_data(study, data, say)
    out = Path(out)
    require_cells(out)
    first, *others = study.size(name).seeds
    cells = [(arm, seed) for seed in (first, *others) for arm in study.arms if seed == first or arm not in once]
    cells = _part(cells, shard) if shard else cells
    plan = make_plan(study, name, out, command, say, tried)
    cells = [(arm, plan.seeds[0] if arm in once else seed) for arm, seed in cells]
    end = time.monotonic() + (60 * max_minutes if max_minutes is not None else float("inf"))

    elsewhere, begun, interrupted = 0, 0, False
    for number, (arm, seed) in enumerate([] if plan_only else cells, 1):
        if _ended(out, arm, seed, retry_failed):
            continue
        if begun and time.monotonic() > end:  # only after the first cell, so that each call makes progress
            break
        waits = any(not _ended(out, needed, plan.seeds[0], False) for needed in study.needs(arm))
        if waits:  # a cell that it starts from has not ended
            continue
        owned = claim(cell_folder(out, arm, seed))
        if owned is None:
            elsewhere += 1
            continue
        with owned:
            if _ended(out, arm, seed, retry_failed):  # another process has ended it in the meantime
                continue
            say(f"cell {number} of {len(cells)}: {arm}, seed {seed} ({cell_folder(out, arm, seed)})")
            begun += 1
            work = CellRun(study, study.size(name).fields, plan, out, arm, seed, end, command, say)
            if retry_failed:
                work.forget_failure()
            cell = work.run(owned)
            interrupted = work.interrupted
        if cell is not None:
            say(f"  {_words(cell)}")
            rebuild(out)
        if cell is None or interrupted:
            break
    record = rebuild(out)
    left = sum(not _ended(out, arm, seed, False) for arm, seed in cells)
    failed = sum((cell := read_cell(out, arm, seed)) is not None and cell.status == "failed" for arm, seed in cells)
    return Ended(record, left, elsewhere, failed, interrupted)


def _part(cells: list[tuple[str, int]], shard: str) -> list[tuple[str, int]]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"shard must be i/n with i from 1 to n, as in 2/3; got {shard!r}")
    return cells[int(match[1]) - 1 :: int(match[2])]


def _lengthened(study: Study, arm: str, epochs: int | None) -> Any:
    """Returns the stages of an arm, with `epochs` if given. Raises ConfigError if the arm has several stages."""
    stages = study.stages(arm)
    if epochs is None:
        return stages
    if len(stages) > 1 or epochs < 1:
        raise ConfigError(
            f"epochs of {arm} must be at least 1, and the arm must have one stage; got {epochs}, {len(stages)} stages"
        )
    return ({**stages[0], "epochs": epochs},)


def _with_data(study: Study, data: str | Path, say: Callable[[str], None]) -> Study:
    """Returns the study with data of this machine: one dataset for all arms, or a folder of the named datasets.

    Raises DataError if the folder contains none of the datasets.
    """
    named = {arm: [stage["data"] for stage in study.stages(arm) if "data" in stage] for arm in study.arms}
    if not any(named.values()):
        return replace(study, base=replace(study.base, data=whole(str(data))))
    missing = {arm: name for arm, names in named.items() for name in names if not (Path(data) / name).is_dir()}
    for name in dict.fromkeys(missing.values()):
        arms = [arm for arm, own in missing.items() if own == name]
        say(f"skipped, because {data} has no folder {name}: {', '.join(arms)}")
    kept = [arm for arm in study.arms if not {arm, *study.needs(arm)} & set(missing)]
    if not kept:
        raise DataError(f"{data} has no folder {next(iter(missing.values()))}; name the folder that holds the datasets")

    def here(stage: Stage) -> Stage:
        return {**stage, "data": whole(str(Path(data) / stage["data"]))} if "data" in stage else stage

    return replace(study, arms={arm: tuple(map(here, study.stages(arm))) for arm in kept})


def _ended(out: Path, arm: str, seed: int, retry_failed: bool) -> bool:
    cell = read_cell(out, arm, seed)
    return cell is not None and not (retry_failed and cell.status == "failed")


def _words(cell: Cell) -> str:
    if cell.status == "failed":
        return f"failed: {cell.message}"
    figures = [f"{s} top-1 {100 * v:.2f} %" for s in ("val", "test") if (v := cell.figures[f"{s}_top1"]) is not None]
    figures += [f"loss {cell.figures['train_loss']:.5f}"] if cell.figures.get("train_loss") is not None else []
    return f"{'; '.join(figures) or 'done'}; {cell.figures['minutes']:.1f} min"

"""Runs the cells of a study into a folder that any number of processes and machines may share.

    OUT/plan.json                     the study and the epochs of each stage (plan.py)
    OUT/cells/ARM/seed-N/cell.json    an ended cell: it is never run again
    OUT/cells/ARM/seed-N/1, 2, ...    run folders of its stages; log.txt says what they said
    OUT/study.json, table.md, chart.png   what the cells show (report.py)

Seeds come before arms, so that a study that is cut short can still be compared seed by seed.
"""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import load_weights, states
from ..config import RunConfig, from_dict
from ..data import load_data
from ..errors import ConfigError, DataError, FeatherVitError, RunFolderError
from ..evaluation.probe import PATCHES, probe
from ..models import MaskedAutoencoder
from ..models.cost import cost
from ..models.loading import load_model
from ..recipes.planning import planned, whole
from ..results import RunResult, read_result, write_json
from ..training.train import train
from .claim import Claim, claim
from .definition import Study
from .plan import Plan, make_plan, stage_run
from .report import Cell, cell_folder, read_cell, rebuild

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Ended:
    """How a call ended. `left`: cells that this call should have ended and did not, `elsewhere`: of these, cells that
    other processes hold; `failed`: cells of the study whose run failed. `found`: what study.json holds."""

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
    seeds: tuple[int, ...] | None = None,
    minutes: float | None = None,
    shard: str | None = None,
    retry_failed: bool = False,
    max_minutes: float | None = None,
    console: Console | None = None,
    command: str = "feathervit.studies.cells.run_study(...)",
) -> Ended:
    """Runs the cells of `study` that have not ended and that no other process works on.

    `size`: one of the study's sizes (None: its first). `data`: a name or a folder instead of the recipe's. `seeds` and
    `minutes` replace the size's. `shard` "i/n": only the i-th of n parts of the cells, i from 1. `retry_failed`: cells
    that failed start anew. `max_minutes`: stop with the running cell's state saved. A cell whose run raises a
    FeatherVitError is recorded as failed and the study goes on; but DataError and RunFolderError, which say that this
    place lacks something, end the call. Raises ConfigError too.
    """
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, emoji=False, markup=False, highlight=False, soft_wrap=True)

    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"max_minutes must be above 0, got {max_minutes}")
    name = next(n for n, s in study.sizes.items() if s is study.size(size))
    changes = ({"seeds": seeds} if seeds else {}) | (
        {"minutes": minutes, "epochs": None} if minutes is not None else {}
    )
    chosen = study.size(size).arms or study.arms
    study = replace(
        study,
        arms={arm: study.arms[arm] for arm in chosen},
        sizes={name: replace(study.size(size), **changes)},
    )
    if data is not None:
        study = replace(study, base=replace(study.base, data=whole(str(data))))
    out = Path(out)
    cells = [(arm, seed) for seed in study.size(name).seeds for arm in study.arms]
    cells = _part(cells, shard) if shard else cells
    plan = make_plan(study, name, out, command, say)
    end = time.monotonic() + (60 * max_minutes if max_minutes is not None else float("inf"))

    elsewhere, begun, interrupted = 0, 0, False
    for number, (arm, seed) in enumerate(cells, 1):
        if _ended(out, arm, seed, retry_failed):
            continue
        if begun and time.monotonic() > end:  # every call gets on, however short
            break
        held = claim(cell_folder(out, arm, seed))
        if held is None:
            elsewhere += 1
            continue
        with held:
            if _ended(out, arm, seed, retry_failed):  # by the process that held it until now
                continue
            say(f"cell {number} of {len(cells)}: {arm}, seed {seed} ({cell_folder(out, arm, seed)})")
            begun += 1
            work = _CellRun(study, study.size(name).fields, plan, out, arm, seed, end, command)
            if retry_failed:
                work.forget_failure()
            cell = work.run(held)
            interrupted = work.interrupted
        if cell is not None:
            say(f"  {_words(cell)}")
            rebuild(out)
        if cell is None or interrupted:
            break
    found = rebuild(out)
    left = sum(not _ended(out, arm, seed, False) for arm, seed in cells)
    failed = sum(cell["status"] == "failed" for cell in found["cells"])
    return Ended(found, left, elsewhere, failed, interrupted)


def _part(cells: list[tuple[str, int]], shard: str) -> list[tuple[str, int]]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"shard must be i/n with i from 1 to n, as in 2/3; got {shard!r}")
    return cells[int(match[1]) - 1 :: int(match[2])]


def _ended(out: Path, arm: str, seed: int, retry_failed: bool) -> bool:
    cell = read_cell(out, arm, seed)
    return cell is not None and not (retry_failed and cell.status == "failed")


def _words(cell: Cell) -> str:
    if cell.status == "failed":
        return f"failed: {cell.message}"
    figures = [f"{s} top-1 {100 * v:.2f} %" for s in ("val", "test") if (v := cell.figures[f"{s}_top1"]) is not None]
    return f"{'; '.join(figures) or 'done'}; {cell.figures['minutes']:.1f} min"


class _CellRun:
    """One cell, from wherever it was left."""

    def __init__(self, study: Study, fields: Any, plan: Plan, out: Path, arm: str, seed: int, end: float, command: str):
        self.study, self.fields, self.plan, self.end, self.command = study, fields, plan, end, command
        self.out, self.arm, self.seed, self.folder = out, arm, seed, cell_folder(out, arm, seed)
        self.interrupted = False

    def forget_failure(self) -> None:
        """Lets a failed cell begin again after its last stage that was finished."""
        cell = read_cell(self.out, self.arm, self.seed)
        if cell is None:
            return
        for state in states(self.folder / str(len(cell.stages) + 1)):
            state.unlink()
        (self.folder / "cell.json").unlink()

    def run(self, held: Claim) -> Cell | None:
        """The cell, written; None where it was stopped before its end."""
        stages = self.study.stages(self.arm)
        cell = Cell(self.arm, self.seed, "finished", self.plan.arms[self.arm])
        results: list[RunResult] = []
        try:
            for number in range(1, len(stages) + 1):
                result = self._stage(number)
                if result is None or (self.interrupted and number < len(stages)):
                    return None
                results.append(result)
            cell.figures = figures(results, self.folder / str(len(stages)))
        except (DataError, RunFolderError):
            raise  # of the place it ran in, not of the arm: to be mended, and run again
        except (FeatherVitError, RuntimeError, ValueError) as error:  # also no memory on the device
            cell.status, cell.message = "failed", " ".join(str(error).split())
        cell.stages = [asdict(result) for result in results]
        if held.mine:
            write_json(self.folder / "cell.json", cell)
        return cell

    def _stage(self, number: int) -> RunResult | None:
        from rich.console import Console

        at = self.folder / str(number)
        if (at / "result.json").exists() and (ended := read_result(at / "result.json")).finished:
            return ended
        stage = self.study.stages(self.arm)[number - 1]
        previous = str((self.folder / str(number - 1)).absolute())
        epochs = self.plan.epochs[self.arm][number - 1]
        base, data, changes = stage_run(self.study, self.fields, stage, self.seed, previous, epochs)
        resume = bool(states(at))  # then the run itself compares the data
        if not resume:
            self._require_same_data(planned(base, None, data, changes)[0])
        minutes = (self.end - time.monotonic()) / 60
        try:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
                outcome = train(
                    None if resume else base,
                    out=at,
                    data=data,
                    resume=resume,
                    overwrite=not resume,
                    max_minutes=max(minutes, 1e-9) if minutes < float("inf") else None,
                    console=Console(file=log, width=120),
                    command=self.command,
                    **({} if resume else changes),
                )
        except OSError as error:
            raise RunFolderError(
                f"cannot write into {self.folder}: {error.strerror or error}; it must be writable and have room"
            ) from error
        self.interrupted = outcome.interrupted
        return outcome.result if outcome.finished else None

    def _require_same_data(self, config: RunConfig) -> None:
        """Raises RunFolderError where an ended cell's run that read the same data in the same way saw other pictures."""

        def way(config: RunConfig) -> tuple:
            return (
                Path(config.data).name,
                config.reading,
                config.img_size,
                replace(config.images, scale=None),  # found by the run
                config.split,
                config.objective,
            )

        for arm, seed in itertools.product(self.plan.arms, self.plan.seeds):
            cell = read_cell(self.out, arm, seed)
            for stage in cell.stages if cell else ():
                if way(from_dict(RunConfig, stage["config"])) != way(config):
                    continue
                data = load_data(
                    config.data,
                    img_size=config.img_size,
                    images=config.images,
                    reading=config.reading,
                    split=config.split,
                    labelled=config.objective != "reconstruction",
                )
                if data.train.fingerprint() != stage["data"]["fingerprint"]:
                    raise RunFolderError(
                        f"the data has changed since the cell {arm}, seed {seed} ended ({config.data}: other files, labels "
                        "or pixels); bring it back, or name another folder for a new study"
                    )
                return


def figures(results: list[RunResult], last: Path) -> dict[str, Any]:
    """What a cell shows: accuracies, size and speed of its last stage's model, in `last`; minutes of all stages.

    A cell that ends with pre-training is scored by probes of its frozen features, on the mean of the patch tokens: its
    accuracy is the linear one's, "knn_top1" the nearest neighbours'.
    """
    result = results[-1]
    stored = load_weights(last)
    model = load_model(stored, last)
    if isinstance(model, MaskedAutoencoder):
        probed = probe(last)
        accuracies = {"val_top1": None, "test_top1": None, "knn_top1": probed["tokens"][PATCHES]["knn"]["top1"]}
        accuracies[f"{probed['split']}_top1"] = probed["tokens"][PATCHES]["linear"]["top1"]
        model = model.encoder
    else:
        accuracies = {f"{split}_top1": (getattr(result, split) or {}).get("top1") for split in ("val", "test")}
    found = cost(model, stored.config.img_size, stored.in_chans)
    return {
        **accuracies,
        "parameters": found.parameters,
        "macs": found.macs,
        "minutes": sum(r.minutes or 0 for r in results),
        "images_per_s": result.images_per_s,
        "epochs": [len(r.epochs) for r in results],
    }

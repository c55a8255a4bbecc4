"""Runs one cell of a study: trains its stages and computes its results."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from ..checkpoint import load_weights, states
from ..config import RunConfig, from_dict
from ..data import load_run_data
from ..data.loader import Sampler
from ..errors import ConfigError, DataError, FeatherVitError, RunFolderError, explained
from ..evaluation.confusion import macro_accuracy
from ..evaluation.evaluate import evaluate
from ..evaluation.probe import PATCHES, probe
from ..models import MaskedAutoencoder
from ..models.cost import cost
from ..models.loading import load_model
from ..recipes.planning import planned
from ..results import RunResult, read_result, write_json
from ..training.train import train
from .claim import Claim
from .definition import Study
from .plan import Plan, stage_run
from .report import Cell, cell_folder, read_cell, training_figures


class _Log:
    """Writes the log of a cell, as a file for rich. Also passes lines that start with "epoch " to `say`."""

    def __init__(self, file: TextIO, say: Callable[[str], None]):
        self.file, self.say, self.line = file, say, ""

    def write(self, text: str) -> int:
        self.file.write(text)
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if line.startswith("epoch "):
                self.say(f"  {line}")
        return len(text)

    def flush(self) -> None:
        self.file.flush()


@dataclass
class CellRun:
    """Runs one cell, or resumes a stopped cell."""

    study: Study
    fields: Any
    plan: Plan
    out: Path
    arm: str
    seed: int
    end: float
    command: str
    say: Callable[[str], None]
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.folder = cell_folder(self.out, self.arm, self.seed)
        self.needed = {name: read_cell(self.out, name, self.plan.seeds[0]) for name in self.study.needs(self.arm)}

    def forget_failure(self) -> None:
        """Removes the record of a failure, so that the cell restarts after its last finished stage."""
        cell = read_cell(self.out, self.arm, self.seed)
        if cell is None:
            return
        for state in states(self.folder / str(len(cell.stages) + 1)):
            state.unlink()
        (self.folder / "cell.json").unlink()

    def run(self, held: Claim) -> Cell | None:
        """Runs the cell and writes its record. Returns None if it was stopped early."""
        stages = self.study.stages(self.arm)
        cell = Cell(self.arm, self.seed, "finished", self.plan.arms[self.arm])
        results: list[RunResult] = []
        try:
            if failed := [name for name, own in self.needed.items() if own.status == "failed"]:
                raise ConfigError(f"it starts from {failed[0]}, which failed")
            for number in range(1, len(stages) + 1):
                result = self._stage(number)
                if result is None or (self.interrupted and number < len(stages)):
                    return None
                results.append(result)
            published = self.study.published.get(self.arm)
            probed = published is None or published.figure != "train_loss"
            cell.figures = figures(results, self.folder / str(len(stages)), probed, self.study.flip)
            for own in self.needed.values():  # include the arms that it starts from
                cell.figures["minutes"] += own.figures["minutes"]
                for name in ("epochs", "steps"):
                    cell.figures[name] = [*own.figures[name], *cell.figures[name]]
            cell.note = data_note(results[-1].config["data"])
        except (DataError, RunFolderError):
            raise  # a fault of the machine, not of the arm, so the cell can run later
        except (FeatherVitError, RuntimeError, ValueError) as error:  # also out of memory on the device
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
        folders = {"previous": str((self.folder / str(number - 1)).absolute())}
        for name in self.needed:
            last = len(self.plan.arms[name])
            folders[name] = str((cell_folder(self.out, name, self.plan.seeds[0]) / str(last)).absolute())
        epochs = self.plan.epochs[self.arm][number - 1]
        base, data, changes = stage_run(self.study, self.fields, stage, self.seed, folders, epochs)
        resume = bool(states(at))  # a resumed run compares the data itself
        if not resume:
            self._require_same_data(planned(base, None, data, changes)[0])
        minutes = (self.end - time.monotonic()) / 60
        with (
            explained(f"cannot write into {self.folder}", "it must be writable and have room"),
            (self.folder / "log.txt").open("a", encoding="utf-8") as log,
        ):
            outcome = train(
                None if resume else base,
                out=at,
                data=data,
                resume=resume,
                overwrite=not resume,
                max_minutes=max(minutes, 1e-9) if minutes < float("inf") else None,
                console=Console(file=_Log(log, self.say), width=120),
                command=self.command,
                **({} if resume else changes),
            )
        self.interrupted = outcome.interrupted
        return outcome.result if outcome.finished else None

    def _require_same_data(self, config: RunConfig) -> None:
        """Raises RunFolderError if the data has changed since an earlier run with the same split.

        For another image size, only sources and labels are compared.
        """

        def split(config: RunConfig) -> tuple:
            return Path(config.data).name, config.reading, config.split, config.objective

        def size(config: RunConfig) -> tuple:
            return config.img_size, replace(config.images, scale=None)  # the run determines the scale

        now: dict[str, Any] = {}
        for arm, seed in itertools.product(self.plan.arms, self.plan.seeds):
            cell = read_cell(self.out, arm, seed)
            for stage in cell.stages if cell else ():
                earlier, known = from_dict(RunConfig, stage["config"]), stage["data"]
                if split(earlier) != split(config):
                    continue
                names = ("fingerprints", "fingerprint") if size(earlier) == size(config) else ("sources",)
                stored = next((name for name in names if name in known), None)  # old cells have "fingerprint" only
                if stored is None:
                    continue
                if not now:
                    data = load_run_data(config)
                    now = {"fingerprints": data.fingerprints(), "sources": data.fingerprints(pixels=False)}
                    now["fingerprint"] = now["fingerprints"]["train"]
                if known[stored] != now[stored]:
                    raise RunFolderError(
                        f"the data has changed since the cell {arm}, seed {seed} ended ({config.data}: other files, labels "
                        "or pixels); restore it, or name another folder for a new study"
                    )


def figures(results: list[RunResult], last: Path, probed: bool = True, flip: bool = False) -> dict[str, Any]:
    """Returns the results of a cell: accuracy, size and speed of the model of its last stage, and minutes of all stages.

    `last`: the run folder of the last stage. `flip`: also return "flip_test_top1", the accuracy with logits averaged over
    each image and its mirror image. "val_macro" and "test_macro" are present if the sizes of the classes differ by more than
    3 to 1.

    A cell that ends with pre-training has the losses of the saved epoch. If `probed`, it also has accuracies on its frozen
    features, the mean of the patch tokens: of a linear probe, and "knn_top1" of nearest neighbours.
    """
    result = results[-1]
    stored = load_weights(last)
    model = load_model(stored, last)
    if isinstance(model, MaskedAutoencoder):
        accuracies = {"val_top1": None, "test_top1": None, **training_figures(result.best)}
        if probed:
            found = probe(last)
            accuracies["knn_top1"] = found["tokens"][PATCHES]["knn"]["top1"]
            accuracies[f"{found['split']}_top1"] = found["tokens"][PATCHES]["linear"]["top1"]
        model = model.encoder
    else:
        accuracies = {f"{split}_top1": (getattr(result, split) or {}).get("top1") for split in ("val", "test")}
        for split in ("val", "test"):
            if (metrics := getattr(result, split)) and macro_accuracy(metrics):
                accuracies[f"{split}_macro"] = metrics["balanced_accuracy"]
        if flip and result.test:
            accuracies["flip_test_top1"] = evaluate(last, split="test", flip=True)[1].top1
    found = cost(model, stored.config.img_size, stored.in_chans)
    return {
        **accuracies,
        "parameters": found.parameters,
        "macs": found.macs,
        "minutes": sum(r.minutes or 0 for r in results),
        "images_per_s": result.images_per_s,
        "epochs": [len(r.epochs) for r in results],
        "steps": [_steps(r) for r in results],
    }


def _steps(result: RunResult) -> int:
    config = from_dict(RunConfig, result.config)
    sampler = Sampler(result.data["n_train"], config.batch_size, 0, repeats=config.augment.repeats)
    return len(result.epochs) * sampler.steps_per_epoch


def data_note(folder: str) -> str:
    """Returns a note on the number of training images that are JPEG files, which lose detail, or "" if there are none."""
    train = Path(folder) / "train"
    files = [path.suffix.lower() for path in (train if train.is_dir() else Path(folder)).rglob("*") if path.is_file()]
    lossy = sum(suffix in (".jpg", ".jpeg") for suffix in files)
    return f"{lossy:,} of {len(files):,} training images are JPEG files" if lossy else ""

"""Logs runs to experiment trackers: TensorBoard, Weights & Biases, MLflow.

Each tracker receives the rows of metrics.csv, the configuration and the report. All trackers can work offline. TensorBoard's
events are in the run folder. W&B is offline with WANDB_MODE=offline; MLflow is offline unless MLFLOW_TRACKING_URI names a
server. A resumed run continues the same record; trackers.json in the run folder stores the identifiers. A step of a tracker is
an epoch.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, explained
from ..files import write_bytes

IDENTIFIERS = "trackers.json"


class Tracker(Protocol):
    """Logs one run to one tracker."""

    def write(self, figures: Mapping[str, float], epoch: int) -> None:
        """Logs the metrics of an epoch."""

    def report(self, page: Path) -> None:
        """Logs the report of a finished run."""

    def close(self, finished: bool) -> None:
        """Closes the record. `finished`: whether the run reached its end."""


class Trackers:
    """Logs a run to the trackers in `log`. Raises ConfigError if an extra is missing."""

    def __init__(self, log: Sequence[str], folder: Path):
        self.log, self.folder = tuple(dict.fromkeys(log)), folder
        self.trackers: list[Tracker] = []
        self.finished = False
        for name in self.log:
            if importlib.util.find_spec(name) is None:
                raise ConfigError(f"--log {name} needs {name}: pip install 'feathervit[{name}]', or leave it out")

    def start(self, config: Mapping[str, Any]) -> None:
        """Starts or continues the records. Raises ConfigError if a tracker does not start."""
        for name in self.log:
            try:
                self.trackers.append(KINDS[name](self.folder, config))
            except Exception as error:  # the type of error depends on the tracker and its server
                self.close()
                why = " ".join(str(error).split())[:300]
                raise ConfigError(f"--log {name} does not start: {why}; {HINTS[name]}, or leave it out") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs one row of metrics.csv. Skips cells that are not numbers."""
        figures = {name: value for name, value in row.items() if name != "epoch" and isinstance(value, (int, float))}
        for tracker in self.trackers:
            tracker.write(figures, row["epoch"])

    def report(self, page: Path) -> None:
        """Logs report.html, if it exists."""
        for tracker in self.trackers if page.exists() else ():
            tracker.report(page)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close(self.finished)


class TensorBoard:
    """Writes events to tensorboard/ in the run folder, with the charts of the report, because it does not store artifacts.

    A resumed run appends events. TensorBoard hides the earlier metrics of repeated epochs. Raises RunFolderError if the
    folder is not writable.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.folder, self.config, self.epoch = folder / "tensorboard", config, 0
        self._writer: Any = None

    def write(self, figures: Mapping[str, float], epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.epoch = epoch
        with explained(f"cannot write into {self.folder}", "it must be writable and have room"):
            if self._writer is None:
                self._writer = SummaryWriter(self.folder, purge_step=epoch)
                self._writer.add_text("config", f"```json\n{json.dumps(self.config, indent=1)}\n```", epoch)
            for name, value in figures.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()

    def report(self, page: Path) -> None:
        import numpy as np
        from PIL import Image

        for path in sorted((page.parent / "report").glob("*.png")) if self._writer else ():
            with Image.open(path) as chart:
                self._writer.add_image(
                    f"report/{path.stem}", np.asarray(chart.convert("RGB")), self.epoch, dataformats="HWC"
                )

    def close(self, finished: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB:
    """Logs a run to Weights & Biases, in the project "feathervit" (or WANDB_PROJECT), named after the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "feathervit"),
            name=folder.resolve().name,
            id=_known(folder).get("wandb"),
            resume="allow",
            dir=folder,
            config=dict(config),
            settings=wandb.Settings(silent=True),
        )
        _remember(folder, wandb=self.run.id)

    def write(self, figures: Mapping[str, float], epoch: int) -> None:
        self.run.log(dict(figures), step=epoch)

    def report(self, page: Path) -> None:
        self.run.log_artifact(str(page), name=f"report-{self.run.id}", type="report")

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class MLflow:
    """Logs a run to MLflow, named after the run folder, at MLFLOW_TRACKING_URI or the default location of MLflow."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        from mlflow import MlflowClient

        self.client = MlflowClient()
        self.id = _known(folder).get("mlflow")
        if self.id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "feathervit")
            existing = self.client.get_experiment_by_name(name)
            experiment = existing.experiment_id if existing else self.client.create_experiment(name)
            self.id = self.client.create_run(experiment, run_name=folder.resolve().name).info.run_id
            _remember(folder, mlflow=self.id)
        self.client.update_run(self.id, "RUNNING")
        self.client.log_dict(self.id, dict(config), "config.json")

    def write(self, figures: Mapping[str, float], epoch: int) -> None:
        for name, value in figures.items():
            self.client.log_metric(self.id, name, value, step=epoch)

    def report(self, page: Path) -> None:
        self.client.log_artifact(self.id, str(page))

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


KINDS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
HINTS = {
    "tensorboard": "install it again",
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline",
    "mlflow": "check MLFLOW_TRACKING_URI",
}


def _known(folder: Path) -> dict[str, str]:
    """Returns the identifiers of the records of a run, by tracker."""
    path = folder / IDENTIFIERS
    return json.loads(path.read_text()) if path.exists() else {}


def _remember(folder: Path, **identifier: str) -> None:
    """Stores an identifier in the run folder, so that a resumed run continues the record."""
    write_bytes(folder / IDENTIFIERS, json.dumps(_known(folder) | identifier).encode())

"""Writes and restores the training state and the weights files of a run.

A training state is complete, so that a killed and resumed run ends with the same weights. On the CPU they are equal bit for
bit, with the same versions of torch and number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Checkpoint, drop_state, load_state, save_state, save_weights, states
from ..config import RunConfig, from_dict
from ..errors import CheckpointError, ConfigError, RunFolderError
from .progress import Progress
from .records import MetricsFile
from .trainer import Trainer

CHECKPOINT_SECONDS = 120.0  # time between two states inside a long epoch
SHORT_EPOCH_SECONDS = 2.0  # no state at the end of an epoch within this time after the last state
WRITING_SHARE = 0.01  # maximum share of the time for writing states, within the two limits above


class RunState:
    """Holds what a run folder needs to resume: the state of `trainer`, its best weights, and the length of `metrics`.

    `identity`: facts stored with each state. A resumed run compares data, PyTorch, threads and shares with its own, and keeps
    the commands.
    """

    def __init__(self, trainer: Trainer, folder: Path, identity: dict[str, Any], metrics: MetricsFile):
        self.trainer, self.folder, self.identity, self.metrics = trainer, folder, identity, metrics
        self.best: dict[str, Tensor] = {}  # weights of the best epoch so far, on the CPU
        self.best_written = True  # whether best.safetensors contains `best`
        self.saved_step = 0  # number of steps at the last state
        self.saved_at = time.monotonic()
        self.saving_seconds = 0.0  # duration of writing the last state

    def due(self, epoch_ended: bool) -> bool:
        """Returns whether to save now, in or after an epoch."""
        short = min(max(SHORT_EPOCH_SECONDS, self.saving_seconds / WRITING_SHARE), CHECKPOINT_SECONDS)
        return time.monotonic() - self.saved_at > (short if epoch_ended else CHECKPOINT_SECONDS)

    def keep_best(self) -> None:
        """Keeps the current weights as the best. The next state writes them."""
        self.best = {k: v.to("cpu", copy=True) for k, v in self.trainer.kept.state_dict().items()}
        self.best_written = False

    def save(self) -> None:
        """Writes the training state. Its sums include all processes; the first process restores them."""
        trainer = self.trainer
        sums = trainer.group.add(trainer.sums)
        started = self.saved_at = time.monotonic()
        self.saved_step = trainer.progress.step
        if not trainer.group.is_main:
            return
        if self.best and not self.best_written:
            self.save_weights("best", self.best)
            self.best_written = True
        self.metrics.sync()  # so that the state is never ahead of the file
        tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
        tensors |= flatten_optimizer(trainer.optimizer)
        tensors |= {f"ema.{k}": v for k, v in trainer.averaged.state_dict().items()} if trainer.ema else {}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors["sums"] = sums
        meta = {"progress": asdict(trainer.progress), "scaler": trainer.scaler.state_dict(), **self.identity}
        save_state(self.folder, tensors, meta)
        self.saved_at = time.monotonic()
        self.saving_seconds = self.saved_at - started

    def save_weights(self, name: str, weights: dict[str, Tensor]) -> None:
        """Writes a weights file, in the first process only."""
        if not self.trainer.group.is_main:
            return
        config, train = self.trainer.config, self.trainer.data.train
        names = () if config.objective == "reconstruction" else train.class_names
        save_weights(self.folder / f"{name}.safetensors", Checkpoint(config, names, train.images.shape[1], weights))

    def resume(self, note: Callable[[str], None]) -> None:
        """Restores the last valid state of the folder.

        Raises RunFolderError if the data has changed, and CheckpointError if no state is valid or belongs to this run.
        """
        group = self.trainer.group
        if not states(self.folder):
            note("the run stopped before its first state: starting from the first step")
            if group.is_main:
                self.metrics.truncate(0)
            return
        tensors, meta, messages = load_state(self.folder)
        for message in messages:
            note(message)
        if messages:  # otherwise the next state would replace the valid state instead of the damaged one
            group.wait()
            if group.is_main:
                drop_state(self.folder)
        if meta.get("data") != self.identity["data"]:
            raise RunFolderError(
                f"the data has changed since the run in {self.folder} stopped ({self.trainer.config.data}: other files, "
                "labels or pixels); restore the data, or start a new run"
            )
        for key in ("torch", "threads", "shares"):
            if meta.get(key) != self.identity[key]:
                note(
                    f"note: the run began with {key} {meta.get(key)}, now {self.identity[key]}: equal only up to rounding"
                )
        self._restore(tensors, meta)
        command = self.identity["command"]
        first = meta.get("command", command)  # states of earlier versions have none
        resumed = dict.fromkeys([*meta.get("resumed", []), command])
        self.identity |= {"command": first, "resumed": [other for other in resumed if other != first]}

    def _restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        trainer, main = self.trainer, self.trainer.group.is_main
        try:
            trainer.model.load_state_dict(_below("model.", tensors))
            if trainer.ema:
                trainer.averaged.load_state_dict(_below("ema.", tensors))
            restore_optimizer(trainer.optimizer, tensors)
            if main:
                trainer.sums.copy_(tensors["sums"])
            trainer.progress = from_dict(Progress, meta["progress"], "progress")
            trainer.progress.check(from_dict(RunConfig, meta["config"]).epochs, trainer.steps_per_epoch)
            self.saved_step = trainer.progress.step
            self.best = _below("best.", tensors)
            if not isinstance(meta["scaler"], dict):
                raise TypeError("scaler must be an object")
            if meta["scaler"]:
                trainer.scaler.load_state_dict(meta["scaler"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"the training state in {self.folder} does not fit the run: {error}") from error
        done = -(-trainer.progress.step // trainer.steps_per_epoch)
        if trainer.config.epochs < done:
            raise RunFolderError(
                f"the run is in epoch {done} already; --epochs must be at least that, got {trainer.config.epochs}"
            )
        if not main:
            return
        self.metrics.truncate(trainer.progress.step // trainer.steps_per_epoch)
        if self.best:  # the file may contain a later epoch than this state
            self.save_weights("best", self.best)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Converts the state of the optimiser to named tensors: "optimizer.3.exp_avg". Numbers become 0-d float64 tensors."""
    out = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            out[f"optimizer.{index}.{key}"] = (
                value if isinstance(value, Tensor) else torch.tensor(float(value)).double()
            )
    return out


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restores the state of the optimiser from the output of `flatten_optimizer`.

    The optimiser must be built from the same configuration. Raises ValueError if a tensor does not match a parameter.
    """
    state: dict[int, dict[str, Tensor]] = {}
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            if key == "use_muon":
                raise ValueError(
                    "the state is of an earlier version of Muon; start a new run from these weights with --from"
                )
            if not 0 <= int(index) < len(shapes) or (tensor.ndim and tensor.shape != shapes[int(index)]):
                raise ValueError(f"{name} of shape {list(tensor.shape)} does not belong to a parameter")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for p, moments in optimizer.state.items():
        for key, value in moments.items():
            if value.shape == p.shape:  # fused kernels require moments with the strides of their parameter
                moments[key] = torch.empty_like(p).copy_(value)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

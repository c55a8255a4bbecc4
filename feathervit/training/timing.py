"""Estimates the duration of a run: times steps and validation of the actual model and batches before training.

Minutes are converted to epochs once. config.json stores the epochs, so that training does not depend on the clock.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..config import RunConfig
from ..data import DataSplits
from ..device import wait
from ..evaluation.inference import BATCH
from .display import duration
from .distributed import Group
from .trainer import Trainer

WARM_STEPS = 2
ROUNDS, ROUND_STEPS = 3, 3
AT_MOST_MINUTES = 10.0  # limit of an adaptive recipe
SHARE = 0.95  # share of the time for epochs; the rest is for states, the final evaluation and the report


@dataclass(frozen=True)
class Timing:
    """Measured seconds of an optimiser step, and of an epoch with its validation."""

    step: float
    epoch: float

    def epochs(self, minutes: float) -> int:
        """Returns the number of epochs that fit into `minutes`; at least one."""
        return max(1, int(SHARE * 60 * minutes / self.epoch))

    def seconds(self, epochs: int) -> float:
        """Returns the time of `epochs` epochs in seconds."""
        return epochs * self.epoch / SHARE

    def line(self, epochs: int) -> str:
        """Returns the line about time for the banner."""
        step_time = f"{1000 * self.step:.0f} ms" if self.step < 1 else f"{self.step:.1f} s"
        total, double = (duration(self.seconds(n)) for n in (epochs, 2 * epochs))
        return (
            f"time       about {total} for {epochs} epochs: on this machine a step takes {step_time} and an epoch "
            f"{duration(self.epoch)}; twice the epochs (--epochs {2 * epochs}) take about {double}"
        )


def measure(
    config: RunConfig,
    data: DataSplits,
    model: nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype,
    note: Callable[[str], None],
    group: Group | None = None,
) -> Timing:
    """Times steps of the resolved `config` on its batches, with a copy of `model`.

    Does not change `model` or the random state, and writes no files. Each process of a group measures; the result is the
    mean. Raises the errors of the trainer.
    """
    group = group or Group()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trainer = Trainer(
            replace(config, on_nonfinite="skip"),
            data,
            copy.deepcopy(model),
            device=device,
            dtype=dtype,
            note=note,
            group=group,
        )
        ahead = trainer.feed.ahead  # on a GPU, batches are made in groups, so a round consists of complete groups
        steps = -(-ROUND_STEPS // ahead) * ahead
        numbers = iter(range(max(WARM_STEPS, ahead) + ROUNDS * steps))

        def several(count: int) -> float:
            started = time.perf_counter()
            for _ in range(count):
                trainer.train_step(next(numbers), 0.0)
            wait(device)
            return time.perf_counter() - started

        several(max(WARM_STEPS, ahead))
        step = statistics.median(several(steps) for _ in range(ROUNDS)) / steps
        epoch = step * trainer.steps_per_epoch + _validation(trainer)
    step, epoch = (group.add(torch.tensor([step, epoch], device=device)) / group.world).tolist()
    return Timing(step, epoch)


def _validation(trainer: Trainer) -> float:
    """Returns the duration of a validation in seconds, estimated from one batch."""
    if trainer.val is None:
        return 0.0
    part = replace(trainer.val, images=trainer.val.images[:BATCH], labels=trainer.val.labels[:BATCH])
    started = time.perf_counter()
    trainer.validate(part)
    wait(trainer.device)
    return (time.perf_counter() - started) * len(trainer.val) / len(part)


@dataclass(frozen=True)
class Budget:
    """The minutes for a run. With `exactly` False, they are a limit: a recipe with fewer epochs keeps its epochs.

    The warm-up keeps its share of the run. With `keep_warmup`, it keeps its number of epochs.
    """

    minutes: float
    exactly: bool = True
    keep_warmup: bool = False

    def fit(self, config: RunConfig, timing: Timing) -> RunConfig:
        """Returns the configuration with the number of epochs that fits into the minutes."""
        epochs = timing.epochs(self.minutes)
        if not self.exactly:
            epochs = min(epochs, config.epochs)
        warmup = config.optim.warmup_epochs * (1 if self.keep_warmup else epochs / config.epochs)
        return replace(config, epochs=epochs, optim=replace(config.optim, warmup_epochs=warmup))

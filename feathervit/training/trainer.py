"""Performs the optimiser steps of a run and measures its model. Writes no files.

All random numbers of step n are a function of (seed, n, rank). Sums for the log stay on the device until they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from ..chance import Chance
from ..config import RunConfig, imbalanced
from ..data import DataSplits, ImageSet
from ..data.augment import Augmenter
from ..data.feed import Feed, fits
from ..data.loader import Sampler
from ..device import autocast, reuse_memory, seed
from ..errors import ConfigError
from ..evaluation.inference import accuracy_and_loss, logits
from ..evaluation.metrics import Metrics, score
from ..evaluation.reconstruction import reconstruction_error
from ..models.fast import accelerate
from .average import MovingAverage
from .compiling import Compiled, choose_compile
from .distributed import Group
from .objectives import balanced_class_weights, build_objective
from .optim import build_optimizer, peak_learning_rate, set_learning_rate
from .progress import Progress
from .teacher import load_teacher


class Trainer:
    """Trains `model` on `data` step by step. `note` prints a message.

    Raises ConfigError for a batch size that does not divide into shares, and for a minimum learning rate above the peak.
    """

    def __init__(
        self,
        config: RunConfig,
        data: DataSplits,
        model: nn.Module,
        *,
        device: torch.device,
        dtype: torch.dtype,
        note: Callable[[str], None],
        group: Group,
    ):
        self.config, self.data, self.device, self.dtype, self.group = config, data, device, dtype, group
        self.samplers = _samplers(config, data.train, group)
        self.steps_per_epoch = self.samplers[0].steps_per_epoch
        mode, self.compile_reason = choose_compile(
            config.compile,
            device,
            parameters=sum(p.numel() for p in model.parameters()),
            steps=config.epochs * self.steps_per_epoch,
            world=group.world,
            accumulate=config.accumulate,
        )
        self.model = model.to(device, memory_format=torch.channels_last)
        if device.type == "cpu":
            reuse_memory()
            accelerate(self.model, dtype)
        self.peak_lr = peak_learning_rate(config, config.batch_size)
        if config.optim.min_lr > self.peak_lr:
            raise ConfigError(
                f"optim.min_lr {config.optim.min_lr:g} is above the peak learning rate {self.peak_lr:.3g}; lower it"
            )
        self.optimizer = build_optimizer(self.model, config)
        classes, weights, teacher = len(data.train.class_names), None, None
        if config.loss.class_weights == "balanced":
            weights = balanced_class_weights(data.train.labels, classes).to(device)
        if config.objective == "distillation":
            teacher = load_teacher(config, data.train.class_names, data.train.images.shape[1])
            teacher = teacher.to(device, memory_format=torch.channels_last)
            if device.type == "cpu":
                accelerate(teacher, dtype)
        objective = build_objective(config, self.model, weights, teacher)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.compiled = Compiled(objective, mode, note, group.any)
        self.objective = group.wrap(self.compiled)
        self.ema = MovingAverage(self.model, config.optim.ema) if config.optim.ema else None
        images = config.images
        augmenter = Augmenter(
            config.augment, config.img_size, classes, images.mean, images.std, config.loss.label_smoothing
        )
        self.feed = Feed(data.train.images, data.train.labels, self.samplers, augmenter, config.seed, device)
        self.val = data.val
        if self.val is not None and fits(self.val.images, device):  # so that validation copies no images
            self.val = replace(self.val, images=self.val.images.to(device), labels=self.val.labels.to(device))
        self.progress = Progress()
        self.skipped_in_a_row = 0
        wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.names = ("loss", *objective.figures)
        # sum of each figure over the images, followed by the number of images
        self.sums = torch.zeros(len(self.names) + 1, device=device, dtype=wide)

    @property
    def averaged(self) -> nn.Module:
        """The model with averaged weights if the run uses averaging, else the model."""
        return self.ema.module if self.ema else self.model

    @property
    def kept(self) -> nn.Module:
        """The model to validate and save: the classifier in joint training, else the full model."""
        return self.averaged.encoder if self.config.objective == "joint" else self.averaged

    def mean_loss(self) -> float:
        """Returns the mean loss of this process in the epoch so far."""
        return (self.sums[0] / self.sums[-1]).item()

    def train_step(self, step: int, lr: float) -> None:
        """Performs one optimiser step. The result is a function of the state and of (seed, step)."""
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        if not self.model.training:  # only after validation, because the traversal of the modules takes time
            self.model.train()
        for micro in range(len(self.samplers)):
            last = micro == len(self.samplers) - 1
            with nullcontext() if last or self.group.world == 1 else self.objective.no_sync():
                finite = self._micro_step(step, micro)
            if not finite:
                self.progress.skipped += 1
                self.skipped_in_a_row += 1
                return
        self.skipped_in_a_row = 0
        if self.config.optim.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(step)

    def _micro_step(self, step: int, micro: int) -> bool:
        """Adds the gradient of one share. Returns False if this or another process skips the step."""
        chance = Chance(self.config.seed, step, self.samplers[micro].rank)
        seed(self.device, chance.number("model"))  # gate noise, dropout, drop path
        x, targets = self.feed.batch(step, micro)
        with autocast(self.device, self.dtype):
            self.compiled.prepare(x, targets)
            loss, figures = self.objective(x, targets)
        if self.config.on_nonfinite == "skip" and self.group.any(not torch.isfinite(loss)):
            return False
        self.scaler.scale(loss / len(self.samplers)).backward()
        n = len(x)
        means = torch.stack([loss.detach(), *figures.values()])
        self.sums[:-1].add_(means, alpha=n)
        self.sums[-1] += n
        self.progress.images += n * self.group.world
        return True

    def validate(self, images: ImageSet) -> dict[str, float]:
        """Returns the validation metrics of an epoch, by their names in metrics.csv."""
        if self.config.objective == "reconstruction":
            return {"val_masked_mse": self.measure(images)["masked_mse"]}
        top1, loss, macro = accuracy_and_loss(self.kept, images, self.config, self.device, self.dtype)
        row = {"val_loss": loss, "val_top1": top1}
        return row | {"val_macro": macro} if imbalanced(images.labels.bincount().tolist()) else row

    def measure(self, images: ImageSet) -> Metrics | dict[str, float]:
        """Returns all metrics of the current weights on an image set: of classification or reconstruction."""
        if self.config.objective == "reconstruction":
            return reconstruction_error(self.kept, images.images, self.config, self.device, self.dtype)
        p_NK = logits(self.kept, images.images, self.config, self.device, self.dtype).softmax(-1)
        return score(p_NK, images.labels, images.class_names)


def _samplers(config: RunConfig, train: ImageSet, group: Group) -> list[Sampler]:
    """Returns one sampler per micro-step of this process."""
    shares = group.world * config.accumulate
    if config.batch_size % shares:
        raise ConfigError(
            f"batch size {config.batch_size} does not divide into {shares} shares ({group.world} processes x "
            f"{config.accumulate} micro-steps)"
        )
    return [
        Sampler(
            len(train),
            config.batch_size // shares,
            config.seed,
            rank=group.rank * config.accumulate + micro,
            world=shares,
            repeats=config.augment.repeats,
            labels=train.labels if config.augment.sampling == "balanced" else None,
        )
        for micro in range(config.accumulate)
    ]

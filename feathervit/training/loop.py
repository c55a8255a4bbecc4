"""Implements the training loop. A `RunConfig` describes a run; the run folder holds its results.

All random numbers of step n are a function of (seed, n, rank). Schedules depend on steps, not on time. A training state is
complete, so that a killed and resumed run ends with the same weights. On the CPU they are equal bit for bit, with the same
versions of torch and number of threads. Sums for the log stay on the device until they are shown.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..chance import Chance
from ..checkpoint import Checkpoint, drop_state, flatten_optimizer, restore_optimizer, save_state, save_weights, states
from ..config import RunConfig, from_dict
from ..data import DataSplits, ImageSet
from ..data.augment import Augmenter
from ..data.feed import Feed, fits
from ..data.loader import Sampler
from ..device import autocast, seed
from ..errors import CheckpointError, ConfigError, DivergedError, RunFolderError
from ..evaluation.confusion import imbalanced
from ..evaluation.inference import accuracy_and_loss, logits
from ..evaluation.metrics import Metrics, score
from ..evaluation.reconstruction import reconstruction_error
from ..models.fast import accelerate
from ..models.moe import starving
from ..plots.reconstructions import write_reconstructions
from .average import MovingAverage
from .compiling import Compiled, choose_compile
from .display import Display, say
from .distributed import Group
from .interrupt import Interrupt
from .objectives import balanced_class_weights, build_objective
from .optim import build_optimizer, learning_rate, peak_learning_rate, set_learning_rate
from .progress import Progress
from .records import MetricsFile
from .teacher import load_teacher
from .trackers import Trackers

if TYPE_CHECKING:
    from rich.console import Console

CHECKPOINT_SECONDS = 120.0  # time between two states inside a long epoch
SHORT_EPOCH_SECONDS = 2.0  # no state at the end of an epoch within this time after the last state
WRITING_SHARE = 0.01  # maximum share of the time for writing states, within the two limits above
CHECK_STEPS = 50  # steps between two checks for a finite loss
STARVED = 0.01  # a warning is printed for an expert with a smaller share of the tokens of an epoch
RECONSTRUCTIONS = 10  # number of reconstruction plots in a pre-training run


class Trainer:
    """Trains `model` on `data`, with results in `folder`. `run` returns True after all epochs, and False if stopped."""

    def __init__(
        self,
        config: RunConfig,
        data: DataSplits,
        model: nn.Module,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        console: Console,
        identity: dict[str, Any],
        max_minutes: float | None,
        group: Group,
    ):
        self.group = group
        self.config, self.data, self.folder, self.console = config, data, folder, console
        self.device, self.dtype, self.identity = device, dtype, identity
        self.max_seconds = math.inf if max_minutes is None else 60 * max_minutes
        self.samplers = self._shares()
        self.steps_per_epoch = self.samplers[0].steps_per_epoch
        mode, self.compile_reason = choose_compile(
            config.compile,
            device,
            parameters=sum(p.numel() for p in model.parameters()),
            steps=config.epochs * self.steps_per_epoch,
            world=self.group.world,
            accumulate=config.accumulate,
        )
        self.model = model.to(device, memory_format=torch.channels_last)
        if device.type == "cpu":
            accelerate(self.model, dtype)
        classes = len(data.train.class_names)
        weights = None
        if config.loss.class_weights == "balanced":
            weights = balanced_class_weights(data.train.labels, classes).to(device)
        self.optimizer = build_optimizer(self.model, config)
        teacher = None
        if config.objective == "distillation":
            teacher = load_teacher(config, data.train.class_names, data.train.images.shape[1]).to(device)
        objective = build_objective(config, self.model, weights, teacher)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.compiled = Compiled(objective, mode, partial(say, console), self.group.any)
        self.objective = self.group.wrap(self.compiled)
        self.ema = MovingAverage(self.model, config.optim.ema) if config.optim.ema else None
        images = config.images
        augmenter = Augmenter(
            config.augment, config.img_size, classes, images.mean, images.std, config.loss.label_smoothing
        )
        self.feed = Feed(data.train.images, data.train.labels, self.samplers, augmenter, config.seed, device)
        self.val = data.val
        if self.val is not None and fits(self.val.images, device):  # so that validation copies no images
            self.val = replace(self.val, images=self.val.images.to(device), labels=self.val.labels.to(device))
        self.peak_lr = peak_learning_rate(config, config.batch_size)
        if config.optim.min_lr > self.peak_lr:
            raise ConfigError(
                f"optim.min_lr {config.optim.min_lr:g} is above the peak learning rate {self.peak_lr:.3g}; lower it"
            )
        self.progress = Progress()
        wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.names = ("loss", *objective.figures)
        # sum of each figure over the images, followed by the number of images
        self.sums = torch.zeros(len(self.names) + 1, device=device, dtype=wide)
        self.metrics = MetricsFile(folder / "metrics.csv")
        self.trackers = Trackers(config.log if self.group.is_main else (), folder)
        self.best: dict[str, Tensor] = {}  # weights of the best epoch so far, on the CPU
        self.warned: set[tuple[str, int]] = set()  # experts with an earlier warning
        self.interrupt = Interrupt()
        self.saved_at = time.monotonic()
        self.saving_seconds = 0.0  # duration of writing the last state
        # number of steps at the last state, and at the last check with a finite loss
        self.saved_step = self.checked_step = self.progress.step
        self.skipped_in_a_row = 0
        self.best_written = True  # whether best.safetensors contains `best`

    def _shares(self) -> list[Sampler]:
        """Returns one sampler per micro-step of this process."""
        config, accumulate = self.config, self.config.accumulate
        shares = self.group.world * accumulate
        if config.batch_size % shares:
            raise ConfigError(
                f"batch size {config.batch_size} does not divide into {shares} shares ({self.group.world} processes x "
                f"{accumulate} micro-steps)"
            )
        return [
            Sampler(
                len(self.data.train),
                config.batch_size // shares,
                config.seed,
                rank=self.group.rank * accumulate + micro,
                world=shares,
                repeats=config.augment.repeats,
                labels=self.data.train.labels if config.augment.sampling == "balanced" else None,
            )
            for micro in range(accumulate)
        ]

    @property
    def averaged(self) -> nn.Module:
        """The model with averaged weights if the run uses averaging, else the model."""
        return self.ema.module if self.ema else self.model

    @property
    def kept(self) -> nn.Module:
        """The model to validate and save: the classifier in joint training, else the full model."""
        return self.averaged.encoder if self.config.objective == "joint" else self.averaged

    # ------------------------------------------------------------------------------------------------------------------
    # State

    def save(self) -> None:
        """Writes the training state. Its sums include all processes; the first process restores them."""
        sums = self.group.add(self.sums)
        started = self.saved_at = time.monotonic()
        self.saved_step = self.progress.step
        if not self.group.is_main:
            return
        if self.best and not self.best_written:
            self.save_weights("best", self.best, self.progress.best_epoch, self._best_figures())
            self.best_written = True
        self.metrics.sync()  # so that the state is never ahead of the file
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()} | flatten_optimizer(self.optimizer)
        tensors |= {f"ema.{k}": v for k, v in self.averaged.state_dict().items()} if self.ema else {}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors["sums"] = sums
        meta = {"progress": asdict(self.progress), "scaler": self.scaler.state_dict(), **self.identity}
        save_state(self.folder, tensors, meta)
        self.saved_at = time.monotonic()
        self.saving_seconds = self.saved_at - started

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Restores a state written by `save`. Raises CheckpointError if it belongs to another run."""
        try:
            self.model.load_state_dict(_below("model.", tensors))
            if self.ema:
                self.averaged.load_state_dict(_below("ema.", tensors))
            restore_optimizer(self.optimizer, tensors)
            if self.group.is_main:
                self.sums.copy_(tensors["sums"])
            self.progress = from_dict(Progress, meta["progress"], "progress")
            self.progress.check(from_dict(RunConfig, meta["config"]).epochs, self.steps_per_epoch)
            self.saved_step = self.checked_step = self.progress.step
            self.best = _below("best.", tensors)
            if not isinstance(meta["scaler"], dict):
                raise TypeError("scaler must be an object")
            if meta["scaler"]:
                self.scaler.load_state_dict(meta["scaler"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"the training state in {self.folder} does not fit the run: {error}") from error
        done = -(-self.progress.step // self.steps_per_epoch)
        if self.config.epochs < done:
            raise RunFolderError(
                f"the run is in epoch {done} already; --epochs must be at least that, got {self.config.epochs}"
            )
        if not self.group.is_main:
            return
        self.metrics.truncate(self.progress.step // self.steps_per_epoch)
        if self.best:  # the file may contain a later epoch than this state
            self.save_weights("best", self.best, self.progress.best_epoch, self._best_figures())

    def save_weights(self, name: str, weights: dict[str, Tensor], epoch: int, figures: dict[str, Any]) -> None:
        """Writes a weights file, in the first process only."""
        if not self.group.is_main:
            return
        train = self.data.train
        pretraining = self.config.objective == "reconstruction"
        save_weights(
            self.folder / f"{name}.safetensors",
            Checkpoint(
                self.config,
                () if pretraining else train.class_names,
                train.images.shape[1],
                weights,
                epoch,
                epoch * self.steps_per_epoch,
                figures,
            ),
        )

    # ------------------------------------------------------------------------------------------------------------------
    # Work

    def run(self) -> bool:
        per_epoch = self.steps_per_epoch
        total = self.config.epochs * per_epoch
        started, before = time.monotonic(), self.progress.seconds
        begun, first = self.progress.step, self.progress.images
        with Display(self.console, self.config.epochs, per_epoch) as display, self.interrupt:
            ended = self.group.any(self._out_of_patience())
            while self.progress.step < total and not ended:
                step = self.progress.step
                lr = learning_rate(step, per_epoch, self.config, self.peak_lr)
                self.train_step(step, lr)
                self.progress.step += 1
                self.progress.seconds = before + time.monotonic() - started
                speed = (self.progress.images - first) / max(time.monotonic() - started, 1e-9)
                if step == begun or (step + 1) % CHECK_STEPS == 0 or (step + 1) % per_epoch == 0:
                    self._require_finite(step, lr)
                display.step(step // per_epoch + 1, step % per_epoch + 1, self._mean_loss, lr, speed)
                if (step + 1) % per_epoch == 0:
                    epoch = (step + 1) // per_epoch
                    display.epoch(self._end_epoch(epoch, lr), best=self.progress.best_epoch == epoch)
                    self.progress.seconds = before + time.monotonic() - started
                out_of_time = time.monotonic() - started > self.max_seconds
                if self.interrupt.asked:
                    display.note("stopped by a signal after this step")
                short = min(max(SHORT_EPOCH_SECONDS, self.saving_seconds / WRITING_SHARE), CHECKPOINT_SECONDS)
                pause = short if (step + 1) % per_epoch == 0 else CHECKPOINT_SECONDS
                stop, due, ended = self.group.each(  # one exchange per step
                    self.interrupt.asked or out_of_time,
                    time.monotonic() - self.saved_at > pause,
                    self._out_of_patience(),
                )
                stop = stop and self.progress.step < total
                if stop or due:
                    self._require_finite(step, lr)  # never save a state with a loss that is not finite
                    self.save()
                if stop:
                    return False
            self.save()
        return True

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

    def _out_of_patience(self) -> bool:
        """Returns whether to stop. Only the first process decides: batch norm's statistics differ between processes."""
        if not self.group.is_main:
            return False
        epoch = self.progress.step // self.steps_per_epoch
        return self.config.patience > 0 and epoch - self.progress.best_epoch >= self.config.patience

    def _mean_loss(self) -> float:
        """Returns the mean loss of this process in the epoch so far."""
        return (self.sums[0] / self.sums[-1]).item()

    def _require_finite(self, step: int, lr: float) -> None:
        """Raises DivergedError if the loss is not finite.

        All processes must call this method, because only the first process has the earlier sums after a resume.
        """
        total, *_, seen = self.group.add(self.sums).tolist()
        diverged = seen > 0 and not math.isfinite(total) and self.config.on_nonfinite == "stop"
        if diverged or self.skipped_in_a_row >= CHECK_STEPS:
            raise self._diverged(step, lr)
        if not self.skipped_in_a_row:
            self.checked_step = step + 1

    def _diverged(self, step: int, lr: float) -> DivergedError:
        """Returns the error to raise. Removes the last state if no check with its weights found a finite loss."""
        if self.group.is_main and self.saved_step >= self.checked_step and states(self.folder):
            drop_state(self.folder)
        advice = "start again with a lower --lr or --optim.clip-grad 1"
        if states(self.folder):
            advice += f", or resume from the last good state in {self.folder}: --resume --on-nonfinite skip"
        return DivergedError(f"the loss stopped being finite by step {step + 1} at learning rate {lr:.2e}; {advice}")

    def _end_epoch(self, epoch: int, lr: float) -> dict[str, Any]:
        """Validates, writes the row of the epoch, and keeps the weights if they are the best so far."""
        *sums, seen = self.group.add(self.sums).tolist()
        self.sums.zero_()
        row: dict[str, Any] = {"epoch": epoch, "lr": lr}
        # None if every step was skipped
        row |= {f"train_{name}": total / seen if seen else None for name, total in zip(self.names, sums, strict=True)}
        if self.data.val is not None:
            row |= self._validate(epoch, lr)
        row["minutes"] = self.progress.seconds / 60
        if self.group.is_main:
            self.metrics.write(row)
            self.trackers.write(row)
            self._warn_of_starving(epoch)
            epochs = self.config.epochs
            due = RECONSTRUCTIONS * epoch // epochs > RECONSTRUCTIONS * (epoch - 1) // epochs
            if self.config.objective == "reconstruction" and due:
                some = self.data.train.images[:8]
                write_reconstructions(self.kept, some, self.config, self.folder / "reconstructions" / f"{epoch:06}.png")
        return row

    def _warn_of_starving(self, epoch: int) -> None:
        """Prints one warning per expert that received almost no tokens of this process in the epoch."""
        shares = starving(self.model, STARVED)
        for gate, expert in sorted(shares.keys() - self.warned):
            say(
                self.console,
                f"warning: {gate}: expert {expert + 1} received {100 * shares[gate, expert]:.2g} % of the tokens of epoch "
                f"{epoch}; a larger --loss.moe spreads them more evenly",
            )
        self.warned |= shares.keys()

    def _validate(self, epoch: int, lr: float) -> dict[str, float]:
        """Returns the validation metrics of an epoch. Keeps the weights if they are the best so far."""
        progress = self.progress
        if self.config.objective == "reconstruction":
            top1, loss = 0.0, self.measure(self.val)["masked_mse"]
            row = {"val_masked_mse": loss}
        else:
            top1, loss, macro = accuracy_and_loss(self.kept, self.val, self.config, self.device, self.dtype)
            row = {"val_loss": loss, "val_top1": top1}
            if imbalanced(self.data.val.labels.bincount().tolist()):
                row["val_macro"] = macro
        if not math.isfinite(loss):
            raise self._diverged(progress.step, lr)
        if (top1, -loss) > (progress.best_top1, -progress.best_loss):  # ties are common on small sets
            progress.best_top1, progress.best_loss, progress.best_epoch = top1, loss, epoch
            if self.config.split.keep == "best":
                self.best = {k: v.to("cpu", copy=True) for k, v in self.kept.state_dict().items()}
                self.best_written = False  # the next state writes it
        return row

    def _best_figures(self) -> dict[str, Any]:
        pretraining = self.config.objective == "reconstruction"
        figures = {"masked_mse": self.progress.best_loss} if pretraining else {"top1": self.progress.best_top1}
        return {"val": {**figures, "n": len(self.data.val)}}

    def measure(self, images: ImageSet) -> Metrics | dict[str, float]:
        """Returns the metrics of the current weights on an image set: of classification or reconstruction."""
        if self.config.objective == "reconstruction":
            return reconstruction_error(self.kept, images.images, self.config, self.device, self.dtype)
        p_NK = logits(self.kept, images.images, self.config, self.device, self.dtype).softmax(-1)
        return score(p_NK, images.labels, images.class_names)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

"""Implements the loop over the steps and epochs of a run. A `RunConfig` describes the run; the run folder holds its results.

Schedules depend on steps, not on time.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import drop_state, states
from ..errors import DivergedError
from ..models.moe import starving
from ..plots.reconstructions import write_reconstructions
from .display import Display, say
from .interrupt import Interrupt
from .optim import learning_rate
from .records import MetricsFile
from .state import RunState
from .trackers import Trackers
from .trainer import Trainer

if TYPE_CHECKING:
    from rich.console import Console

CHECK_STEPS = 50  # steps between two checks for a finite loss
STARVED = 0.01  # a warning is printed for an expert with a smaller share of the tokens of an epoch
RECONSTRUCTIONS = 10  # number of reconstruction plots in a pre-training run


class Loop:
    """Runs the epochs of `trainer`, with results in `folder`. `run` returns True after all epochs, and False if stopped.

    `deadline`: the time of `time.monotonic` at which the run stops after its step.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        *,
        console: Console,
        identity: dict[str, Any],
        deadline: float = math.inf,
    ):
        self.trainer, self.folder, self.console = trainer, folder, console
        self.config, self.group = trainer.config, trainer.group
        self.deadline = deadline
        self.metrics = MetricsFile(folder / "metrics.csv")
        self.state = RunState(trainer, folder, identity, self.metrics)
        self.trackers = Trackers(self.config.log if self.group.is_main else (), folder)
        self.warned: set[tuple[str, int]] = set()  # experts with an earlier warning
        self.interrupt = Interrupt()
        self.checked_step = 0  # number of steps at the last check with a finite loss

    def run(self) -> bool:
        trainer, state = self.trainer, self.state
        progress = trainer.progress
        per_epoch = trainer.steps_per_epoch
        total = self.config.epochs * per_epoch
        started, before = time.monotonic(), progress.seconds
        begun, first = progress.step, progress.images
        self.checked_step = begun
        with Display(self.console, self.config.epochs, per_epoch) as display, self.interrupt:
            ended = self.group.any(self._out_of_patience())
            while progress.step < total and not ended:
                step = progress.step
                lr = learning_rate(step, per_epoch, self.config, trainer.peak_lr)
                trainer.train_step(step, lr)
                progress.step += 1
                progress.seconds = before + time.monotonic() - started
                speed = (progress.images - first) / max(time.monotonic() - started, 1e-9)
                epoch_ended = progress.step % per_epoch == 0
                if step == begun or progress.step % CHECK_STEPS == 0 or epoch_ended:
                    self._require_finite(lr)
                display.step(step // per_epoch + 1, step % per_epoch + 1, trainer.mean_loss, lr, speed)
                if epoch_ended:
                    epoch = progress.step // per_epoch
                    display.epoch(self._end_epoch(epoch, lr), best=progress.best_epoch == epoch)
                    progress.seconds = before + time.monotonic() - started
                if self.interrupt.asked:
                    display.note("stopped by a signal after this step")
                out_of_time = time.monotonic() > self.deadline
                stop, due, ended = self.group.each(  # one exchange per step
                    self.interrupt.asked or out_of_time, state.due(epoch_ended), self._out_of_patience()
                )
                stop = stop and progress.step < total
                if stop or due:
                    self._require_finite(lr)  # never save a state with a loss that is not finite
                    state.save()
                if stop:
                    return False
            state.save()
        return True

    def _out_of_patience(self) -> bool:
        """Returns whether to stop. Only the first process decides: batch norm's statistics differ between processes."""
        if not self.group.is_main:
            return False
        progress = self.trainer.progress
        epoch = progress.step // self.trainer.steps_per_epoch
        return self.config.patience > 0 and epoch - progress.best_epoch >= self.config.patience

    def _require_finite(self, lr: float) -> None:
        """Raises DivergedError if the loss is not finite.

        All processes must call this method, because only the first process has the earlier sums after a resume.
        """
        trainer = self.trainer
        total, *_, seen = self.group.add(trainer.sums).tolist()
        diverged = seen > 0 and not math.isfinite(total) and self.config.on_nonfinite == "stop"
        if diverged or trainer.skipped_in_a_row >= CHECK_STEPS:
            raise self._diverged(lr)
        if not trainer.skipped_in_a_row:
            self.checked_step = trainer.progress.step

    def _diverged(self, lr: float) -> DivergedError:
        """Returns the error to raise. Removes the last state if no check with its weights found a finite loss."""
        if self.group.is_main and self.state.saved_step >= self.checked_step and states(self.folder):
            drop_state(self.folder)
        advice = "start again with a lower --lr or --optim.clip-grad 1"
        if states(self.folder):
            advice += f", or resume from the last good state in {self.folder}: --resume --on-nonfinite skip"
        step = self.trainer.progress.step
        return DivergedError(f"the loss stopped being finite by step {step} at learning rate {lr:.2e}; {advice}")

    def _end_epoch(self, epoch: int, lr: float) -> dict[str, Any]:
        """Validates, writes the row of the epoch, and keeps the weights if they are the best so far."""
        trainer = self.trainer
        *sums, seen = self.group.add(trainer.sums).tolist()
        trainer.sums.zero_()
        # None if every step was skipped
        means = {
            f"train_{name}": total / seen if seen else None for name, total in zip(trainer.names, sums, strict=True)
        }
        row: dict[str, Any] = {"epoch": epoch, "lr": lr, **means}
        if trainer.val is not None:
            row |= self._validate(epoch, lr)
        row["minutes"] = trainer.progress.seconds / 60
        if self.group.is_main:
            self.metrics.write(row)
            self.trackers.write(row)
            self._warn_of_starving(epoch)
            epochs = self.config.epochs
            due = RECONSTRUCTIONS * epoch // epochs > RECONSTRUCTIONS * (epoch - 1) // epochs
            if self.config.objective == "reconstruction" and due:
                some = trainer.data.train.images[:8]
                place = self.folder / "reconstructions" / f"{epoch:06}.png"
                write_reconstructions(trainer.kept, some, self.config, place)
        return row

    def _validate(self, epoch: int, lr: float) -> dict[str, float]:
        """Returns the validation metrics of an epoch. Keeps the weights if they are the best so far."""
        progress = self.trainer.progress
        row = self.trainer.validate(self.trainer.val)
        loss = row["val_masked_mse"] if self.config.objective == "reconstruction" else row["val_loss"]
        top1 = row.get("val_top1", 0.0)
        if not math.isfinite(loss):
            raise self._diverged(lr)
        if (top1, -loss) > (progress.best_top1, -progress.best_loss):  # ties are common on small sets
            progress.best_top1, progress.best_loss, progress.best_epoch = top1, loss, epoch
            if self.config.split.keep == "best":
                self.state.keep_best()
        return row

    def _warn_of_starving(self, epoch: int) -> None:
        """Prints one warning per expert that received almost no tokens of this process in the epoch."""
        shares = starving(self.trainer.model, STARVED)
        for gate, expert in sorted(shares.keys() - self.warned):
            say(
                self.console,
                f"warning: {gate}: expert {expert + 1} received {100 * shares[gate, expert]:.2g} % of the tokens of epoch "
                f"{epoch}; a larger --loss.moe spreads them more evenly",
            )
        self.warned |= shares.keys()

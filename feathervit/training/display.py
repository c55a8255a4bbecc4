"""Shows the progress of a run: a live bar on a terminal, plain lines elsewhere.

On a terminal, `Display` shows one bar that rich redraws. Elsewhere (a log file, CI) it prints at most one line every few
seconds, even for short epochs. It reads a loss from a GPU only if the loss is shown, so that it does not slow down training.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

EPOCH_SECONDS = 5.0  # minimum time between the lines of two epochs
STEP_SECONDS = 10.0  # minimum time before a line inside an epoch
REDRAW_SECONDS = 0.1  # minimum time between two updates of the live bar


class Display:
    """Shows the progress of a training run on `console`. Use it as a context manager around the run.

    On a terminal, it shows one live bar of the run below the printed lines. Elsewhere it only prints lines. Lines fit into 80
    columns. A line is printed at the end of an epoch, unless the last line is less than `EPOCH_SECONDS` old, and always
    after the last epoch. Epochs and steps count from 1. `clock` returns seconds.
    """

    def __init__(
        self, console: Console, epochs: int, steps_per_epoch: int, clock: Callable[[], float] = time.monotonic
    ):
        self.console = console
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self._clock = clock
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None  # time and finished steps at the start of training in this process
        self._last_line = self._last_epoch_line = clock()
        self._last_redraw = float("-inf")
        self._speed = 0.0
        self._figure = ""  # the metric of the last epoch

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
            self._bar = Progress(text, BarColumn(bar_width=None), console=self.console, expand=True)
            self._task = self._bar.add_task("starting", total=self.epochs * self.steps_per_epoch)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(
        self, epoch: int, step_in_epoch: int, loss: float | Callable[[], float], lr: float, images_per_s: float
    ) -> None:
        """Records an optimiser step. `loss` may be a function or a 0-d tensor; it is read only if the step is shown."""
        now = self._clock()
        done = (epoch - 1) * self.steps_per_epoch + step_in_epoch
        self._speed = images_per_s
        if self._first is None:
            self._first = (now, done)
        last, pause = (self._last_redraw, REDRAW_SECONDS) if self._bar else (self._last_line, STEP_SECONDS)
        if now - last < pause:
            return
        loss = float(loss() if callable(loss) else loss)
        if self._bar:
            self._last_redraw = now
            text = self._line(f"epoch {epoch}/{self.epochs}", loss, self._figure, lr, now, done)
            self._bar.update(self._task, completed=done, description=text)
        else:
            self._last_line = now
            place = f"epoch {epoch}/{self.epochs} at {100 * step_in_epoch / self.steps_per_epoch:.0f}%"
            self.note(self._line(place, loss, "", lr, now, done))

    def epoch(self, row: Mapping[str, Any], best: bool = False) -> None:
        """Records an epoch. `row` is its row of metrics.csv. `best` adds a star, for the best weights so far."""
        self._figure = _figure(row)
        now = self._clock()
        done = row["epoch"] * self.steps_per_epoch
        if self._bar:
            self._bar.update(self._task, completed=done)
        if now - self._last_epoch_line >= EPOCH_SECONDS or row["epoch"] >= self.epochs:
            self._last_line = self._last_epoch_line = now
            figure = self._figure + "*" * best if self._figure else ""
            self.note(
                self._line(f"epoch {row['epoch']}/{self.epochs}", row["train_loss"], figure, row["lr"], now, done)
            )

    def note(self, text: str) -> None:
        """Prints a line immediately, above the bar if there is one."""
        say(self.console, text)

    def _line(self, place: str, loss: float | None, figure: str, lr: float, now: float, done: int) -> str:
        shown = "none" if loss is None else f"{loss:.3f}" if abs(loss) < 10 else f"{loss:.3g}"
        parts = [place, f"loss {shown}", figure, f"lr {lr:.1e}", f"{self._speed:,.0f} images/s", self._left(now, done)]
        return "  ".join(filter(None, parts))

    def _left(self, now: float, done: int) -> str:
        began, done_before = self._first if self._first else (now, done)
        left = self.epochs * self.steps_per_epoch - done
        if done == done_before or now == began or not left:
            return ""
        return f"{duration((now - began) / (done - done_before) * left)} left"


def _figure(row: Mapping[str, Any]) -> str:
    """Returns the main metric of an epoch: accuracy or reconstruction error, on validation images if there are any."""
    for name in ("val", "train"):
        if (top1 := row.get(f"{name}_top1")) is not None:
            macro = row.get(f"{name}_macro")
            return f"{name} {100 * top1:.1f}%" + (f" macro {100 * macro:.1f}%" if macro is not None else "")
        if (error := row.get(f"{name}_masked_mse")) is not None:
            return f"{name} MSE {error:.3g}"
    return ""


def duration(seconds: float) -> str:
    """Formats seconds as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(console: Console, text: str, indent: int = 2) -> None:
    """Prints text without markup. On a terminal, wraps lines at words and indents all lines after the first."""
    if console.is_terminal:
        room = {"width": max(console.width, 40), "subsequent_indent": " " * indent}
        text = textwrap.fill(text, **room, break_long_words=False, break_on_hyphens=False)
    console.print(text, emoji=False, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def decoding(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of decoding. Yields progress(done, total): a bar on a terminal, else a line every few seconds."""
    last = time.monotonic()
    if console.is_terminal:
        from rich.progress import MofNCompleteColumn, Progress

        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
            task = bar.add_task("decoding images", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    def line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EPOCH_SECONDS:
            last = time.monotonic()
            console.print(f"decoding images: {done} of {total}", highlight=False)

    yield line

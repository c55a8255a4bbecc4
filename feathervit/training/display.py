"""Progress of a run for people: a live bar on a terminal, a few plain lines elsewhere.

`Display` never floods: on a terminal it is one bar that rich redraws, elsewhere (a log file, CI) one line every few
seconds at most, however short the epochs are. A loss on a GPU is fetched only when it is shown, so that the display does
not slow training down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

EPOCH_SECONDS = 5.0  # between the lines of two epochs
STEP_SECONDS = 10.0  # without a line before one is printed inside an epoch
REDRAW_SECONDS = 0.1  # between two states of the live bar


class Display:
    """Progress of a training run on `console`; use it as a context manager around the run.

    On a terminal: one live bar of the whole run, with printed lines scrolling above it. Elsewhere: printed lines only.
    An epoch gets its line at its end, unless another did within `EPOCH_SECONDS`: thousands of short epochs stay a few
    lines. The last epoch always gets one. Epochs and steps count from 1. `clock` gives seconds.
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
        self._first: tuple[float, int] | None = None  # time and steps done when this process began to train
        self._last_line = self._last_epoch_line = clock()
        self._last_redraw = float("-inf")
        self._accuracy = ""

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(BarColumn(bar_width=20), TextColumn("{task.description}"), console=self.console)
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
        """One optimiser step is done. `loss` may be a function (or a 0-d tensor): read only if this step is shown."""
        now = self._clock()
        done = (epoch - 1) * self.steps_per_epoch + step_in_epoch
        if self._first is None:
            self._first = (now, done)
        last, pause = (self._last_redraw, REDRAW_SECONDS) if self._bar else (self._last_line, STEP_SECONDS)
        if now - last < pause:
            return
        loss = float(loss() if callable(loss) else loss)
        text = f"epoch {epoch}/{self.epochs}  loss {loss:.4f}{self._accuracy}  lr {lr:.2e}"
        text += f"  {images_per_s:.0f} images/s{self._time_left(now, done)}"
        if self._bar:
            self._last_redraw = now
            self._bar.update(self._task, completed=done, description=text)
        else:
            self._last_line = now
            self.note(f"{text}  (step {step_in_epoch}/{self.steps_per_epoch})")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done. `row` holds "epoch" and any figures (the row of metrics.csv); all of them are printed.

        The bar's accuracy is the row's "val_top1" or, without one, its "train_top1".
        """
        top1 = row.get("val_top1", row.get("train_top1"))
        self._accuracy = "" if top1 is None else f"  accuracy {100 * top1:.2f} %"
        now = self._clock()
        if self._bar:
            self._bar.update(self._task, completed=row["epoch"] * self.steps_per_epoch)
        if now - self._last_epoch_line >= EPOCH_SECONDS or row["epoch"] >= self.epochs:
            self._last_line = self._last_epoch_line = now
            figures = [
                f"{name} {_short(value)}" for name, value in row.items() if name != "epoch" and value is not None
            ]
            self.note("  ".join([f"epoch {row['epoch']}/{self.epochs} done", *figures]))

    def note(self, text: str) -> None:
        """Prints a line at once, above the bar where there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _time_left(self, now: float, done: int) -> str:
        began, done_before = self._first
        if done == done_before or now == began:
            return ""
        seconds = (now - began) / (done - done_before) * (self.epochs * self.steps_per_epoch - done)
        if seconds < 90:
            return f"  {seconds:.0f} s left"
        return f"  {seconds / 60:.0f} min left" if seconds < 5400 else f"  {seconds / 3600:.1f} h left"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def decoding(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Tells how far decoding has come: yields progress(done, total). A bar on a terminal, else a line every few seconds."""
    last = time.monotonic()
    if console.is_terminal:
        from rich.progress import MofNCompleteColumn, Progress

        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
            task = bar.add_task("decoding pictures", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    def line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EPOCH_SECONDS:
            last = time.monotonic()
            console.print(f"decoding pictures: {done} of {total}", highlight=False)

    yield line

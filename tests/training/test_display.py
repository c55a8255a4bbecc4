"""metrics.csv cut off at any byte, and a display that limits its lines."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from feathervit.errors import RunFolderError
from feathervit.training.display import EPOCH_SECONDS, Display, say
from feathervit.training.records import MetricsFile

ROWS = [{"epoch": i, "train_loss": 1 / (i + 2), "val_top1": i / 7, "name": "x,y"} for i in range(1, 5)]


@pytest.fixture
def metrics(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    for row in ROWS:
        file.write(row)
    return file


def test_rows_are_read_back_exactly(metrics):
    assert metrics.rows() == ROWS
    with metrics.path.open(newline="") as file:  # any CSV reader reads it
        assert [float(row["train_loss"]) for row in csv.DictReader(file)] == [row["train_loss"] for row in ROWS]


def test_a_file_cut_off_at_any_byte_is_read(metrics):
    whole = metrics.path.read_bytes()
    line_ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        metrics.path.write_bytes(whole[:length])
        kept = ROWS[: max(0, sum(end <= length for end in line_ends) - 1)]
        again = MetricsFile(metrics.path)
        assert again.rows() == kept
        again.write(ROWS[-1])
        assert again.rows() == [*kept, ROWS[-1]]


def test_a_damaged_line_is_skipped(metrics):
    lines = metrics.path.read_text().splitlines(keepends=True)
    metrics.path.write_text("".join([*lines[:2], "2,0.\n", *lines[3:]]))
    assert metrics.rows() == [ROWS[0], *ROWS[2:]]


def test_truncate_for_a_resumed_run(metrics):
    again = MetricsFile(metrics.path)
    again.truncate(after_epoch=2)
    assert again.rows() == ROWS[:2]
    again.write(ROWS[2])
    assert again.rows() == ROWS[:3]
    again.truncate(after_epoch=0)
    assert again.rows() == []
    again.write(ROWS[0])
    assert again.rows() == ROWS[:1]


def test_truncate_without_a_file(tmp_path):
    file = MetricsFile(tmp_path / "m.csv")
    file.truncate(0)
    assert file.rows() == []
    with pytest.raises(RunFolderError, match="holds 0 of the run's 3 epochs"):
        file.truncate(3)


def test_missing_and_new_columns(metrics):
    metrics.write({"epoch": 5})
    metrics.write({"epoch": 6, "test_top1": 0.5})
    rows = metrics.rows()
    assert rows[4] == {"epoch": 5, "train_loss": None, "val_top1": None, "name": None, "test_top1": None}
    assert rows[5]["test_top1"] == 0.5
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_an_unwritable_file_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match="must exist"):
        MetricsFile(tmp_path / "nowhere" / "m.csv").write(ROWS[0])
    file = MetricsFile(tmp_path / "m.csv")
    file.write(ROWS[0])
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(RunFolderError, match=r"m\.csv"):
        file.write(ROWS[1])


# ---------------------------------------------------------------------------------------------------------------------


class Run:
    """A simulated run with its own clock, which collects the text."""

    def __init__(self, terminal: bool, epochs: int, steps: int, seconds_per_step: float):
        self.now, self.epochs, self.steps, self.seconds_per_step = 0.0, epochs, steps, seconds_per_step
        self.out = io.StringIO()
        self.console = Console(file=self.out, force_terminal=terminal, width=200, color_system=None)
        self.losses_read = 0

    def loss(self) -> float:
        self.losses_read += 1
        return 1.25

    def play(self, first_epoch: int = 1) -> str:
        with Display(self.console, self.epochs, self.steps, clock=lambda: self.now) as display:
            for epoch in range(first_epoch, self.epochs + 1):
                for step in range(1, self.steps + 1):
                    self.now += self.seconds_per_step
                    display.step(epoch, step, self.loss, 3e-4, 812.4)
                display.epoch({"epoch": epoch, "lr": 3e-4, "train_loss": 1.25, "val_top1": 0.91, "val_loss": None})
        return self.out.getvalue()


def test_plain_lines_show_loss_accuracy_rate_and_speed():
    lines = Run(terminal=False, epochs=2, steps=10, seconds_per_step=4).play().splitlines()
    for figure in ("1/2", "30%", "1.250", "3.0e-04", "812 ", "68 s"):
        assert figure in lines[0]
    for figure in ("2/2", "1.250", "91.0%", "3.0e-04", "812 "):
        assert figure in lines[-1]


def test_each_long_epoch_has_a_plain_line():
    lines = Run(False, epochs=5, steps=3, seconds_per_step=6).play().splitlines()
    ends = [line for line in lines if "at" not in line]
    assert [line.split()[1] for line in ends] == [f"{n}/5" for n in range(1, 6)]
    assert "left" in ends[0]
    assert "left" not in ends[-1]


def test_best_epochs_have_a_star_and_lines_fit_80_columns():
    run = Run(False, epochs=1000, steps=1000, seconds_per_step=1)
    with Display(run.console, 1000, 1000, clock=lambda: run.now) as display:
        for epoch, best in ((999, True), (1000, False)):
            for step in (1, 1000):
                run.now += 60
                display.step(epoch, step, 98.76543, 1.234567e-3, 81234.5)
            display.epoch({"epoch": epoch, "lr": 1.234567e-3, "train_loss": 98.76543, "val_top1": 0.999}, best)
    lines = run.out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [("*" in line) for line in lines if "val" in line] == [True, False]


@pytest.mark.parametrize(
    ("row", "figure"),
    [
        ({"train_top1": 0.5}, "train 50.0%"),
        ({"train_masked_mse": 0.25, "val_masked_mse": 0.012345}, "val MSE 0.0123"),
        ({"train_masked_mse": 0.25}, "train MSE 0.25"),
    ],
)
def test_lines_without_validation_or_labels(row, figure):
    run = Run(False, epochs=1, steps=1, seconds_per_step=1)
    with Display(run.console, 1, 1) as display:
        display.epoch({"epoch": 1, "lr": 0.1, "train_loss": None, **row})
    assert f"  {figure}  " in run.out.getvalue()


def test_the_number_of_plain_lines_is_limited():
    run = Run(terminal=False, epochs=3000, steps=4, seconds_per_step=0.005)
    lines = run.play().splitlines()
    assert 2 <= len(lines) <= run.now / EPOCH_SECONDS + 1
    assert lines[-1].startswith("epoch 3000/3000 ")
    assert run.losses_read < len(lines)  # a loss on a GPU is not fetched at every step


def test_live_bar():
    run = Run(terminal=True, epochs=3, steps=200, seconds_per_step=0.01)
    text = run.play()
    assert "\x1b" in text
    assert "3/3" in text and "91.0%" in text
    assert "s left" in text
    assert run.losses_read <= run.now / 0.1 + 1


def test_time_left_counts_from_the_resume():
    lines = Run(terminal=False, epochs=100, steps=10, seconds_per_step=6).play(first_epoch=100).splitlines()
    assert "48 s left" in lines[0]


def test_notes_are_printed_unchanged():
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=False, width=30), 1, 1) as display:
        display.note("see [red]/some/folder[/red], a line longer than the console is wide")
    assert out.getvalue() == "see [red]/some/folder[/red], a line longer than the console is wide\n"


def test_long_notes_wrap_with_a_hanging_indent():
    out = io.StringIO()
    say(Console(file=out, force_terminal=True, width=40, color_system=None), "model      " + "words of-a-line " * 6, 11)
    first, *rest = out.getvalue().splitlines()
    assert first.startswith("model      words")
    assert rest
    assert all(line.startswith(" " * 11) and line[11] != " " and len(line) <= 40 for line in rest)
    assert set(" ".join([first, *rest]).split()) == {"model", "words", "of-a-line"}

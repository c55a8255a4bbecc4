"""A run folder holds one training at a time. A second one is refused in one line, and a killed one releases the folder."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from feathervit.results import read_result

from .commands import POSIX, Command, run
from .faults import rows, same_weights

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not POSIX, reason="there is no SIGKILL")]

MODEL = ["--arch.depth", "1", "--arch.dim", "16", "--img-size", "8", "--patch-size", "2", "--batch-size", "64"]
TRAIN = ["train", "--data", "digits", "--threads", "1", "--split.train-per-class", "20", *MODEL]
RESUME = ["train", "--resume", "--threads", "1"]


def begun(arguments: list, out: Path, log: Path) -> Command:
    """Starts the command and waits until it trains."""
    command = Command([*arguments, "--out", out], log)
    while command.status is None and not (out / "metrics.csv").exists():
        time.sleep(0.01)
    assert command.status is None, log.read_text()
    return command


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    out, log = tmp_path / "run", tmp_path / "output.txt"
    first = begun([*TRAIN, "--epochs", "100000"], out, tmp_path / "first.txt")
    before = (out / "config.json").read_bytes()
    for arguments in ([*TRAIN, "--epochs", "2"], RESUME, [*TRAIN, "--epochs", "2", "--overwrite"]):
        ended = run([*arguments, "--out", out], log)
        assert ended.status == 2
        (line,) = ended.output.splitlines()
        assert line.startswith("feathervit: another training is running in")
    assert (out / "config.json").read_bytes() == before
    assert first.kill().status == -signal.SIGKILL
    ended = run([*TRAIN, "--epochs", "2", "--overwrite", "--out", out], log)
    assert ended.status == 0, ended.output
    assert len(read_result(out / "result.json").epochs) == 2
    assert not list(out.glob(".*"))


def test_only_one_of_two_simultaneous_runs_trains(tmp_path):
    arguments = [*TRAIN, "--epochs", "60"]
    assert run([*arguments, "--out", tmp_path / "alone"], tmp_path / "output.txt").status == 0
    both = [Command([*arguments, "--out", tmp_path / "both"], tmp_path / f"{i}.txt") for i in range(2)]
    ended = sorted((command.end() for command in both), key=lambda end: end.status)
    assert [end.status for end in ended] == [0, 2], [end.output for end in ended]
    assert len(ended[1].output.splitlines()) == 1
    assert same_weights(tmp_path / "alone" / "last.safetensors", tmp_path / "both" / "last.safetensors")
    assert rows(tmp_path / "alone") == rows(tmp_path / "both")

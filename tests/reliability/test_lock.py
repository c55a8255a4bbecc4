"""Of two commands that start in one folder, one trains and the other is refused. test_folder tests a killed process."""

from __future__ import annotations

import pytest

from ..conftest import same_weights
from .commands import POSIX, Command, run
from .faults import rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not POSIX, reason="there is no SIGKILL")]

MODEL = ["--arch.depth", "1", "--arch.dim", "16", "--img-size", "8", "--patch-size", "2", "--batch-size", "64"]
TRAIN = ["train", "--data", "digits", "--threads", "1", "--split.train-per-class", "20", *MODEL]


def test_only_one_of_two_simultaneous_runs_trains(tmp_path):
    arguments = [*TRAIN, "--epochs", "60"]
    assert run([*arguments, "--out", tmp_path / "alone"], tmp_path / "output.txt").status == 0
    both = [Command([*arguments, "--out", tmp_path / "both"], tmp_path / f"{i}.txt") for i in range(2)]
    ended = sorted((command.end() for command in both), key=lambda end: end.status)
    assert [end.status for end in ended] == [0, 2], [end.output for end in ended]
    assert len(ended[1].output.splitlines()) == 1
    assert same_weights(tmp_path / "alone" / "last.safetensors", tmp_path / "both" / "last.safetensors")
    assert rows(tmp_path / "alone") == rows(tmp_path / "both")

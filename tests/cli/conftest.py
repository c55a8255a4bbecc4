"""Fixtures of the command line: calls in this process, and a small trained run."""

from __future__ import annotations

import pytest

from feathervit.cli import main

SMALL = [
    *("--img-size", "16", "--patch-size", "4", "--batch-size", "32", "--lr", "3e-3", "--model", "mlit_nano"),
    *("--arch.depth", "2", "--arch.dim", "32", "--augment.policy", "none", "--augment.mixup", "0"),
]


@pytest.fixture
def run(capsys):
    """Calls the command line and returns (status, standard output, standard error)."""

    def call(*argv) -> tuple[int, str, str]:
        try:
            status = main([str(a) for a in argv])
        except SystemExit as stop:
            status = stop.code or 0
        out = capsys.readouterr()
        return status, out.out, out.err

    return call


@pytest.fixture
def trained(folder, tmp_path, run):
    out = tmp_path / "run"
    status, *_ = run("train", "--data", folder, "--out", out, "--epochs", 15, *SMALL)
    assert status == 0
    return out

"""A small run, trained by the command line."""

from __future__ import annotations

import pytest

SMALL = [
    *("--img-size", "16", "--patch-size", "4", "--batch-size", "32", "--lr", "3e-3", "--model", "mlit_nano"),
    *("--arch.depth", "2", "--arch.dim", "32", "--augment.policy", "none", "--augment.mixup", "0"),
]


@pytest.fixture
def trained(folder, tmp_path, run):
    out = tmp_path / "run"
    status, *_ = run("train", "--data", folder, "--out", out, "--epochs", 1, *SMALL)
    assert status == 0
    return out

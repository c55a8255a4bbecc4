"""The same seed gives the same model, in this process and on the command line, which has another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import feathervit
from feathervit.checkpoint import load_weights

from ..conftest import same_weights
from .commands import ROOT
from .faults import rows

FIELDS = {
    "epochs": 2,
    "arch.depth": 1,
    "arch.dim": 16,
    "split.train_per_class": 20,
    "batch_size": 64,
    "augment.flip": "random",
    "precision": "float32",
}


@pytest.mark.slow
def test_the_same_seed_in_two_processes(tmp_path):
    feathervit.train("digits", out=tmp_path / "here", seed=3, **FIELDS)
    flags = [word for name, value in FIELDS.items() for word in (f"--{name}", str(value))]
    command = ["train", "--recipe", "digits", "--threads", "1", "--seed", "3", "--out", str(tmp_path / "there"), *flags]
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "feathervit", *command], env=environment, check=True, capture_output=True)
    for name in ("last", "best"):
        assert same_weights(tmp_path / "here" / f"{name}.safetensors", tmp_path / "there" / f"{name}.safetensors")
    assert rows(tmp_path / "here") == rows(tmp_path / "there")


@pytest.mark.slow
def test_thread_counts_agree_up_to_rounding(tmp_path):
    """docs/choices.md promises this for threads."""
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            feathervit.train("digits", out=tmp_path / f"{threads}", **FIELDS)
    finally:
        torch.set_num_threads(1)
    one, two = (load_weights(tmp_path / f"{threads}" / "last.safetensors").weights for threads in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)

"""result.json: round trip, strictness, atomic writing, clear errors."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feathervit import results
from feathervit.config import RunConfig, to_dict
from feathervit.errors import RunFolderError
from feathervit.results import RunResult, commit, machine, read_result, write_json


@pytest.fixture
def result() -> RunResult:
    return RunResult(
        command="feathervit train --data digits",
        version="0.1.0",
        commit=None,
        machine=machine(),
        python="3.11.0",
        torch="2.9.0",
        threads=1,
        device="cpu",
        precision="float32",
        seed=3,
        model="mlit_nano",
        parameters=1234,
        recipe="digits",
        data={"name": "digits", "fingerprint": "ab", "n_train": 10, "n_val": 0, "n_test": 3, "classes": 10},
        config=to_dict(RunConfig()),
        epochs=[{"epoch": 1, "train_loss": 2.5}],
        best={"epoch": 1, "val_top1": 0.5},
        minutes=1,
        images_per_s=100.5,
    )


def test_round_trip(result, tmp_path):
    write_json(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result


def test_nonfinite_figures_become_null(result, tmp_path):
    row = {"epoch": np.int64(2), "train_loss": math.nan, "top1": torch.tensor(0.5), "path": Path("a") / "b"}
    write_json(tmp_path / "r.json", replace(result, epochs=[row, {"train_loss": -math.inf}]))

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    data = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert data["epochs"] == [
        {"epoch": 2, "train_loss": None, "top1": 0.5, "path": os.path.join("a", "b")},
        {"train_loss": None},
    ]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunFolderError, match=rf"{tmp_path.name}.*No space left on device.*KiB"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_writing_into_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match=r"nowhere.*must exist"):
        write_json(tmp_path / "nowhere" / "r.json", {})


def test_machine_is_plain_json():
    found = machine()
    assert tuple(found) == results.MACHINE_KEYS
    assert json.loads(json.dumps(found)) == found
    assert 1 <= found["cores"] <= os.cpu_count()
    assert found["gpu"] is None or isinstance(found["gpu"], str)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    run = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def test_commit_of_a_checkout_and_of_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "repo" / "feathervit"
    package.mkdir(parents=True)
    module = package / "results.py"
    module.write_text("1")
    monkeypatch.setattr(results, "__file__", str(module))
    assert commit() is None
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "one")
    head = git(package.parent, "rev-parse", "HEAD")
    assert commit() == head
    module.write_text("2")
    assert commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_importing_loads_neither_torch_nor_rich():
    code = "import sys, feathervit.results; assert not {'torch', 'rich', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

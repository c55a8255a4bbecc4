"""Dead, or without room on the disk, at each single change of a file: what was finished stays, and the same command or
`resume` goes on to the same end."""

from __future__ import annotations

import math
import os
import shutil

import pytest

import feathervit
from feathervit.errors import RunFolderError
from feathervit.results import read_config, read_result
from feathervit.training import loop

from .faults import Killed, drafts, from_change, full, rows, same_weights

TINY = {"epochs": 2, "batch_size": 48, "arch.depth": 1, "arch.dim": 16}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Only a power cut shows what was not synced."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def every_epoch(monkeypatch):
    """A state at each epoch's end, however short."""
    monkeypatch.setattr(loop, "SHORT_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(loop, "WRITING_SHARE", 1e9)


def run(verb: str, **arguments) -> feathervit.training.run.Outcome:
    return getattr(feathervit, verb)(**arguments)


EVERY = pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])  # of the changes


@EVERY
@pytest.mark.parametrize("error", [Killed, full])
@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_a_run(verb, error, stride, arrays, tmp_path, small, every_epoch):
    arguments = {"data": arrays, **small, **TINY}
    if verb == "pretrain":
        del arguments["loss.label_smoothing"]
        arguments |= {"recipe": "mae_digits", "mae.decoder.depth": 1, "mae.decoder.dim": 16}
    with from_change(math.inf, Killed) as changes:
        run(verb, out=tmp_path / "whole", **arguments)
    for at in range(0, len(changes), stride):
        out = tmp_path / f"{at}"
        with from_change(at, error) as made, pytest.raises((Killed, RunFolderError)) as raised:
            run(verb, out=out, **arguments)
        assert raised.type is (Killed if error is Killed else RunFolderError)
        begun = (out / "config.json").exists()
        assert run(verb, out=out, **({"data": arrays, "resume": True} if begun else arguments)).finished
        assert len(read_result(out / "result.json").epochs) == 2
        for name in ("last", "best"):
            assert same_weights(tmp_path / "whole" / f"{name}.safetensors", out / f"{name}.safetensors"), made
        assert rows(out) == rows(tmp_path / "whole"), made
        assert drafts(out) == [], made


@EVERY
def test_a_run_that_replaces_another(stride, arrays, tmp_path, small, every_epoch):
    """Killed while it empties the folder, it is never taken for the earlier run; the same command begins it again."""
    arguments = {"data": arrays, **small, **TINY}
    feathervit.train(out=tmp_path / "whole", **arguments)
    feathervit.train(out=tmp_path / "earlier", **arguments | {"seed": 1})
    shutil.copytree(tmp_path / "earlier", tmp_path / "counted")
    with from_change(math.inf, Killed) as changes:
        feathervit.train(out=tmp_path / "counted", overwrite=True, **arguments)
    for at in range(0, len(changes), stride):
        out = tmp_path / f"{at}"
        shutil.copytree(tmp_path / "earlier", out)
        with from_change(at, Killed) as made, pytest.raises(Killed):
            feathervit.train(out=out, overwrite=True, **arguments)
        if (out / "config.json").exists():
            assert feathervit.train(out=out, resume=True, data=arrays).finished
            whole = "earlier" if read_config(out).seed else "whole"
        else:
            feathervit.train(out=out, overwrite=True, **arguments)
            whole = "whole"
        assert same_weights(tmp_path / whole / "last.safetensors", out / "last.safetensors"), made
        assert rows(out) == rows(tmp_path / whole), made


def test_a_run_killed_before_its_first_state_has_each_epoch_once(arrays, tmp_path, small, monkeypatch):
    arguments = {"data": arrays, **small, **TINY, "epochs": 5}
    feathervit.train(out=tmp_path / "whole", **arguments)
    step = loop.Trainer.train_step

    def dying(self, number, lr):
        if number == 3:
            raise Killed
        step(self, number, lr)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Trainer, "train_step", dying)
        feathervit.train(out=tmp_path / "cut", **arguments)
    assert len(rows(tmp_path / "cut")) == 3 and not list((tmp_path / "cut").glob("state*"))
    assert feathervit.train(out=tmp_path / "cut", resume=True, data=arrays).finished
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")

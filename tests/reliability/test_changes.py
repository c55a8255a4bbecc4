"""A process dies, or the disk is full, at each file change. Finished work is kept, and the same command or `resume` gives
the same result."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

import feathervit
from feathervit.data import cache, load_data
from feathervit.errors import DataError, RunFolderError
from feathervit.export.export import export_model
from feathervit.files import make_folder, write_bytes
from feathervit.recipes import recipe
from feathervit.results import read_config, read_result
from feathervit.studies import Size, Study
from feathervit.studies import cell as runs
from feathervit.studies import report as reports
from feathervit.studies.cells import run_study
from feathervit.studies.claim import claim
from feathervit.studies.report import read_cell
from feathervit.training import state as saving
from feathervit.training import trainer

from ..conftest import same_weights, write_images
from .faults import Killed, cut, drafts, from_change, full, rows

TINY = {"epochs": 2, "batch_size": 48, "arch.depth": 1, "arch.dim": 16}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Turns syncing off: only a power cut would show the difference."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def every_epoch(monkeypatch):
    """Writes a state at the end of each epoch, even a short one."""
    monkeypatch.setattr(saving, "SHORT_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(saving, "WRITING_SHARE", 1e9)


def run(verb: str, **arguments) -> feathervit.training.conclusion.Outcome:
    return getattr(feathervit, verb)(**arguments)


EVERY = pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])  # of the changes


@EVERY
@pytest.mark.parametrize("error", [Killed, full])
@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_run_survives_faults(verb, error, stride, arrays, tmp_path, small, every_epoch):
    arguments = {"data": arrays, **small, **TINY}
    if verb == "pretrain":
        del arguments["loss.label_smoothing"]
        arguments |= {"recipe": "mae_digits", "mae.decoder.depth": 1, "mae.decoder.dim": 16}
    with from_change(math.inf, Killed) as changes:
        run(verb, out=tmp_path / "whole", **arguments)
    for at in range(0, len(changes), stride):
        out = tmp_path / f"{at}"
        made = cut(at, error, lambda out=out: run(verb, out=out, **arguments), RunFolderError)
        begun = (out / "config.json").exists()
        assert run(verb, out=out, **({"data": arrays, "resume": True} if begun else arguments)).finished
        assert len(read_result(out / "result.json").epochs) == 2
        for name in ("last", "best"):
            assert same_weights(tmp_path / "whole" / f"{name}.safetensors", out / f"{name}.safetensors"), made
        assert rows(out) == rows(tmp_path / "whole"), made
        assert drafts(out) == [], made


@EVERY
def test_overwriting_a_run_survives_kills(stride, arrays, tmp_path, small, every_epoch):
    """Killed while it empties the folder, the run never looks like the earlier one. The same command restarts it."""
    arguments = {"data": arrays, **small, **TINY}
    feathervit.train(out=tmp_path / "whole", **arguments)
    feathervit.train(out=tmp_path / "earlier", **arguments | {"seed": 1})
    shutil.copytree(tmp_path / "earlier", tmp_path / "counted")
    with from_change(math.inf, Killed) as changes:
        feathervit.train(out=tmp_path / "counted", overwrite=True, **arguments)
    for at in range(0, len(changes), stride):
        out = tmp_path / f"{at}"
        shutil.copytree(tmp_path / "earlier", out)
        made = cut(at, Killed, lambda out=out: feathervit.train(out=out, overwrite=True, **arguments), RunFolderError)
        if (out / "config.json").exists():
            assert feathervit.train(out=out, resume=True, data=arrays).finished
            whole = "earlier" if read_config(out).seed else "whole"
        else:
            feathervit.train(out=out, overwrite=True, **arguments)
            whole = "whole"
        assert same_weights(tmp_path / whole / "last.safetensors", out / "last.safetensors"), made
        assert rows(out) == rows(tmp_path / whole), made


def test_epochs_appear_once_after_an_early_kill(arrays, tmp_path, small, monkeypatch):
    arguments = {"data": arrays, **small, **TINY, "epochs": 5}
    feathervit.train(out=tmp_path / "whole", **arguments)
    step = trainer.Trainer.train_step

    def dying(self, number, lr):
        if number == 3:
            raise Killed
        step(self, number, lr)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer.Trainer, "train_step", dying)
        feathervit.train(out=tmp_path / "cut", **arguments)
    assert len(rows(tmp_path / "cut")) == 3 and not list((tmp_path / "cut").glob("state*"))
    assert feathervit.train(out=tmp_path / "cut", resume=True, data=arrays).finished
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")


# --- studies


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of digits, and its outcome."""
    out = tmp_path_factory.mktemp("trained") / "run"
    fields = {"img_size": 8, "patch_size": 2, "arch.depth": 1, "arch.dim": 16, "split.train_per_class": 8}
    return feathervit.train("digits", out=out, epochs=1, **fields)


@EVERY
@pytest.mark.parametrize("error", [Killed, full])
def test_study_survives_faults(error, stride, tmp_path, trained, monkeypatch):
    """Tests the study's own files. Other tests resume the run of a cell."""
    ended = []

    def train(*_, out, **__):  # a run without the work
        make_folder(out)
        write_bytes(out / "result.json", (trained.folder / "result.json").read_bytes())
        ended.append(out.parent.parent.name)
        return trained

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(reports, "_chart", lambda found, path: write_bytes(path, b"chart"))
    monkeypatch.setattr(runs, "figures", lambda *_: {"val_top1": 0.5, "test_top1": 0.5, "minutes": 0.0})
    study = Study("digits", "Which?", recipe("digits"), {"a": {}, "b": {"lr": 1e-3}}, {"": Size((0,), {}, 1)})
    with from_change(math.inf, Killed) as changes:
        run_study(study, tmp_path / "whole")
    for at in range(0, len(changes), stride):
        out = tmp_path / f"{at}"
        made = cut(at, error, lambda out=out: run_study(study, out), RunFolderError)
        if error is Killed:  # the dead owner's claims name a process that does not exist
            for path in out.rglob("claim-*.json"):
                path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 4194304'))
        done = [arm for arm in "ab" if read_cell(out, arm, 0)]
        before = [(out / "cells" / arm / "seed-0" / "cell.json").read_bytes() for arm in done]
        ended.clear()
        assert run_study(study, out).left == 0, made
        assert not set(ended) & set(done), made
        assert [(out / "cells" / arm / "seed-0" / "cell.json").read_bytes() for arm in done] == before
        assert [(c["arm"], c["status"]) for c in json.loads((out / "study.json").read_text())["cells"]] == [
            ("a", "finished"),
            ("b", "finished"),
        ]


def test_an_empty_claim_has_no_owner(tmp_path, monkeypatch):
    def failing(*_):
        raise full()

    with monkeypatch.context() as patch, pytest.raises(RunFolderError, match="No space left"):
        patch.setattr("feathervit.studies.claim.json.dumps", failing)
        claim(tmp_path)
    assert claim(tmp_path) is not None


# --- exports


@EVERY
@pytest.mark.parametrize("error", [Killed, full])
def test_export_survives_faults(error, stride, tmp_path, trained):
    """It is complete, with "finished" in export.json, or the same command repeats it. A full disk leaves no folder."""
    run = shutil.copytree(trained.folder, tmp_path / "run")
    with from_change(math.inf, Killed) as changes:
        export_model(run, "huggingface", tmp_path / "whole")
    wanted = {path.name for path in (tmp_path / "whole").iterdir()}
    for at in range(0, len(changes), stride):
        out = tmp_path / f"{at}"
        made = cut(at, error, lambda out=out: export_model(run, "huggingface", out), RunFolderError)
        record = out / "export.json"
        if record.exists() and json.loads(record.read_text())["finished"]:
            assert {path.name for path in out.iterdir()} >= wanted, made
        else:
            assert error is Killed or not out.exists(), made
        export_model(run, "huggingface", out)
        assert {path.name for path in out.iterdir()} == wanted, made
        assert same_weights(tmp_path / "whole" / "model.safetensors", out / "model.safetensors")
        assert json.loads((out / "export.json").read_text())["finished"]


# --- the cache of decoded images


@pytest.mark.parametrize("error", [Killed, full])
def test_cache_survives_faults(error, tmp_path, monkeypatch):
    images = write_images(tmp_path / "set", 4)
    whole = load_data(images, img_size=8).train.images.clone()
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "counted"))
    with from_change(math.inf, Killed) as changes:
        load_data(images, img_size=8)
    assert len(changes) > 10
    for at in range(len(changes)):
        monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / f"{at}"))
        made = cut(at, error, lambda: load_data(images, img_size=8), DataError)
        if error is full:
            assert not list(Path(tmp_path / f"{at}").rglob("*.tmp")), made
        assert torch.equal(load_data(images, img_size=8).train.images, whole), made


def test_a_removed_cache_stays_readable_while_in_use(tmp_path):
    data = load_data(write_images(tmp_path / "set", 4), img_size=8)
    before = data.train.images.clone()
    assert cache.clear_cache() > 0
    assert torch.equal(data.train.images, before)

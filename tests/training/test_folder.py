"""A run folder holds one training at a time. tests/reliability/test_lock.py starts two commands."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

import feathervit
from feathervit.errors import FeatherVitError, RunFolderError
from feathervit.training.folder import held


@pytest.fixture
def arguments(arrays, small) -> dict:
    return {"data": arrays, "epochs": 1, **small}


def _holds(out: Path) -> None:
    with held(out, resume=True, overwrite=False):
        (out / "holding").touch()
        time.sleep(600)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process")
def test_a_process_holds_its_folder_until_it_is_killed(arguments, tmp_path):
    out = tmp_path / "run"
    feathervit.train(out=out, **arguments)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    other = multiprocessing.get_context("fork").Process(target=_holds, args=(out,))
    other.start()
    try:
        while not (out / "holding").exists():
            time.sleep(0.01)
        for options in ({}, {"overwrite": True}, {"resume": True, "data": arguments["data"]}):
            with pytest.raises(RunFolderError, match="another process is training"):
                feathervit.train(out=out, **({} if "resume" in options else arguments) | options)
    finally:
        other.kill()
        other.join()
    (out / "holding").unlink()
    assert before == {name: (out / name).read_bytes() for name in before}
    assert feathervit.train(out=out, overwrite=True, **arguments).finished
    assert {path.name for path in out.iterdir() if path.is_file()} == before.keys()


@pytest.mark.parametrize("config", [None, '{"my": 1}'])
def test_a_folder_that_is_no_run_is_never_overwritten(arguments, tmp_path, config):
    mine = tmp_path / "mine"
    (mine / "report").mkdir(parents=True)
    (mine / "report" / "holiday.png").write_text("mine")
    (mine / "notes.txt").write_text("mine")
    if config:
        (mine / "config.json").write_text(config)
    before = {path: path.read_text() for path in mine.rglob("*") if path.is_file()}
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match="no run"):
            feathervit.train(out=mine, overwrite=overwrite, **arguments)
    assert before == {path: path.read_text() for path in mine.rglob("*") if path.is_file()}


def test_a_new_folder_is_held_from_the_start(arguments, tmp_path):
    out = tmp_path / "run"
    with held(out, resume=False, overwrite=False), pytest.raises(RunFolderError, match="another process is training"):
        feathervit.train(out=out, **arguments)
    assert feathervit.train(out=out, **arguments).finished


def test_a_failed_training_releases_its_folder(arguments, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FeatherVitError):
        feathervit.train(out=out, **arguments, accumulate=3)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        feathervit.train(out=out, **arguments)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert feathervit.train(out=out, **arguments).finished

"""A run stopped, killed and resumed ends in the same weights."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from dataclasses import replace

import pytest

import feathervit
from feathervit.errors import RunFolderError
from feathervit.results import read_result
from feathervit.training import state as saving
from feathervit.training import trainer

from ..conftest import same_weights
from ..reliability.faults import rows

AUGMENTED = {
    "optim.ema": 0.8,
    "augment.flip": "alternating",
    "augment.crop": "resized",
    "augment.policy": "trivial",
    "augment.mixup": 0.2,
    "augment.erasing": 0.3,
    "loss.label_smoothing": 0.1,
    "epochs": 4,
}


def _train_until(step: int, arguments: dict) -> None:
    """Trains in another process with a state after every step, and gets SIGKILL when `step` starts."""
    original = trainer.Trainer.train_step

    def dying(self, number, lr):
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, number, lr)

    trainer.Trainer.train_step = dying
    saving.CHECKPOINT_SECONDS = saving.SHORT_EPOCH_SECONDS = 0.0
    feathervit.train(**arguments)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_run_killed_three_times_resumes_exactly(arrays, tmp_path, small):
    arguments = {"data": arrays, **small, **AUGMENTED}
    feathervit.train(out=tmp_path / "whole", **arguments)
    steps = 4 * (86 // 32)
    for n, step in enumerate(sorted(random.Random(5).sample(range(1, steps), 3))):
        process = multiprocessing.get_context("fork").Process(
            target=_train_until, args=(step, {**arguments, "out": tmp_path / "cut", "resume": n > 0})
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert feathervit.train(out=tmp_path / "cut", resume=True, data=arrays).finished
    assert same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")
    assert same_weights(tmp_path / "whole" / "best.safetensors", tmp_path / "cut" / "best.safetensors")
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")


def test_a_run_of_single_steps_resumes_exactly_in_bfloat16(arrays, tmp_path, small):
    arguments = {"data": arrays, **small, **AUGMENTED, "precision": "bfloat16"}
    feathervit.train(out=tmp_path / "whole", **arguments)
    outcome = feathervit.train(out=tmp_path / "cut", max_minutes=1e-6, **arguments)
    pieces = 1
    while not outcome.finished:
        outcome = feathervit.train(out=tmp_path / "cut", resume=True, data=arrays, max_minutes=1e-6)
        pieces += 1
    assert pieces == 8  # one step each
    assert same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")


def test_interrupt_stops_after_the_step_and_suggests_resume(arrays, tmp_path, small, monkeypatch, capsys):
    original = trainer.Trainer.train_step

    def interrupted(self, number, lr):
        original(self, number, lr)
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(trainer.Trainer, "train_step", interrupted)
    outcome = feathervit.train(data=arrays, out=tmp_path / "run", epochs=3, **small)
    assert not outcome.finished
    assert outcome.interrupted
    assert "stopped after step 3 of 6" in (output := capsys.readouterr().err)
    assert "--resume" in output
    assert feathervit.train(data=arrays, out=tmp_path / "run", resume=True).finished


def test_a_resumed_run_can_be_made_shorter(arrays, tmp_path, small):
    out = tmp_path / "run"
    fields = {**small, "optim.min_lr": 1e-5}
    stopped = feathervit.train(data=arrays, out=out, max_minutes=1e-6, epochs=30, command="first", **fields)
    assert (stopped.finished, stopped.result) == (False, None)  # in its first epoch there are no figures
    stopped = feathervit.train(
        data=arrays, out=out, resume=True, max_minutes=1e-6
    )  # the second and last step of the epoch
    assert not stopped.finished
    result = read_result(out / "result.json")
    assert not result.finished
    assert [row["epoch"] for row in result.epochs] == [1]
    assert result.val["n"] == 10
    while not stopped.result or len(stopped.result.epochs) < 2:
        stopped = feathervit.train(data=arrays, out=out, resume=True, max_minutes=1e-6)
    with pytest.raises(RunFolderError, match="epoch 2 already"):
        feathervit.train(data=arrays, out=out, resume=True, epochs=1)
    outcome = feathervit.train(data=arrays, out=out, resume=True, epochs=3, command="shorter")
    assert outcome.finished
    assert read_result(out / "result.json").finished
    assert [row["epoch"] for row in outcome.result.epochs] == [1, 2, 3]
    assert outcome.result.epochs[-1]["lr"] == pytest.approx(1e-5)  # the last step's
    assert (outcome.result.command, outcome.result.resumed) == ("first", ["feathervit.train(...)", "shorter"])


def test_resume_refuses_other_images_in_any_split(arrays, tmp_path, small):
    images, labels = arrays
    data = {
        "train": (images[:60], labels[:60]),
        "val": (images[60:80], labels[60:80]),
        "test": (images[80:], labels[80:]),
    }
    feathervit.train(data=data, out=tmp_path / "run", max_minutes=1e-6, epochs=3, **small)
    for split, (pixels, names) in data.items():
        with pytest.raises(RunFolderError, match="data has changed"):
            feathervit.train(data={**data, split: (255 - pixels, names)}, out=tmp_path / "run", resume=True)
    assert feathervit.train(data=data, out=tmp_path / "run", resume=True).finished


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_the_same_edited_recipe_resumes(name, folder, tmp_path, small):
    config = replace(feathervit.recipe(name), epochs=2, model="mlit_nano")
    options = {"data": folder, "out": tmp_path / "run", "start_from": "none", **small}
    assert not feathervit.train(config, max_minutes=1e-9, **options).finished
    assert feathervit.train(config, resume=True, **options).finished


def test_unreadable_images_stay_skipped(folder, tmp_path, small, capsys):
    (folder / "train" / "flat" / "0.png").write_bytes(b"no image")
    out = tmp_path / "run"
    feathervit.train(data=folder, out=out, epochs=2, max_minutes=1e-9, skip_unreadable=True, **small)
    capsys.readouterr()
    assert feathervit.train(out=out, resume=True).finished
    assert "are done" not in capsys.readouterr().err
    feathervit.train(out=out, resume=True)
    assert "all 2 epochs of this run are done" in capsys.readouterr().err

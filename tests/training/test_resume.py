"""A run stopped, killed and resumed ends in the same weights."""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import shutil
import signal
from dataclasses import replace

import pytest
import torch

import feathervit
from feathervit.checkpoint import load_state, load_weights, save_state
from feathervit.errors import CheckpointError, RunFolderError
from feathervit.results import read_result
from feathervit.training import loop


def same_weights(a, b) -> bool:
    x, y = load_weights(a).weights, load_weights(b).weights
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


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
    original = loop.Trainer.train_step

    def dying(self, number, lr):
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, number, lr)

    loop.Trainer.train_step = dying
    loop.CHECKPOINT_SECONDS = loop.SHORT_EPOCH_SECONDS = 0.0
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
    rows = [
        [
            {k: v for k, v in row.items() if k != "minutes"}
            for row in csv.DictReader((tmp_path / n / "metrics.csv").open())
        ]
        for n in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


def test_a_run_of_single_steps_resumes_exactly(arrays, tmp_path, small):
    arguments = {"data": arrays, **small, **AUGMENTED}
    feathervit.train(out=tmp_path / "whole", **arguments)
    outcome = feathervit.train(out=tmp_path / "cut", max_minutes=1e-6, **arguments)
    pieces = 1
    while not outcome.finished:
        outcome = feathervit.train(out=tmp_path / "cut", resume=True, data=arrays, max_minutes=1e-6)
        pieces += 1
    assert pieces == 8  # one step each
    assert same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "cut" / "last.safetensors")


def test_interrupt_stops_after_the_step_and_suggests_resume(arrays, tmp_path, small, monkeypatch, capsys):
    original = loop.Trainer.train_step

    def interrupted(self, number, lr):
        original(self, number, lr)
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Trainer, "train_step", interrupted)
    outcome = feathervit.train(data=arrays, out=tmp_path / "run", epochs=3, **small)
    assert not outcome.finished
    assert outcome.interrupted
    assert "stopped after step 3 of 6" in (output := capsys.readouterr().err)
    assert "--resume" in output
    assert feathervit.train(data=arrays, out=tmp_path / "run", resume=True).finished


def test_resume_refuses_other_data_and_settings(arrays, tmp_path, small):
    out = tmp_path / "run"
    feathervit.train(data=arrays, out=out, max_minutes=1e-6, epochs=3, **small)
    images, labels = arrays
    with pytest.raises(RunFolderError, match="data has changed"):
        feathervit.train(data=(255 - images, labels), out=out, resume=True)
    with pytest.raises(RunFolderError, match=r"lr was 0.003, now 0.1"):
        feathervit.train(data=arrays, out=out, resume=True, lr=0.1)
    outcome = feathervit.train(data=arrays, out=out, resume=True, epochs=4)
    assert len(outcome.result.epochs) == 4


def test_a_resumed_run_can_be_made_shorter(arrays, tmp_path, small):
    out = tmp_path / "run"
    fields = {**small, "optim.min_lr": 1e-5}
    stopped = feathervit.train(data=arrays, out=out, max_minutes=1e-6, epochs=30, **fields)
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
    outcome = feathervit.train(data=arrays, out=out, resume=True, epochs=3)
    assert outcome.finished
    assert read_result(out / "result.json").finished
    assert [row["epoch"] for row in outcome.result.epochs] == [1, 2, 3]
    assert outcome.result.epochs[-1]["lr"] == pytest.approx(1e-5)  # the last step's


@pytest.mark.parametrize("split", ["val", "test"])
def test_resume_refuses_other_images_in_any_split(arrays, tmp_path, small, split):
    images, labels = arrays
    data = {
        "train": (images[:60], labels[:60]),
        "val": (images[60:80], labels[60:80]),
        "test": (images[80:], labels[80:]),
    }
    feathervit.train(data=data, out=tmp_path / "run", max_minutes=1e-6, epochs=3, **small)
    other = {**data, split: (255 - data[split][0], data[split][1])}
    with pytest.raises(RunFolderError, match="data has changed"):
        feathervit.train(data=other, out=tmp_path / "run", resume=True)
    assert feathervit.train(data=data, out=tmp_path / "run", resume=True).finished


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, meta: meta.pop("progress"),
        lambda tensors, meta: meta["progress"].update(step="many"),
        lambda tensors, meta: meta["progress"].update(surprise=1),
        lambda tensors, meta: tensors.pop("sums"),
        lambda tensors, meta: tensors.update({"model.head.weight": torch.zeros(1)}),
        lambda tensors, meta: tensors.update({"optimizer.x.y": torch.zeros(1)}),
    ],
)
def test_a_state_of_another_run_is_refused(arrays, tmp_path, small, spoil):
    out = tmp_path / "run"
    feathervit.train(data=arrays, out=out, max_minutes=1e-6, epochs=3, **small)
    tensors, meta, _ = load_state(out)
    spoil(tensors, meta)
    save_state(out, tensors, {k: v for k, v in meta.items() if k != "format"})
    with pytest.raises(CheckpointError, match="does not fit the run"):
        feathervit.train(data=arrays, out=out, resume=True)


def test_a_full_disk_keeps_the_previous_checkpoint(arrays, tmp_path, small, monkeypatch):
    out = tmp_path / "run"
    feathervit.train(data=arrays, out=out, max_minutes=1e-6, epochs=3, **small)
    before = (out / "state.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError, match=r"run.*No space left on device.*KiB"):
            feathervit.train(data=arrays, out=out, resume=True)
    assert (out / "state.safetensors").read_bytes() == before
    assert not [p for p in out.iterdir() if p.name.endswith(".tmp")]
    assert feathervit.train(data=arrays, out=out, resume=True).finished


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_run_killed_at_any_step_resumes_exactly(arrays, tmp_path, small):
    arguments = {"data": arrays, **small, **AUGMENTED}
    feathervit.train(out=tmp_path / "whole", **arguments)
    for step in range(8):
        out = tmp_path / "cut"
        shutil.rmtree(out, ignore_errors=True)
        process = multiprocessing.get_context("fork").Process(
            target=_train_until, args=(step, {**arguments, "out": out})
        )
        process.start()
        process.join()
        assert feathervit.train(out=out, resume=True, data=arrays).finished
        assert same_weights(tmp_path / "whole" / "last.safetensors", out / "last.safetensors")


def test_the_same_configuration_resumes(arrays, tmp_path, small):
    config = replace(feathervit.recipe("digits"), epochs=2, model="mlit_nano")
    options = {"data": arrays, "out": tmp_path / "run", **small}
    assert not feathervit.train(config, max_minutes=1e-9, start_from="none", **options).finished
    assert feathervit.train(config, resume=True, start_from="none", **options).finished


def test_the_same_edited_recipe_resumes(folder, tmp_path, small):
    config = replace(feathervit.recipe("folder"), epochs=2, start_from="none")
    options = {"data": folder, "out": tmp_path / "run", **small}
    assert not feathervit.train(config, max_minutes=1e-9, **options).finished
    assert feathervit.train(config, resume=True, **options).finished


def test_unreadable_images_stay_skipped(folder, tmp_path, small):
    (folder / "train" / "flat" / "0.png").write_bytes(b"no image")
    out = tmp_path / "run"
    feathervit.train(data=folder, out=out, epochs=2, max_minutes=1e-9, skip_unreadable=True, **small)
    assert feathervit.train(out=out, resume=True).finished

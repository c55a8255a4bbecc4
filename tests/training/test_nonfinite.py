"""A loss that is not finite: the run stops, steps are skipped, and the last good state is kept."""

from __future__ import annotations

import math

import pytest
import torch

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.errors import DivergedError
from feathervit.training import state as saving
from feathervit.training import trainer


def test_a_nonfinite_loss_stops_the_run(arrays, tmp_path, small):
    with pytest.raises(DivergedError, match="learning rate"):
        feathervit.train(data=arrays, out=tmp_path / "run", epochs=3, **{**small, "lr": 1e30, "arch.drop_rate": 0.0})


def test_a_step_with_a_nonfinite_loss_can_be_skipped(arrays, tmp_path, small, monkeypatch, capsys):
    from feathervit.training.objectives import Classification

    original, calls = Classification.forward, []

    def sometimes_nan(self, x, targets):
        calls.append(1)
        loss, figures = original(self, x, targets)
        return loss * (float("nan") if len(calls) == 3 else 1.0), figures

    monkeypatch.setattr(Classification, "forward", sometimes_nan)
    outcome = feathervit.train(data=arrays, out=tmp_path / "run", epochs=3, on_nonfinite="skip", **small)
    assert outcome.finished
    assert "1 steps were skipped" in capsys.readouterr().err
    assert all(torch.isfinite(t).all() for t in load_weights(tmp_path / "run").weights.values())
    calls.clear()
    with pytest.raises(DivergedError, match="by step 4 at learning rate"):
        feathervit.train(data=arrays, out=tmp_path / "stopped", epochs=3, **small)


def test_untested_weights_are_not_the_last_good_state(arrays, tmp_path, small, monkeypatch):
    """The weights break in the last step before a state is written."""
    monkeypatch.setattr(saving, "SHORT_EPOCH_SECONDS", 0.0)
    original = trainer.Trainer.train_step

    def breaking(self, number, lr):
        original(self, number, lr)
        if number == 5:  # the last step of the third epoch
            with torch.no_grad():
                self.model.head.weight.fill_(1e38)

    monkeypatch.setattr(trainer.Trainer, "train_step", breaking)
    monkeypatch.setattr(saving, "WRITING_SHARE", 1e9)
    arguments = {"data": arrays, "out": tmp_path / "run", **small, "split.val_fraction": 0.0}
    with pytest.raises(DivergedError, match="last good state"):
        feathervit.train(epochs=6, **arguments)
    monkeypatch.setattr(trainer.Trainer, "train_step", original)
    again = feathervit.train(data=arrays, out=tmp_path / "run", resume=True, on_nonfinite="skip")
    assert again.result.skipped_steps == 0
    assert all(math.isfinite(row["train_loss"]) for row in again.result.epochs)


def test_a_good_state_survives_failed_attempts(arrays, tmp_path, small, monkeypatch):
    """The weights break in the first step after the good state, and the end of the epoch notices it."""
    original = trainer.Trainer.train_step

    def breaking(self, number, lr):
        original(self, number, lr)
        if number == 2:
            with torch.no_grad():
                self.model.head.weight.fill_(1e38)

    monkeypatch.setattr(trainer.Trainer, "train_step", breaking)
    monkeypatch.setattr(saving, "SHORT_EPOCH_SECONDS", 1e9)
    monkeypatch.setattr(saving, "CHECKPOINT_SECONDS", -1.0)  # a state after each step
    arguments = {"data": arrays, "out": tmp_path / "run"}
    with pytest.raises(DivergedError, match="last good state"):
        feathervit.train(epochs=6, **arguments, **small, **{"split.val_fraction": 0.0})
    monkeypatch.setattr(saving, "CHECKPOINT_SECONDS", 1e9)
    for _ in range(3):
        with pytest.raises(DivergedError, match="last good state"):
            feathervit.train(resume=True, **arguments)
    monkeypatch.setattr(trainer.Trainer, "train_step", original)
    assert feathervit.train(resume=True, **arguments).finished


def test_endless_skipping_stops_the_run(arrays, tmp_path, small):
    with pytest.raises(DivergedError, match="learning rate"):
        fields = {**small, "lr": 1e30, "split.val_fraction": 0.0}
        feathervit.train(data=arrays, out=tmp_path / "run", epochs=60, on_nonfinite="skip", **fields)


def test_nonfinite_validation_output_stops_the_run(folder, tmp_path, small, monkeypatch):
    monkeypatch.setattr(trainer, "accuracy_and_loss", lambda *_: (0.5, math.nan, 0.5))
    with pytest.raises(DivergedError, match="stopped being finite"):
        feathervit.train(data=folder, out=tmp_path / "run", epochs=2, **small)

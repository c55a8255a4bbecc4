"""Minutes are converted to epochs once, before training."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.config import RunConfig
from feathervit.errors import ConfigError
from feathervit.results import read_config
from feathervit.training import timing
from feathervit.training.timing import SHARE, Budget, Timing


def test_a_budget_gives_the_most_epochs_that_fit():
    config = RunConfig(epochs=100)
    config = replace(config, optim=replace(config.optim, warmup_epochs=5.0))
    found = Timing(step=0.01, epoch=1.7)
    fitted = Budget(3.0).fit(config, found)
    assert found.seconds(fitted.epochs) <= 180 < found.seconds(fitted.epochs + 1)
    assert fitted.optim.warmup_epochs / fitted.epochs == pytest.approx(0.05)
    assert Budget(3.0, keep_warmup=True).fit(config, found).optim.warmup_epochs == 5
    assert Budget(0.001).fit(config, found).epochs == 1
    assert Budget(60.0, exactly=False).fit(config, found) == config  # the recipe's own length fits
    assert Budget(1.7 / 60 * 8 / SHARE + 1e-9, exactly=False).fit(config, found).epochs == 8


def test_minutes_give_the_same_run_as_epochs(arrays, tmp_path, small, monkeypatch):
    """Measuring does not change the training, and config.json holds the epochs for a resumed run."""
    ticks = itertools.count()
    monkeypatch.setattr(
        timing.time, "perf_counter", lambda: float(next(ticks))
    )  # each call advances the clock by a second
    fields = {**small, "optim.ema": 0.9, "augment.mixup": 0.2, "augment.flip": "random"}
    out = tmp_path / "minutes"
    # A round of three steps takes a second, validation another: 2 steps of 1/3 s and 1 s per epoch.
    minutes = 3 * (2 / 3 + 1) / SHARE / 60 + 1e-6
    feathervit.train(data=arrays, out=out, minutes=minutes, max_minutes=1e-6, **fields)
    assert read_config(out).epochs == 3
    feathervit.train(data=arrays, out=out, resume=True)
    feathervit.train(data=arrays, out=tmp_path / "epochs", epochs=3, **fields)
    assert read_config(out) == read_config(tmp_path / "epochs")
    a, b = (load_weights(tmp_path / name / "last.safetensors").weights for name in ("minutes", "epochs"))
    assert all(a[name].equal(b[name]) for name in a)


def test_minutes_are_for_new_runs_without_epochs(arrays, tmp_path, small):
    with pytest.raises(ConfigError, match="epochs"):
        feathervit.train(data=arrays, out=tmp_path / "run", minutes=1.0, epochs=3, **small)
    with pytest.raises(ConfigError, match="resume"):
        feathervit.train(data=arrays, out=tmp_path / "run", minutes=1.0, resume=True)
    with pytest.raises(ConfigError, match="above 0"):
        feathervit.train(data=arrays, out=tmp_path / "run", minutes=float("nan"), **small)
    assert not (tmp_path / "run").exists()


def test_user_images_get_at_most_ten_minutes(arrays, tmp_path, small, monkeypatch, capsys):
    slow = Timing(step=10.0, epoch=120.0)
    monkeypatch.setattr("feathervit.training.train.measure", lambda *_, **__: slow)
    feathervit.train(data=arrays, out=tmp_path / "run", max_minutes=1e-6, **small)
    epochs = read_config(tmp_path / "run").epochs
    assert slow.seconds(epochs) <= 600 < slow.seconds(epochs + 1)
    assert f"--epochs {2 * epochs}" in capsys.readouterr().err  # the epochs for twice the time

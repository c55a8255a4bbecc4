"""TensorBoard's own reader finds the figures of metrics.csv in the events."""

from __future__ import annotations

import importlib.util

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import feathervit
from feathervit.errors import ConfigError, RunFolderError
from feathervit.training.records import EventsFile, MetricsFile


def scalars(folder) -> dict[int, dict[str, float]]:
    """epoch -> name -> value, as TensorBoard shows them. An epoch that was written twice would show."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in found.setdefault(event.step, {})
            found[event.step][name] = event.value
    return found


def same(folder) -> int:
    """The epochs that the events and metrics.csv of a run agree on."""
    rows = {}
    for row in MetricsFile(folder / "metrics.csv").rows():
        epoch = row.pop("epoch")
        assert epoch not in rows
        rows[epoch] = {name: value for name, value in row.items() if value is not None}
    found = scalars(folder / "tensorboard")
    assert found.keys() == rows.keys()
    for epoch, row in rows.items():
        assert found[epoch] == pytest.approx(row, rel=1e-6)  # float32
    return len(rows)


def test_the_events_are_the_rows(folder, small, tmp_path):
    out = tmp_path / "run"
    run = {"data": folder, "out": out, **small}
    feathervit.train(epochs=2, tensorboard=True, **run)
    assert same(out) == 2
    assert {"train_loss", "train_balance", "val_loss", "val_top1", "lr"} <= scalars(out / "tensorboard")[1].keys()
    feathervit.train(epochs=4, out=out, resume=True)
    assert same(out) == 4
    feathervit.train(epochs=1, tensorboard=True, overwrite=True, **run)
    assert same(out) == 1
    assert len(list((out / "tensorboard").iterdir())) == 1
    feathervit.train(epochs=1, overwrite=True, **run)
    assert not list((out / "tensorboard").iterdir())
    feathervit.train(epochs=2, out=out, resume=True, tensorboard=True)  # it may be asked for later
    assert scalars(out / "tensorboard").keys() == {2}


def test_epochs_that_are_run_again_are_there_once(tmp_path):
    for first, loss in ((1, 0.5), (3, 0.25)):  # killed in epoch 5, its last state after the second
        events = EventsFile(tmp_path)
        for epoch in range(first, 5):
            events.write({"epoch": epoch, "loss": loss, "nothing": None, "word": "x"})
        events.close()
    assert scalars(tmp_path) == {1: {"loss": 0.5}, 2: {"loss": 0.5}, 3: {"loss": 0.25}, 4: {"loss": 0.25}}


def test_a_run_killed_before_its_first_state_has_each_epoch_once(folder, small, tmp_path):
    out = tmp_path / "run"
    feathervit.train(data=folder, out=out, epochs=2, tensorboard=True, **small)
    for path in out.glob("*.safetensors"):
        path.unlink()
    feathervit.train(out=out, resume=True)
    assert same(out) == 2


def test_without_the_extra(folder, small, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else real(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"feathervit\[tensorboard\]"):
        feathervit.train(data=folder, out=tmp_path / "run", tensorboard=True, **small)
    assert not (tmp_path / "run" / "config.json").exists()
    feathervit.train(data=folder, out=tmp_path / "run", epochs=1, **small)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(RunFolderError, match="tensorboard"):
        EventsFile(tmp_path / "tensorboard").write({"epoch": 1, "loss": 0.5})

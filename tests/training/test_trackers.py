"""Each tracker's own reader finds the rows of metrics.csv, the configuration and the report, offline."""

from __future__ import annotations

import importlib.util
import json
import struct

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import feathervit
from feathervit.cli import main
from feathervit.config import RunConfig, from_dict
from feathervit.errors import ConfigError, RunFolderError
from feathervit.training import trackers
from feathervit.training.records import MetricsFile
from feathervit.training.trackers import Trackers


def scalars(folder) -> dict[int, dict[str, float]]:
    """epoch -> name -> value, as TensorBoard shows them. Fails if an epoch was written twice."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in found.setdefault(event.step, {})
            found[event.step][name] = event.value
    return found


def matching_epochs(folder) -> int:
    """Checks that the events and metrics.csv of a run agree, and returns the number of epochs."""
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


def test_events_equal_the_rows(folder, small, tmp_path):
    out = tmp_path / "run"
    run = {"data": folder, "out": out, **small}
    feathervit.train(epochs=2, log=("tensorboard",), **run)
    assert matching_epochs(out) == 2
    assert {"train_loss", "train_balance", "val_loss", "val_top1", "lr"} <= scalars(out / "tensorboard")[1].keys()
    feathervit.train(epochs=4, out=out, resume=True)
    assert matching_epochs(out) == 4
    feathervit.train(epochs=1, log=("tensorboard",), overwrite=True, **run)
    assert matching_epochs(out) == 1
    assert len(list((out / "tensorboard").iterdir())) == 1
    feathervit.train(epochs=1, overwrite=True, **run)
    assert not list((out / "tensorboard").iterdir())
    feathervit.train(epochs=2, out=out, resume=True, log=("tensorboard",))  # the tracker can be added later
    assert scalars(out / "tensorboard").keys() == {2}


def test_repeated_epochs_appear_once(tmp_path):
    for first, loss in ((1, 0.5), (3, 0.25)):  # killed in epoch 5; the last state is from epoch 2
        trackers = Trackers(("tensorboard",), tmp_path)
        trackers.start({})
        for epoch in range(first, 5):
            trackers.write({"epoch": epoch, "loss": loss, "nothing": None, "word": "x"})
        trackers.close()
    assert scalars(tmp_path / "tensorboard") == {
        1: {"loss": 0.5},
        2: {"loss": 0.5},
        3: {"loss": 0.25},
        4: {"loss": 0.25},
    }


def test_epochs_appear_once_after_an_early_kill(folder, small, tmp_path):
    out = tmp_path / "run"
    feathervit.train(data=folder, out=out, epochs=2, log=("tensorboard",), **small)
    for path in out.glob("*.safetensors"):
        path.unlink()
    feathervit.train(out=out, resume=True)
    assert matching_epochs(out) == 2


@pytest.fixture
def reported(monkeypatch):
    """Replaces the report by one page and one chart, which are quick to make."""

    def report(out, *_):
        (out / "report").mkdir(exist_ok=True)
        (out / "report.html").write_text("<p>report</p>")
        Image.new("RGB", (4, 3), "red").save(out / "report" / "curve.png")
        return ""

    monkeypatch.setattr("feathervit.training.conclusion.report_at_end", report)


def test_tensorboard_has_the_configuration_and_charts(folder, small, tmp_path, reported):
    feathervit.train(data=folder, out=tmp_path / "run", epochs=1, log=("tensorboard",), **small)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["report/curve"]
    (chart,) = events.Images("report/curve")
    assert (chart.width, chart.height) == (4, 3)
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"epochs": 1' in text


def records(path):
    """The records of a W&B file: LevelDB's log format, in blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2 as messages

    data, offset, parts = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        if 32768 - offset % 32768 < 7:  # the rest of a block is padding
            offset += 32768 - offset % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[offset : offset + 7])
        parts += data[offset + 7 : offset + 7 + size]
        offset += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield messages.Record.FromString(parts)
            parts = b""


def test_wandb_offline(folder, small, tmp_path, monkeypatch, reported):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    feathervit.train(data=folder, out=out, epochs=2, log=("wandb",), **small)
    feathervit.train(out=out, epochs=3, resume=True)
    wandb.teardown()  # its process writes the last records after the run's end
    rows, configuration, files, runs, codes = {}, {}, set(), set(), []
    for path in sorted(out.glob("wandb/offline-run-*/run-*.wandb")):
        for record in records(path):
            if record.HasField("run"):
                runs.add(record.run.run_id)
                configuration |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("history"):
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                rows[record.history.step.num] = row
            if record.HasField("request") and record.request.HasField("log_artifact"):
                files |= {entry.path for entry in record.request.log_artifact.artifact.manifest.contents}
            if record.HasField("artifact"):
                files |= {entry.path for entry in record.artifact.manifest.contents}
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
    assert len(runs) == 1  # the resumed run continues it
    assert codes == [0, 0]
    assert configuration["split"] == json.loads((out / "config.json").read_text())["split"]
    assert "report.html" in files
    for row in MetricsFile(out / "metrics.csv").rows():
        found = rows[row.pop("epoch")]
        assert {name: found[name] for name in row} == pytest.approx(row)


def test_mlflow_in_a_folder(folder, small, tmp_path, monkeypatch, reported):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    out = tmp_path / "run"
    feathervit.train(data=folder, out=out, epochs=2, log=("mlflow",), **small)
    feathervit.train(out=out, epochs=3, resume=True)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("feathervit").experiment_id])
    assert run.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config.json", "report.html"}
    configuration = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/config.json")
    assert configuration == json.loads((out / "config.json").read_text())
    rows = MetricsFile(out / "metrics.csv").rows()
    assert len(rows) == 3
    for name in ("train_loss", "val_top1", "lr"):
        history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        assert history == pytest.approx({row["epoch"]: row[name] for row in rows})


def test_all_trackers_get_the_same_and_close_on_failure(tmp_path, monkeypatch):
    seen, closed = [], []

    class Fake:
        def __init__(self, folder, config):
            self.config = config

        def write(self, figures, epoch):
            seen.append((self.config, dict(figures), epoch))

        def close(self, finished):
            closed.append(finished)

    def refuses(folder, config):
        raise ConnectionError("no server")

    monkeypatch.setattr(trackers, "KINDS", {"tensorboard": Fake, "json": Fake, "csv": refuses})
    both = Trackers(("tensorboard", "json", "json"), tmp_path)
    both.start({"lr": 1})
    both.write({"epoch": 7, "loss": 0.5, "nothing": None})
    assert seen == [({"lr": 1}, {"loss": 0.5}, 7)] * 2
    with pytest.raises(ConfigError, match="no server"):
        monkeypatch.setattr(trackers, "HINTS", {"csv": "start one"})
        Trackers(("tensorboard", "csv"), tmp_path).start({})
    assert len(closed) == 1


def test_an_earlier_flag_names_its_replacement(tmp_path, capsys):
    assert main(["train", "--recipe", "digits", "--out", str(tmp_path / "run"), "--tensorboard"]) == 2
    assert "--log tensorboard" in capsys.readouterr().err


def test_an_earlier_configuration_is_read():
    assert from_dict(RunConfig, {"tensorboard": True}).log == ("tensorboard",)
    assert from_dict(RunConfig, {"tensorboard": False}).log == ()


def test_a_missing_extra_is_an_error(folder, small, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else real(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"feathervit\[tensorboard\]"):
        feathervit.train(data=folder, out=tmp_path / "run", log=("tensorboard",), **small)
    assert not (tmp_path / "run" / "config.json").exists()
    feathervit.train(data=folder, out=tmp_path / "run", epochs=1, **small)


def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    events = Trackers(("tensorboard",), tmp_path)
    events.start({})
    with pytest.raises(RunFolderError, match="tensorboard"):
        events.write({"epoch": 1, "loss": 0.5})

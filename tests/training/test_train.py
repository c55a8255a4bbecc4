"""A run from data to run folder."""

from __future__ import annotations

import csv
import itertools
import json
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.data import load_data
from feathervit.errors import ConfigError, FeatherVitError, RunFolderError
from feathervit.evaluation.evaluate import evaluate
from feathervit.results import read_result
from feathervit.training import train, trainer

from ..conftest import same_weights


def test_run_folder_and_figures(folder, tmp_path, small):
    out = tmp_path / "run"
    outcome = feathervit.train(data=folder, out=out, epochs=20, **small)
    assert outcome.finished
    names = {p.name for p in out.iterdir()}
    assert {"config.json", "splits.json", "metrics.csv", "result.json", "last.safetensors", "best.safetensors"} <= names
    result = read_result(out / "result.json")
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [int(r["epoch"]) for r in rows] == list(range(1, 21)) == [r["epoch"] for r in result.epochs]
    assert result.data["n_train"] + result.data["n_val"] == 72
    assert result.data["n_test"] == 24
    assert result.test["top1"] >= 0.9  # stripes are easy
    assert result.best["val_top1"] == max(r["val_top1"] for r in result.epochs)
    splits = json.loads((out / "splits.json").read_text())["splits"]
    train, val = set(splits["train"]["sources"]), set(splits["val"]["sources"])
    assert not train & val
    assert len(train | val) == 72
    _, again = evaluate(out / "best.safetensors", folder)
    assert again.top1 == result.test["top1"]
    assert again.nll == pytest.approx(result.test["nll"], rel=1e-6)


def test_prediction_equals_evaluation(folder, tmp_path, small):
    """An image gets the same probabilities from its file and from the stored dataset."""
    feathervit.train(data=folder, out=tmp_path / "run", epochs=2, **small)
    predictor = feathervit.load(tmp_path / "run")
    config = predictor.config
    test = load_data(folder, img_size=config.img_size, images=config.images, split=config.split).test
    stored = predictor.predict(test.images, top=3)
    files = predictor.predict([folder / s for s in test.sources], top=3)
    for a, b in zip(stored, files, strict=True):
        assert a.classes == b.classes
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-6)


@pytest.mark.parametrize(("recipe", "named"), [("mlit_cifar100", True), ("digits", False)])
def test_the_banner_names_the_papers_precision(recipe, named, arrays, tmp_path, small, capsys):
    arguments = {"data": arrays, "epochs": 1, "max_minutes": 1e-6, **small}
    feathervit.train(recipe, out=tmp_path / "bfloat16", precision="bfloat16", **arguments)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("device ")]
    assert "bfloat16" in line and (f"the source of {recipe} trained in float16" in line) == named
    feathervit.train(recipe, out=tmp_path / "float32", precision="float32", **arguments)
    assert "trained in" not in capsys.readouterr().err


def test_training_is_equal_with_data_on_the_host(arrays, tmp_path, small, monkeypatch, capsys):
    feathervit.train(data=arrays, out=tmp_path / "there", epochs=1, **small)
    assert "host's memory" not in capsys.readouterr().err
    monkeypatch.setattr("feathervit.data.feed.fits", lambda *_: False)
    monkeypatch.setattr(trainer, "fits", lambda *_: False)
    feathervit.train(data=arrays, out=tmp_path / "host", epochs=1, **small)
    assert "host's memory" in capsys.readouterr().err
    assert same_weights(tmp_path / "there", tmp_path / "host")


def test_only_the_seed_of_the_run_determines_the_weights(arrays, tmp_path, small):
    for name, seed, of_the_process in (("a", 1, 5), ("b", 1, 99), ("c", 2, 99)):
        for use in (torch.manual_seed, np.random.seed, random.seed):
            use(of_the_process)
        feathervit.train(data=arrays, out=tmp_path / name, epochs=1, seed=seed, **small)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_the_stored_weights_are_the_moving_average(arrays, tmp_path, small, monkeypatch):
    """Compares with the average written literally over the weights after each step."""
    seen: list[dict] = []
    original = trainer.Trainer.train_step

    def watched(self, number, lr):
        if not seen:
            seen.append({k: v.clone() for k, v in self.model.state_dict().items()})
        original(self, number, lr)
        seen.append({k: v.clone() for k, v in self.model.state_dict().items()})

    monkeypatch.setattr(trainer.Trainer, "train_step", watched)
    feathervit.train(data=arrays, out=tmp_path / "run", epochs=3, **{**small, "optim.ema": 0.5})
    average = seen[0]
    for number, weights in enumerate(seen[1:]):
        decay = min(0.5, 1 - (1 + max(number - 1, 0)) ** (-2 / 3)) if number > 0 else 0.0  # timm's warm-up
        average = {k: decay * average[k] + (1 - decay) * weights[k] for k in weights}
    kept = load_weights(tmp_path / "run" / "last.safetensors").weights
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, average[name], rtol=1e-5, atol=1e-6)


def test_predict_accepts_paths_images_and_arrays(folder, arrays, tmp_path, small):
    """Paths, PIL images (upright by EXIF), arrays of one or several sizes: the predictions are equal."""
    feathervit.train(data=folder, out=tmp_path / "run", epochs=2, **small)
    predictor = feathervit.load(tmp_path / "run")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = Image.fromarray(np.concatenate([arrays[0][0], arrays[0][1] // 2]))
    photograph.save(tmp_path / "turned.png", exif=exif)
    upright = photograph.transpose(Image.Transpose.ROTATE_270)
    by_path = predictor.predict(tmp_path / "turned.png")[0]
    with Image.open(tmp_path / "turned.png") as opened:
        found = predictor.predict([opened, upright, np.asarray(upright), np.asarray(upright).transpose(2, 0, 1)])
        found += predictor.predict(opened)
    assert len(found) == 5
    for guess in found:
        assert guess.classes == by_path.classes
        assert guess.probabilities == pytest.approx(by_path.probabilities, abs=1e-6)
    mixed = predictor.predict([arrays[0][0], np.asarray(upright), arrays[0][:2]])  # three sizes, four images
    assert [p.source for p in mixed] == [f"images[{i}]" for i in range(4)]
    assert mixed[2].probabilities == pytest.approx(mixed[0].probabilities, abs=1e-6)
    assert predictor.predict([]) == []


def test_nonempty_folders_are_refused(arrays, tmp_path, small):
    out = tmp_path / "run"
    feathervit.train(data=arrays, out=out, epochs=1, **small)
    with pytest.raises(RunFolderError, match="not empty"):
        feathervit.train(data=arrays, out=out, epochs=1, **small)
    mine = [out / "notes.txt", out / "good-epoch50.safetensors", out / "state-backup.safetensors"]
    for path in mine:
        path.write_text("mine")
    feathervit.train(data=arrays, out=out, epochs=1, overwrite=True, **small)
    assert [path.read_text() for path in mine] == ["mine"] * 3  # only files that a run writes are removed
    for name in ("state", "state.previous"):
        (out / f"{name}.safetensors").unlink(missing_ok=True)
    assert feathervit.train(data=arrays, out=out, resume=True).finished  # a copy under another name is not a state
    with pytest.raises(RunFolderError, match="no run to resume"):
        feathervit.train(data=arrays, out=tmp_path / "none", resume=True)


def test_patience_stops_the_run(arrays, tmp_path, small, capsys):
    outcome = feathervit.train(
        data=arrays, out=tmp_path / "run", epochs=50, patience=3, **{**small, "lr": 1e-12, "optim.warmup_epochs": 0.0}
    )
    result = outcome.result
    assert outcome.finished
    assert len(result.epochs) == result.best["epoch"] + 3 < 50
    assert "(patience)" in capsys.readouterr().err
    again = feathervit.train(data=arrays, out=tmp_path / "run", resume=True, epochs=60)
    assert len(again.result.epochs) == len(result.epochs)
    assert "(patience)" in capsys.readouterr().err


def test_clipping_at_zero_is_no_clipping(arrays, tmp_path, small):
    for name, most in (("none", None), ("zero", 0.0)):
        feathervit.train(data=arrays, out=tmp_path / name, epochs=1, **small, **{"optim.clip_grad": most})
    none, zero = (load_weights(tmp_path / name).weights for name in ("none", "zero"))
    assert all(torch.equal(none[key], zero[key]) for key in none)


def test_grey_images_train_with_padding(tmp_path, small):
    for k, name in enumerate(("dark", "light")):
        for n in range(12):
            (tmp_path / "g" / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (30, 20 + n), 60 + 120 * k + n).save(tmp_path / "g" / name / f"{n}.png")
    outcome = feathervit.train(
        data=tmp_path / "g", out=tmp_path / "run", epochs=8, **{"images.fit": "pad", "images.channels": 1, **small}
    )
    assert feathervit.load(tmp_path / "run").in_chans == 1
    assert outcome.result.val["top1"] == 1.0


@pytest.mark.parametrize(
    "fields",
    [
        {"no_such_field": 1},
        {"augment.rand_ops": 3},  # has no effect with another policy
        {"augment.crop_padding": 2},
        {"augment.crop": "none", "augment.crop_scale": (0.5, 1.0)},
        {"augment.switch_prob": 0.3},
        {"optim.eps": 1e-6, "optim.name": "lion"},
        {"optim.adamw_lr": 1e-3, "optim.name": "adamw"},
        {"optim.matrix_rate": 0.5, "optim.name": "adamw"},
        {"optim.min_lr": 10.0},
        {"model": "timm:test_resnet", "loss.moe": 0.1},
        {"epochs": "3"},
        {"images.mean": (0.5, 0.5), "images.std": (0.5, 0.5)},
        {"model": "timm:test_resnet", "arch.depth": 3},
    ],
)
def test_invalid_settings_write_nothing(arrays, tmp_path, fields):
    with pytest.raises(FeatherVitError) as error:
        feathervit.train(data=arrays, out=tmp_path / "run", **{"epochs": 1, **fields})
    assert len(str(error.value)) < 400
    assert not (tmp_path / "run").exists()


def test_full_figures_are_computed_only_at_the_end(folder, tmp_path, small, monkeypatch):
    scored, score = [], trainer.score
    monkeypatch.setattr(trainer, "score", lambda *arguments: scored.append(1) or score(*arguments))
    outcome = feathervit.train(data=folder, out=tmp_path / "run", epochs=4, **small)
    assert len(scored) == 2  # at the end: validation and test images
    best = outcome.result.best
    assert best["val_top1"] == pytest.approx(outcome.result.val["top1"])
    assert best["val_loss"] == pytest.approx(outcome.result.val["nll"], rel=1e-5)
    assert outcome.result.val["confusion"]


def test_a_file_of_a_recipe_is_no_configuration_of_a_run(arrays, tmp_path):
    (tmp_path / "part.json").write_text('{"recipe": "folder"}')
    with pytest.raises(ConfigError, match="configuration of a run"):
        feathervit.train(tmp_path / "part.json", data=arrays, out=tmp_path / "run")


def test_the_limit_of_minutes_includes_loading(arrays, tmp_path, small, monkeypatch):
    load = train.load_run_data

    def slowly(*arguments, **words):
        time.sleep(0.7)
        return load(*arguments, **words)

    monkeypatch.setattr(train, "load_run_data", slowly)
    outcome = feathervit.train(data=arrays, out=tmp_path / "run", max_minutes=0.6 / 60, **{**small, "epochs": 1000})
    assert not outcome.finished and outcome.result is None  # one step


def test_the_last_epoch_can_be_kept(folder, tmp_path, small, monkeypatch):
    """The validation figures here fall with each epoch. The training itself is the same."""
    validate, falling = trainer.accuracy_and_loss, itertools.count(99, -1)
    monkeypatch.setattr(
        trainer, "accuracy_and_loss", lambda *arguments: (next(falling) / 100, *validate(*arguments)[1:])
    )
    for keep in ("best", "last"):
        feathervit.train(data=folder, out=tmp_path / keep, epochs=3, **small, **{"split.keep": keep})
    best, last = (read_result(tmp_path / keep / "result.json") for keep in ("best", "last"))
    assert (best.best["epoch"], last.best["epoch"]) == (1, 3)
    assert [r["val_loss"] for r in best.epochs] == [r["val_loss"] for r in last.epochs]
    assert same_weights(tmp_path / "last" / "best.safetensors", tmp_path / "best" / "last.safetensors")
    assert not same_weights(tmp_path / "last" / "best.safetensors", tmp_path / "best" / "best.safetensors")
    assert last.val["nll"] == pytest.approx(last.epochs[-1]["val_loss"], rel=1e-6)


ONE = {"recipe": "folder", "model": "timm:resnet18_xxs", "patch_size": None, "img_size": 16, "epochs": 1}
ONE |= {"optim.name": "adamw", "augment.policy": "none"}


@pytest.mark.parametrize(
    ("images", "fields", "advice"),
    [
        (96, {"batch_size": 1}, "give --batch-size 2 or more"),
        (96, {"batch_size": 4, "accumulate": 4}, "give --batch-size 8 or more"),
        (3, {"batch_size": 6, "accumulate": 3}, "use fewer processes and micro-steps"),
    ],
)
def test_batch_norm_over_one_image_is_refused(arrays, tmp_path, images, fields, advice):
    data = tuple(part[:images] for part in arrays)
    arguments = {**ONE, **fields, "split.val_fraction": 0.0}
    with pytest.raises(ConfigError, match=advice):
        feathervit.train(data=data, out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
    if "give" in advice:
        arguments["batch_size"] = int(advice.split()[2])
        assert feathervit.train(data=data, out=tmp_path / "run", max_minutes=1e-6, **arguments) is not None


def test_one_image_trains_without_batch_norm_or_in_two_views(arrays, tmp_path, small):
    feathervit.train(data=arrays, out=tmp_path / "ours", max_minutes=1e-6, **small | {"batch_size": 1})
    views = {**ONE, "batch_size": 2, "augment.repeats": 2}
    feathervit.train(data=arrays, out=tmp_path / "views", max_minutes=1e-6, **views)

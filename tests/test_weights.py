"""The weights in the package load offline by name, like any checkpoint, and match their cards."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.cli import main
from feathervit.data import load_data
from feathervit.data.image import normalise, resize
from feathervit.errors import CheckpointError, ConfigError, UnknownNameError
from feathervit.evaluation.calibration import calibrate
from feathervit.evaluation.evaluate import evaluate
from feathervit.results import read_result
from feathervit.weights import FOLDER, list_weights, shipped_file

ROOT = Path(__file__).resolve().parents[1]
CHANCE = 5  # accuracy must exceed this many times that of guessing


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def record(name: str) -> dict:
    return json.loads((ROOT / "results" / "weights" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", list_weights())
def test_weights_match_their_cards(name):
    found, text = record(name), (FOLDER / f"{name}.md").read_text()
    stored = load_weights(name)
    with safe_open(shipped_file(name), framework="pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys() if not key.endswith("num_batches_tracked")}  # noqa: SIM118
        assert kinds == {torch.float16}
    assert shipped_file(name).stat().st_size == found["bytes"] <= 1_400_000
    for word in (
        name,
        "## Data and training",
        "## Limits",
        "## Licence",
        f"seed {found['seed']}",
        stored.config.recipe,
    ):
        assert word in text
    for run in found["runs"]:
        for figure in ("val_top1", "test_top1"):
            assert figure not in run or f"{100 * run[figure]:.2f} %" in text
    assert "/" not in stored.config.data + stored.config.start_from
    model = feathervit.create_model(name, pretrained=True)
    assert all(p.isfinite().all() for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == found["parameters"] <= 700_000


@pytest.mark.parametrize("name", [n for n in list_weights() if load_weights(n).class_names])
def test_the_seed_has_the_median_validation_accuracy(name):
    found = record(name)
    assert len({run["seed"] for run in found["runs"]}) == len(found["runs"])
    assert ("one seed" in (FOLDER / f"{name}.md").read_text()) == (len(found["runs"]) == 1)
    if len(found["runs"]) == 1:  # nothing was held out, so nothing was chosen
        return
    ranked = sorted(run["val_top1"] for run in found["runs"])
    (chosen,) = [run["val_top1"] for run in found["runs"] if run["seed"] == found["seed"]]
    assert chosen == ranked[(len(ranked) - 1) // 2]


@pytest.mark.parametrize("name", [n for n in list_weights() if load_weights(n).class_names])
def test_accuracy_is_far_above_chance(name):
    found, classes = record(name), len(load_weights(name).class_names)
    assert found["float16"]["test_top1"] > CHANCE / classes


def test_digits_accuracy_matches_the_card():
    split, found = evaluate("mlit_nano.digits")
    assert (split, found.top1) == ("test", record("mlit_nano.digits")["float16"]["test_top1"])
    test = load_data("digits", img_size=16).test
    config = load_weights("mlit_nano.digits").config
    x_NCSS = normalise(resize(test.images, 16), config.images.mean, config.images.std)
    for create in (feathervit.create_model, timm.create_model):
        model = create("mlit_nano.digits", pretrained=True).eval()
        with torch.no_grad():
            assert (model(x_NCSS).argmax(1) == test.labels).float().mean().item() == pytest.approx(found.top1)
    bare = timm.create_model("mlit_nano", pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), model.parameters(), strict=True))


def test_a_colour_image_is_not_read_as_grey_images():
    predictor = feathervit.load("mlit_nano.digits")
    grey = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    (found,) = predictor.predict(Image.fromarray(grey))
    assert predictor.predict(grey)[0].probabilities == found.probabilities
    for colour in (np.stack([grey] * 3, -1), np.stack([grey] * 4, -1)):
        with pytest.raises(ConfigError, match="must have 1 channel"):
            predictor.predict(colour)
    assert len(predictor.predict(grey[None].repeat(5, 0))) == 5


def test_weights_load_with_another_head_channels_and_size():
    theirs = feathervit.create_model("mlit_nano.digits", pretrained=True)
    three_classes = timm.create_model("mlit_nano.digits", pretrained=True, num_classes=3)
    assert three_classes.head.weight.shape[0] == 3
    assert torch.equal(three_classes.blocks[0].norm1.weight, theirs.blocks[0].norm1.weight)
    assert (
        feathervit.create_model("mlit_nano.digits", pretrained=True, num_classes=0).head.__class__ is torch.nn.Identity
    )
    colour = feathervit.create_model("mlit_nano.digits", pretrained=True, in_chans=3, img_size=32).eval()
    with torch.no_grad():
        assert colour(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    grey = torch.rand(2, 1, 16, 16)
    same = feathervit.create_model("mlit_nano.digits", pretrained=True, in_chans=3).eval()
    with torch.no_grad():
        assert torch.allclose(same(grey.expand(-1, 3, -1, -1)), theirs.eval()(grey), atol=1e-5)
    assert theirs.pretrained_cfg["input_size"] == (1, 16, 16)
    plain = feathervit.create_model("mlit_nano.digits")  # its sizes, not its weights
    assert plain.head.weight.shape == theirs.head.weight.shape
    assert not torch.equal(plain.head.weight, theirs.head.weight)


def test_missing_weights_are_refused():
    with pytest.raises(UnknownNameError, match=r"mlit_nano\.digits"):
        feathervit.create_model("mlit_nano.digit", pretrained=True)
    with pytest.raises(UnknownNameError, match="mlit_nano"):
        feathervit.create_model("mlit_nan.digits", pretrained=True)
    with pytest.raises(ConfigError, match=r"pretrained.*poorvit_tiny"):
        timm.create_model("poorvit_tiny", pretrained=True)
    with pytest.raises(ConfigError, match="leave config out"):
        feathervit.create_model("mlit_nano.digits", pretrained=True, config=feathervit.EncoderConfig())


def test_training_starts_from_named_weights(arrays, tmp_path):
    out = feathervit.train(data=arrays, out=tmp_path / "run", start_from="mlit_nano.digits", epochs=1)
    config = out.result.config
    assert (config["start_from"], config["model"], config["img_size"]) == ("mlit_nano.digits", "mlit_nano", 16)
    assert main(["evaluate", "mlit_nano.digits", "--data", "digits", "--json"]) == 0


def ship():
    spec = importlib.util.spec_from_file_location("ship", ROOT / "scripts" / "ship.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ship_turns_runs_into_package_weights(tmp_path, monkeypatch, small):
    """A classifier of three seeds, a pre-trained encoder, and a classifier that started from it."""
    few = {**small, "split.train_per_class": 8, "epochs": 1}
    runs = [tmp_path / f"run-{seed}" for seed in range(3)]
    tops = {}
    for seed, run in enumerate(runs):
        tops[seed] = feathervit.train("digits", out=run, seed=seed, **few).result.val["top1"]
    monkeypatch.setattr("feathervit.weights.FOLDER", tmp_path / "weights")
    (tmp_path / "results").mkdir()
    ship().main("mlit_nano.toy", runs, tmp_path / "results" / "weights", tmp_path / "weights")
    found = json.loads((tmp_path / "results" / "weights" / "mlit_nano.toy.json").read_text())
    assert tops[found["seed"]] == sorted(tops.values())[1]
    theirs = read_result(runs[found["seed"]] / "result.json")
    assert found["float16"]["test_top1"] == pytest.approx(theirs.test["top1"], abs=0.02)
    assert str(tmp_path) not in json.dumps(found) + (tmp_path / "weights" / "mlit_nano.toy.md").read_text()
    masked = {k: v for k, v in few.items() if not k.startswith("loss.")}
    feathervit.pretrain("mae_digits", out=tmp_path / "mae", **masked)
    ship().main("mlit_nano.mae_toy", [tmp_path / "mae"], tmp_path / "results" / "weights", tmp_path / "weights")
    assert list_weights("mlit_nano") == ["mlit_nano.mae_toy", "mlit_nano.toy"]
    model = feathervit.create_model("mlit_nano.mae_toy", pretrained=True, num_classes=4)
    assert model.head.weight.shape[0] == 4
    whole = load_weights(tmp_path / "mae").weights["encoder.norm.weight"]
    assert torch.allclose(model.norm.weight, whole, atol=1e-3)
    assert "fine-tuned" in (tmp_path / "weights" / "mlit_nano.mae_toy.md").read_text()
    tuned = tmp_path / "tuned"
    feathervit.train("digits", out=tuned, start_from=str(tmp_path / "mae"), epochs=2, command="second")
    ship().main("mlit_nano.tuned", [tuned], tmp_path / "results" / "weights", tmp_path / "weights")
    (row,) = json.loads((tmp_path / "results" / "weights" / "mlit_nano.tuned.json").read_text())["runs"]
    assert (row["epochs"], row["commands"][1:]) == (3, ["second"])
    assert row["minutes"] > read_result(tuned / "result.json").minutes
    (before, curve) = row["curves"]
    assert (before["train_top1"], len(curve["train_top1"])) == ([], 2)  # pre-training has no accuracy
    assert curve["test_top1"] == row["test_top1"]
    student, teacher = tmp_path / "student", str(runs[0])
    words = {"objective": "distillation", "teacher": teacher, "loss.label_smoothing": 0.0, "command": "third", **few}
    feathervit.train("digits", out=student, start_from=teacher, **words)
    ship().main("mlit_nano.student", [student], tmp_path / "results" / "weights", tmp_path / "weights")
    (row,) = json.loads((tmp_path / "results" / "weights" / "mlit_nano.student.json").read_text())["runs"]
    minutes = [read_result(run / "result.json").minutes for run in (student, runs[0])]
    assert row["minutes"] == pytest.approx(sum(minutes))  # the start is the teacher, and counts once
    assert [curve["teacher"] for curve in row["curves"]] == [False, False]


def test_package_weights_are_not_calibrated_in_place():
    before = shipped_file("mlit_nano.digits").read_bytes()
    with pytest.raises(CheckpointError, match="copy"):
        calibrate("mlit_nano.digits")
    assert shipped_file("mlit_nano.digits").read_bytes() == before

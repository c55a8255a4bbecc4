"""Temperatures against a grid and against known ones; where a temperature is stored, and where it is applied."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import log_loss

import feathervit
from feathervit import checkpoint as checkpoint_module
from feathervit.checkpoint import Checkpoint, OtherAnswer, load_weights, save_weights
from feathervit.cli import main
from feathervit.config import RunConfig
from feathervit.errors import CheckpointError, ConfigError, DataError
from feathervit.evaluation.calibration import calibrate, cross_validated, fit_temperature, other_answer
from feathervit.evaluation.inference import Prediction


def drawn(temperature: float, n: int = 20_000, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(0)
    z_NK = 3 * rng.standard_normal((n, k))
    p_NK = np.exp(z_NK / temperature)
    p_NK /= p_NK.sum(1, keepdims=True)
    return z_NK, (rng.random((n, 1)) > p_NK.cumsum(1)).sum(1).clip(max=k - 1)


def nll(z_NK: np.ndarray, labels_N: np.ndarray, temperature: float) -> float:
    """The mean of -log(e^(z_label / T) / sum_k e^(z_k / T)), image by image."""
    shares = [np.exp(z_K / temperature) / np.exp(z_K / temperature).sum() for z_K in z_NK]
    return -sum(math.log(p_K[label]) for p_K, label in zip(shares, labels_N, strict=True)) / len(labels_N)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature):
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_the_temperature_is_the_best_of_a_grid():
    z_NK, labels_N = drawn(1.7, n=60)
    found = fit_temperature(z_NK, labels_N)
    grid = np.geomspace(1, 4, 400)
    best = grid[np.argmin([nll(z_NK, labels_N, t) for t in grid])]
    assert found == pytest.approx(best, rel=0.004)  # the step of the grid
    assert fit_temperature(7 * z_NK, labels_N) == pytest.approx(7 * found, rel=1e-4)


def test_images_without_a_best_temperature_are_refused():
    z_NK = np.eye(4)[[0, 1, 2, 3, 0]]
    with pytest.raises(DataError, match="5 are recognised"):
        fit_temperature(z_NK, np.array([0, 1, 2, 3, 0]))  # ever lower temperatures fit better
    with pytest.raises(DataError, match="0 are recognised"):
        fit_temperature(z_NK, np.array([1, 2, 3, 0, 1]))  # ever higher temperatures fit better


def test_cross_validation_uses_temperatures_of_other_folds():
    z_NK, labels_N = drawn(2.5, n=1000)
    crossed_NK = cross_validated(z_NK, labels_N)
    ratios = z_NK / crossed_NK
    assert np.allclose(ratios, ratios[:, :1])  # one temperature per image
    assert len(np.unique(ratios[:, 0].round(9))) == 5  # one for each fold
    assert nll(crossed_NK, labels_N, 1.0) < nll(z_NK, labels_N, 1.0)
    assert nll(crossed_NK, labels_N, 1.0) > nll(z_NK, labels_N, fit_temperature(z_NK, labels_N))


# ---------------------------------------------------------------------------------------------------------------------

FIELDS = {
    **{"img_size": 16, "patch_size": 4, "arch.depth": 2, "arch.dim": 32, "epochs": 8, "lr": 3e-3, "optim.lr_batch": 0},
    **{"split.train_per_class": 20, "optim.warmup_epochs": 1.0, "optim.ema": 0.0, "batch_size": 32},
}


def sharpen(out) -> None:
    """Makes a run's model four times more confident than after training, so that a temperature helps on any images."""
    stored = load_weights(out)
    weights = {name: 4 * t if name.startswith("head.") else t for name, t in stored.weights.items()}
    save_weights(out / "best.safetensors", dataclasses.replace(stored, weights=weights))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("calibration") / "run"
    feathervit.train("digits", out=out, **FIELDS)
    sharpen(out)
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def error(p_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """The expected calibration error of fifteen bins, image by image."""
    bins = {}
    for p_K, label in zip(p_NK, labels_N, strict=True):
        bins.setdefault(int(np.ceil(15 * p_K.max())), []).append((p_K.max(), p_K.argmax() == label))
    return sum(abs(sum(right - sure for sure, right in held)) for held in bins.values()) / len(labels_N)


def test_the_stored_temperature_is_applied(run, capsys):
    before, data = feathervit.load(run), feathervit.load_data("digits", img_size=16)
    stored = load_weights(run)
    assert main(["calibrate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    after, temperature = feathervit.load(run), found["temperature"]
    assert (before.temperature, after.temperature) == (1.0, temperature)
    assert not 0.95 < temperature < 1.05  # otherwise this test would show nothing
    for split, images in (("val", data.val), ("test", data.test)):
        labels = images.labels.numpy()
        p_NK, q_NK = before.probabilities(images.images).numpy(), after.probabilities(images.images).numpy()
        expected = torch.tensor(np.log(p_NK.astype(float)) / temperature).softmax(1).numpy()
        np.testing.assert_allclose(q_NK, expected, atol=1e-5)
        assert np.array_equal(q_NK.argmax(1), p_NK.argmax(1))
        part = found[split]
        assert part["n"] == len(images)
        assert part["before"]["top1"] == part["after"]["top1"] == (p_NK.argmax(1) == labels).mean()
        for when, shares in (("before", p_NK), ("after", q_NK)):
            assert part[when]["nll"] == pytest.approx(log_loss(labels, shares / shares.sum(1, keepdims=True)), rel=1e-5)
            assert part[when]["ece"] == pytest.approx(error(shares, labels), abs=1e-5)
    assert found["val"]["after"]["nll"] < found["val"]["before"]["nll"]
    again = load_weights(run)
    assert all(torch.equal(a, again.weights[name]) for name, a in stored.weights.items())
    assert dataclasses.replace(again, weights={}, temperature=1.0, other=None) == dataclasses.replace(
        stored, weights={}
    )

    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["nll"] == pytest.approx(found["test"]["after"]["nll"], rel=1e-5)
    assert evaluated["ece"] == pytest.approx(found["test"]["after"]["ece"], abs=1e-5)
    assert calibrate(run) == found  # fitted to the logits again, not to logits divided by the first temperature
    assert main(["calibrate", str(run)]) == 0
    text = capsys.readouterr().out
    assert f"temperature {temperature:.3f}" in text
    assert f"{found['test']['after']['nll']:.4f}" in text


def test_calibration_needs_validation_images(tmp_path, capsys):
    out = tmp_path / "run"
    feathervit.train("digits", out=out, **FIELDS | {"split.val_fraction": 0.0, "epochs": 1})
    before = (out / "best.safetensors").read_bytes()
    assert main(["calibrate", str(out)]) == 2
    assert "--split.val-fraction" in capsys.readouterr().err
    assert (out / "best.safetensors").read_bytes() == before


def test_calibration_accepts_arrays_by_split_name(arrays, tmp_path, small):
    images, labels = arrays
    labels = np.where(np.arange(96) % 9, labels, (labels + 1) % 3)  # some that no model gets right
    out = tmp_path / "run"
    feathervit.train(data=arrays, out=out, epochs=1, **small)
    with pytest.raises(DataError, match="--data"):
        calibrate(out)
    sharpen(out)
    found = calibrate(out, {"train": arrays, "val": (images, labels)})
    assert found.keys() == {"checkpoint", "temperature", "other", "val"}
    assert feathervit.load(out).temperature == found["temperature"]


def test_resuming_warns_that_the_calibration_is_lost(run, capsys):
    for epochs, temperature, warned in ((9, 1.0, False), (10, 2.0, True)):
        save_weights(run / "best.safetensors", dataclasses.replace(load_weights(run), temperature=temperature))
        assert main(["train", "--resume", "--out", str(run), "--epochs", str(epochs)]) == 0
        assert ("no calibration" in capsys.readouterr().out) == warned
    assert load_weights(run).temperature == 1


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), "2", True, None, [1.0]])
def test_invalid_stored_temperatures_are_refused(temperature, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, Checkpoint(RunConfig(), ("a", "b"), 3, {}, temperature=temperature))
    with pytest.raises(CheckpointError, match="temperature"):
        load_weights(path)


def test_a_file_without_a_temperature_loads(tmp_path, monkeypatch):
    import feathervit.checkpoint as module

    pack, path = module._pack, tmp_path / "w.safetensors"
    monkeypatch.setattr(module, "_pack", lambda t, meta: pack(t, {k: v for k, v in meta.items() if k != "temperature"}))
    save_weights(path, Checkpoint(RunConfig(), ("a", "b"), 3, {}, temperature=3.0))
    assert load_weights(path).temperature == 1.0


# ---------------------------------------------------------------------------------------------------------------------


def test_low_confidence_gives_other(run, tmp_path, capsys):
    predictor, images = feathervit.load(run), feathervit.load_data("digits", img_size=16).test.images[:40, 0].numpy()
    plain = predictor.predict(images, top=2)
    limit = sorted(p.probabilities[0] for p in plain)[20]
    found = predictor.predict(images, top=2, min_confidence=limit)
    assert sum(p.sure for p in found) == 20  # a confidence equal to the limit is enough
    for p, q in zip(plain, found, strict=True):
        assert (p.classes, p.probabilities, p.label) == (
            q.classes,
            q.probabilities,
            q.classes[0],
        )  # the best prediction is kept
        assert q.label == (q.classes[0] if q.probabilities[0] >= limit else "other")
    assert Prediction("x", ("other", "b"), (0.9, 0.1)).sure  # this distinguishes it from a class of that name

    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:02}.png")
    predict = ["predict", str(run), str(tmp_path / "images"), "--min-confidence", str(limit)]
    assert main([*predict, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["predictions"]
    assert [(p["label"], p["sure"], p["classes"][0]) for p in shown] == [(p.label, p.sure, p.classes[0]) for p in found]
    assert main([*predict, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r["label"], r["class"]) for r in rows if r["rank"] == "1"] == [(p.label, p.classes[0]) for p in found]
    assert main(predict) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    for line, p in zip(lines, found, strict=True):
        assert line.split()[1] == p.label
        assert f"{p.classes[0]} {100 * p.probabilities[0]:.1f} %" in line
    assert main(predict[:-2]) == 0
    assert all(" other " not in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("limit", [-0.1, 1.5, 80, float("nan")])
def test_min_confidence_must_be_a_share(limit, run, capsys):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        feathervit.load(run).predict(np.zeros((16, 16), np.uint8), min_confidence=limit)
    assert main(["predict", str(run), "a.png", f"--min-confidence={limit}"]) == 2
    assert "--min-confidence" in capsys.readouterr().err


def test_an_unhelpful_temperature_is_refused(run, monkeypatch):
    """Labels drawn from the model's own probabilities: no temperature helps, and fitted noise makes it worse."""
    images = feathervit.load_data("digits", img_size=16).val.images[:20]
    p_NK = feathervit.load(run).probabilities(images).numpy().astype(float)
    p_NK /= p_NK.sum(1, keepdims=True)
    arrays = images.permute(0, 2, 3, 1).numpy()
    before = load_weights(run).temperature
    refused = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = [str(rng.choice(10, p=p_K)) for p_K in p_NK]
        try:
            found = calibrate(run, {"train": (arrays, labels), "val": (arrays, labels)})
        except DataError:
            refused += 1
            assert load_weights(run).temperature == before
        else:
            before = found["temperature"]
            assert found["val"]["cross_validated"]["nll"] < found["val"]["before"]["nll"]
    assert refused


def test_the_threshold_of_other_rejects_the_stated_share():
    rng = np.random.default_rng(0)
    best, right = rng.beta(5, 1, 400), rng.random(400) < 0.8
    found = other_answer(best, right, rng.random(50))
    assert (best < found.threshold).mean() == pytest.approx(0.05, abs=1.01 / 400)
    assert found.known == pytest.approx(0.05, abs=0.03) and found.n == 400
    assert found.mistaken == (best[~right] >= found.threshold).mean()
    again = other_answer(best, np.ones(400, bool))
    assert again.mistaken is None and again.strangers is None and again.threshold == found.threshold


def test_other_on_the_command_line(run, tmp_path, capsys):
    """Calibrated weights answer "other", and state how often that is wrong. Noise stands for images of no class."""
    copy, noise = tmp_path / "copy.safetensors", tmp_path / "noise"
    shutil.copy(run / "best.safetensors", copy)
    noise.mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(noise / f"{i}.png")
    assert main(["calibrate", str(copy), "--others", str(noise), "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)["other"]
    assert dataclasses.asdict(load_weights(copy).other) == stored and 0 <= stored["known"] < 0.2
    assert main(["predict", str(copy), str(noise), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["other"] == stored
    answered = [p["label"] != "other" for p in found["predictions"]]
    assert np.mean(answered) == pytest.approx(stored["strangers"])
    assert all(p["sure"] == (p["probabilities"][0] >= stored["threshold"]) for p in found["predictions"])
    assert main(["predict", str(copy), str(noise)]) == 0
    output = capsys.readouterr().out
    assert f"{100 * stored['known']:.1f} % of {stored['n']} validation images get it" in output
    assert f"{100 * stored['strangers']:.1f} % of images outside the classes" in output
    assert main(["predict", str(copy), str(noise), "--csv"]) == 0
    rows, output = capsys.readouterr()
    assert rows.count("\n") == 1 + 20 * 3 and f"{100 * stored['known']:.1f} %" in output
    assert main(["predict", str(copy), str(noise), "--min-confidence", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["other"] is None and all(p["sure"] for p in found["predictions"])
    assert main(["calibrate", str(copy)]) == 0
    assert "--others FOLDER measures it" in capsys.readouterr().out


@pytest.mark.parametrize("other", [7, {"threshold": 2.0}, {"threshold": 0.5, "strangers": -1.0}, {"limit": 0.5}])
def test_invalid_thresholds_are_refused(run, tmp_path, monkeypatch, other):
    whole = load_weights(run)
    monkeypatch.setattr(checkpoint_module, "asdict", lambda _: other)
    save_weights(tmp_path / "a.safetensors", dataclasses.replace(whole, other=OtherAnswer(0.5, 0.1, 3)))
    with pytest.raises(CheckpointError, match="other"):
        load_weights(tmp_path / "a.safetensors")

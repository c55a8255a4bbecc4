"""Probes on frozen features against scikit-learn called directly, and images of reconstructions."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.cli import main
from feathervit.config import SplitConfig
from feathervit.data import load_data
from feathervit.evaluation.probe import probe
from feathervit.models.loading import load_model
from feathervit.plots.reconstructions import reconstructions

SIZES = {"model": "mlit_nano", "img_size": 16, "patch_size": 4, "batch_size": 32, "arch.depth": 2, "arch.dim": 32}


@pytest.fixture
def pretrained(folder, tmp_path):
    feathervit.pretrain(data=folder, out=tmp_path / "pretrained", epochs=8, **SIZES)
    return tmp_path / "pretrained"


def test_both_probes_of_both_tokens(pretrained, folder):
    found = probe(pretrained, folder, neighbours=5)
    assert (found["split"], found["n"], found["n_train"]) == ("test", 24, 72)
    assert list(found["tokens"]) == ["dummy patch", "mean of patches"]
    model = load_model(load_weights(pretrained)).encoder
    splits = load_data(folder, img_size=16, split=SplitConfig(val_fraction=0.0))

    def tokens(images):
        with torch.no_grad():
            return model.forward_features((images / 255 - 0.5) / 0.5).numpy()

    x, x_new = tokens(splits.train.images), tokens(splits.test.images)
    for name, take in (("dummy patch", lambda t: t[:, 0]), ("mean of patches", lambda t: t[:, 1:].mean(1))):
        a, b = take(x), take(x_new)
        scaler = StandardScaler().fit(a)
        linear = LogisticRegression(max_iter=2000).fit(scaler.transform(a), splits.train.labels)
        assert found["tokens"][name]["linear"]["top1"] == linear.score(scaler.transform(b), splits.test.labels)
        near = (b / np.linalg.norm(b, axis=1)[:, None]) @ (a / np.linalg.norm(a, axis=1)[:, None]).T
        votes = []
        for row in near:
            best = np.argsort(-row)[:5]
            weights = np.bincount(splits.train.labels[best], 1 / np.maximum(1 - row[best], 1e-12), minlength=3)
            votes.append(weights.argmax())
        assert found["tokens"][name]["knn"]["top1"] == pytest.approx(
            (votes == splits.test.labels.numpy()).mean(), abs=0.05
        )


def test_probes_of_a_classifier_and_a_timm_model(folder, tmp_path, small, capsys):
    feathervit.train(data=folder, out=tmp_path / "ours", epochs=15, **small)
    assert main(["probe", str(tmp_path / "ours"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"]["dummy patch"]["linear"]["top1"] > 0.8
    fields = {"model": "timm:test_resnet", "img_size": 32, "batch_size": 32, "epochs": 1}
    feathervit.train(data=folder, out=tmp_path / "timm", **fields)
    assert main(["probe", str(tmp_path / "timm")]) == 0
    assert "pooled features" in capsys.readouterr().out


def test_images_of_reconstructions(pretrained, folder, tmp_path):
    """Visible patches equal the original, and masked ones are grey. The third row fills them."""
    image = folder / "test" / "flat" / "0.png"
    for extra in ([], [str(image)]):
        path = tmp_path / "out" / "r.png"
        assert main(["plot", "reconstructions", str(pretrained), *extra, "--out", str(path)]) == 0
        with Image.open(path) as png:
            assert min(png.size) > 16
    stored = load_weights(pretrained)
    pixels_BCSS = torch.from_numpy(np.asarray(Image.open(image).convert("RGB")).copy()).permute(2, 0, 1)[None]
    rows = reconstructions(load_model(stored), pixels_BCSS, stored.config)
    original, masked, painted = (row[0].permute(1, 2, 0).numpy().astype(int) for row in rows)
    assert (original == np.asarray(Image.open(image).convert("RGB"))).all()
    grey = (masked == 128).all(-1).reshape(4, 4, 4, 4).all((1, 3))
    assert grey.sum() == 12
    visible = ~grey.repeat(4, 0).repeat(4, 1)
    assert (original[visible] == masked[visible]).all()
    assert (abs(original - painted)[visible] <= 1).all()


def test_unequal_classes_have_a_macro_accuracy(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name, count in (("many", 12), ("few", 3)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for n in range(count):
                image = rng.integers(0, 100 if name == "few" else 255, (16, 16), dtype=np.uint8)
                Image.fromarray(image).save(tmp_path / "data" / split / name / f"{n}.png")
    run = tmp_path / "run"
    outcome = feathervit.train(data=tmp_path / "data", out=run, epochs=2, **SIZES | {"batch_size": 5})
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert float(rows[outcome.result.best["epoch"] - 1]["val_macro"]) == pytest.approx(
        outcome.result.val["balanced_accuracy"], abs=1e-6
    )
    found = probe(run, tmp_path / "data")
    assert found["imbalanced"]
    possible = {(round((m + f) / 15, 6), round((m / 12 + f / 3) / 2, 6)) for m in range(13) for f in range(4)}
    for kinds in found["tokens"].values():
        for figures in kinds.values():
            assert (round(figures["top1"], 6), round(figures["balanced_accuracy"], 6)) in possible
    assert main(["probe", str(run)]) == 0
    assert "macro" in capsys.readouterr().out

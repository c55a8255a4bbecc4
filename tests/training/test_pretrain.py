"""Pre-training: without labels, resumed, and fine-tuning from its weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.config import WhitenedPatchesConfig, resolve, with_fields
from feathervit.errors import CheckpointError, DataError
from feathervit.models import build_model
from feathervit.models.loading import load_model
from feathervit.models.starting import start_from
from feathervit.recipes import RECIPES, recipe

from ..conftest import same_weights, write_images


@pytest.fixture
def masked(small) -> dict:
    """Fields of a small pre-training run."""
    ours = ("model", "img_size", "patch_size", "batch_size", "arch.depth", "arch.dim", "lr", "optim.lr_batch")
    small_decoder = {"mae.decoder.dim": 16, "mae.decoder.depth": 1, "mae.decoder.feedforward.experts": (2,)}
    return {name: small[name] for name in ours} | small_decoder | {"augment.crop": "none", "augment.flip": "none"}


@pytest.fixture
def pretrained(arrays, tmp_path, masked):
    feathervit.pretrain(data=arrays[0], out=tmp_path / "pretrained", epochs=3, **masked)
    return tmp_path / "pretrained"


def test_pretraining_overfits_a_few_images(arrays, tmp_path, masked):
    """The masked error falls below a third of the error of a mean image, which is the variance of the pixels."""
    images = arrays[0][:12]
    fields = {**masked, "arch.dim": 64, "mae.decoder.dim": 32, "mae.mask_ratio": 0.5, "optim.warmup_epochs": 10.0}
    outcome = feathervit.pretrain(data=images, out=tmp_path / "run", epochs=80, **fields | {"batch_size": 12})
    variance = (images / 127.5 - 1).var()
    assert outcome.result.epochs[-1]["train_masked_mse"] < variance / 3
    files = sorted((tmp_path / "run" / "reconstructions").iterdir())
    assert [int(path.stem) for path in files] == list(range(8, 81, 8))
    with Image.open(files[-1]) as png:
        assert png.width > 8 * 64


@pytest.mark.parametrize("layout", ["flat", "nested", "train"])
def test_images_are_found_in_any_layout(folder, tmp_path, masked, layout, capsys):
    root = {"flat": folder / "train" / "flat", "nested": folder / "train", "train": folder}[layout]
    outcome = feathervit.pretrain(data=root, out=tmp_path / "run", epochs=2, **masked)
    expected = {"flat": (24, 0), "nested": (72, 0), "train": (72, 24)}[layout]  # test images are not trained on
    assert (outcome.result.data["n_train"], outcome.result.data["n_test"]) == expected
    assert outcome.result.test is None or 0 < outcome.result.test["masked_mse"] < 2
    assert f"train --from {tmp_path / 'run'}" in capsys.readouterr().err


def test_odd_layouts(folder, tmp_path, masked, capsys):
    """Folders next to train/ are used, val/ and test/ are not, and files that are not images are listed."""
    write_images(folder / "unlabelled", 10)
    (folder / "train" / "flat" / "phone.dng").write_bytes(b"")
    Image.new("RGB", (16, 16)).save(folder / "loose.png")
    outcome = feathervit.pretrain(data=folder, out=tmp_path / "run", epochs=1, **masked)
    assert outcome.result.data["n_train"] == 72 + 30 + 1
    assert "(1: 1 .dng)" in capsys.readouterr().err
    write_images(folder / "Train", 1)
    with pytest.raises(DataError, match="two folders for the split 'train'"):
        feathervit.pretrain(data=folder, out=tmp_path / "two", epochs=1, **masked)
    with pytest.raises(DataError, match="except in test/"):
        write_images(tmp_path / "only" / "test", 2)
        feathervit.pretrain(data=tmp_path / "only", out=tmp_path / "none", epochs=1, **masked)


def test_images_in_a_list_or_by_split(arrays, tmp_path, masked):
    for name, data in {"a": list(arrays[0]), "b": {"train": arrays[0][:80], "test": arrays[0][80:]}}.items():
        assert feathervit.pretrain(data=data, out=tmp_path / name, epochs=1, **masked).finished


def test_a_recipe_may_be_named_again(folder, tmp_path, masked):
    arguments = {"data": folder, "out": tmp_path / "folder", "epochs": 2, **masked}
    feathervit.pretrain("mae_folder", max_minutes=1e-6, **arguments)
    assert feathervit.pretrain("mae_folder", data=folder, out=tmp_path / "folder", resume=True).finished


def test_frozen_filters_refuse_other_channels(arrays, tmp_path, masked):
    frozen = {**masked, "arch.patches": WhitenedPatchesConfig(frozen=True), "arch.dim": 64}
    feathervit.pretrain(data=arrays[0], out=tmp_path / "colour", epochs=1, **frozen)
    with pytest.raises(CheckpointError, match="sizes and channels"):
        grey = arrays[0][..., :1]
        feathervit.pretrain(data=grey, out=tmp_path / "grey", epochs=1, start_from=tmp_path / "colour", **frozen)


def test_subsets_are_equal_with_and_without_labels(folder, tmp_path, masked, small):
    part = {"split.train_per_class": 5, "split.val_fraction": 0.2, "epochs": 1}
    feathervit.pretrain(data=folder / "train", out=tmp_path / "a", **masked, **part)
    feathervit.train(data=folder / "train", out=tmp_path / "b", **small, **part)
    first, second = (json.loads((tmp_path / run / "splits.json").read_text())["splits"] for run in "ab")
    assert first["train"]["sources"] == second["train"]["sources"]
    assert first["train"]["count"] == 15


def test_a_resumed_joint_run_equals_an_uninterrupted_one(arrays, tmp_path, masked):
    """tests/reliability/test_changes.py resumes pre-training."""
    fields = {"objective": "joint", "optim.ema": 0.5, "augment.policy": "none", "split.val_fraction": 0.2}
    arguments = {"data": arrays, "epochs": 4, **fields, **masked}
    feathervit.train(out=tmp_path / "whole", **arguments)
    outcome, pieces = feathervit.train(out=tmp_path / "cut", max_minutes=1e-6, **arguments), 1
    while not outcome.finished:
        outcome = feathervit.train(out=tmp_path / "cut", data=arrays, resume=True, max_minutes=1e-6)
        pieces += 1
    assert pieces > 4
    for name in ("last", "best"):
        assert same_weights(tmp_path / "whole" / f"{name}.safetensors", tmp_path / "cut" / f"{name}.safetensors")


def test_the_best_epoch_has_the_least_validation_error(arrays, tmp_path, masked):
    result = feathervit.pretrain(
        data=arrays[0], out=tmp_path / "run", epochs=5, **{**masked, "split.val_fraction": 0.2}
    ).result
    assert result.best["val_masked_mse"] == min(row["val_masked_mse"] for row in result.epochs)
    assert result.val["masked_mse"] == pytest.approx(result.best["val_masked_mse"], rel=1e-6)
    assert result.val["n"] == 19


def test_fine_tuning_starts_from_the_pretrained_features(pretrained):
    before = load_model(load_weights(pretrained)).encoder
    config = with_fields(load_weights(pretrained).config, objective="classification")
    model = build_model(resolve(config), 3, 3)
    (line,) = start_from(model, pretrained)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.eval().forward_features(x), before.forward_features(x))
    assert "decoder" in line.split("not used")[1]
    assert line.endswith("new: head.weight")


def test_the_model_comes_from_the_weights(pretrained, folder, tmp_path, capsys):
    """It is kept even if the recipe would choose another model for the images."""
    arguments = {"data": folder, "start_from": pretrained, "epochs": 1, "batch_size": 32}
    outcome = feathervit.train(out=tmp_path / "a", **arguments)
    config = load_weights(tmp_path / "a").config
    assert (config.arch, config.patch_size, config.img_size) == (load_weights(pretrained).config.arch, 4, 16)
    assert "patch_size 4, img_size 16: as in the weights" in capsys.readouterr().err
    assert outcome.finished
    feathervit.train(out=tmp_path / "b", **arguments, **{"img_size": 32, "arch.drop_path_rate": 0.1})
    config = load_weights(tmp_path / "b").config
    assert (config.arch.dim, config.arch.drop_path_rate, config.patch_size, config.img_size) == (32, 0.1, 4, 32)
    with pytest.raises(CheckpointError, match="leave out"):
        feathervit.train(out=tmp_path / "c", **arguments, model="mlit_xxs")


def test_fine_tuning_joint_training_and_prediction(arrays, pretrained, tmp_path, masked):
    fields = {k: v for k, v in masked.items() if not k.startswith("mae.")}
    recipe_fields = {"augment.policy": "none", "augment.mixup": 0.0, **fields}
    tuned = feathervit.train(data=arrays, out=tmp_path / "tuned", start_from=pretrained, epochs=2, **recipe_fields)
    assert tuned.result.parameters < 60_000
    joint = feathervit.train(
        data=arrays, out=tmp_path / "joint", objective="joint", epochs=15, **{**masked, **recipe_fields}
    )
    assert {"train_masked_mse", "train_cross_entropy", "train_top1", "val_top1"} <= set(joint.result.epochs[-1])
    assert joint.result.val["top1"] > 0.6
    classifier = load_weights(tmp_path / "joint")
    assert not any("decoder" in name for name in classifier.weights)  # the decoder is dropped
    assert len(feathervit.load(tmp_path / "joint").predict(arrays[0][:2])) == 2
    again = feathervit.train(
        data=arrays, out=tmp_path / "again", start_from=tmp_path / "joint", epochs=1, **recipe_fields
    )
    assert again.finished


def test_pretraining_continues_from_weights_and_at_other_sizes(arrays, pretrained, tmp_path, masked, capsys):
    feathervit.pretrain(data=arrays[0], out=tmp_path / "on", epochs=1, start_from=pretrained, **masked)
    assert "not used: none; new: none" in capsys.readouterr().err
    larger = {**masked, "img_size": 24}
    feathervit.pretrain(data=arrays[0], out=tmp_path / "larger", epochs=1, start_from=pretrained, **larger)
    assert "of these resized encoder.pos_embed" in capsys.readouterr().err
    grey = np.asarray(arrays[0])[..., :1]
    feathervit.pretrain(data=grey, out=tmp_path / "grey", epochs=1, start_from=pretrained, **masked)
    with pytest.raises(CheckpointError, match="dim is 32 there, 64 here"):
        other = {**masked, "arch.dim": 64}
        feathervit.pretrain(data=arrays[0], out=tmp_path / "other", epochs=1, start_from=pretrained, **other)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_and_runs_two_steps(name, arrays, tmp_path):
    images, labels = arrays[0][:40], arrays[1][:40]
    config = recipe(name)
    fields = {"epochs": 1, "batch_size": 16, "img_size": 16, "patch_size": 4, "arch.depth": 3}
    if name.startswith("feather"):
        fields["patch_size"] = 8
    if config.model.startswith("timm:"):
        del fields["arch.depth"], fields["patch_size"]
    if config.objective != "classification":
        fields["mae.decoder.depth"] = 1
    if config.img_size is None and config.recipe in ("folder", "mae_folder"):
        fields["model"] = "mlit_nano"
    outcome = feathervit.train(config, data=(images, labels), out=tmp_path / "run", **fields)
    assert outcome.result.epochs[-1]["train_loss"] > 0
    assert outcome.result.config["objective"] == config.objective
    assert (tmp_path / "run" / "best.safetensors").exists()

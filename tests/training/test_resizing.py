"""Progressive resizing: the sizes of a run, what the model sees, and which models cannot take part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import feathervit
from feathervit.errors import ConfigError
from feathervit.recipes import RECIPES
from feathervit.training.resizing import Resizing, side


def test_sides_grow_linearly_in_multiples_of_eight_and_end_full():
    sides = [side(step / 1000, 48, 0.5) for step in range(1000)]
    assert sides == sorted(sides)
    assert set(sides) == {24, 32, 40, 48}
    assert sum(s == 48 for s in sides) == 200  # the last fifth
    assert side(0.0, 36, 0.9) == 32
    assert side(0.8, 36, 0.9) == 36


@pytest.fixture(scope="module")
def grey():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.arange(40) % 4


WORDS = {"epochs": 5, "batch_size": 10, "device": "cpu", "img_size": 32, "optim.warmup_epochs": 0.0}


def test_the_model_sees_small_images_first_and_is_kept_at_full_size(grey, tmp_path, monkeypatch):
    seen = []
    forward = feathervit.models.Encoder.forward

    def noted(self, x, *rest, **words):
        if self.training:
            seen.append(x.shape[-1])
        return forward(self, x, *rest, **words)

    monkeypatch.setattr(feathervit.models.Encoder, "forward", noted)
    feathervit.train(
        "feather_cifar100",
        data=grey,
        out=tmp_path / "run",
        model="feather_nano",
        **WORDS,
        **{"augment.initial_scale": 0.5},
    )
    steps = len(seen)
    assert seen == [side(step / steps, 32, 0.5) for step in range(steps)]
    predictor = feathervit.load(tmp_path / "run")
    assert predictor.model.patch_embed.img_size == 32


def test_resuming_within_the_growth_gives_the_same_weights(grey, tmp_path):
    words = WORDS | {"model": "feather_nano", "augment.initial_scale": 0.5}
    feathervit.train("feather_cifar100", data=grey, out=tmp_path / "whole", **words)
    feathervit.train("feather_cifar100", data=grey, out=tmp_path / "parts", max_minutes=1e-6, **words)
    while not (tmp_path / "parts" / "result.json").exists():
        feathervit.train(data=grey, out=tmp_path / "parts", resume=True)
    whole, parts = (feathervit.load(tmp_path / name).model.state_dict() for name in ("whole", "parts"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


@pytest.mark.parametrize(
    "words",
    [{"model": "mlit_nano", "patch_size": 4}, {"model": "feather_nano", "objective": "reconstruction"}],
    ids=str,
)
def test_models_of_one_size_and_other_objectives_are_refused(grey, tmp_path, words):
    with pytest.raises(ConfigError, match="initial_scale"):
        feathervit.train(
            "feather_cifar100", data=grey, out=tmp_path / "run", **WORDS, **words, **{"augment.initial_scale": 0.5}
        )


def test_images_are_reduced_as_torch_reduces_them():
    config = RECIPES["feather_cifar100"].config
    config = replace(config, img_size=32, augment=replace(config.augment, initial_scale=0.5))
    model = feathervit.models.create_model("feather_nano", img_size=32, num_classes=4)
    resizing, x = Resizing(config, model, 3, 100), torch.rand(2, 3, 32, 32)
    assert resizing.side(0) == 16
    assert_close(resizing.fit(x, 16), F.interpolate(x, size=(16, 16), mode="bilinear", antialias=True))
    assert sum(resizing.shares().values()) == pytest.approx(1)

"""Every part trains for a few steps and loads from its checkpoint; the rates of the PoorViTs recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import feathervit
from feathervit.config import (
    ConvStemConfig,
    EncoderConfig,
    LatentConfig,
    ResidualStemConfig,
    StageConfig,
    WhitenedPatchesConfig,
)
from feathervit.recipes import recipe
from feathervit.training.optim import learning_rate, peak_learning_rate
from tests.models.test_encoder import VARIANTS

OPTIMISERS, PRECISIONS = ("adamw", "lion", "muon"), ("float32", "bfloat16")


def fitting(config: EncoderConfig) -> EncoderConfig:
    """Adapts the configuration to images of 16 px and patches of 4 px."""
    if isinstance(config.patches, ConvStemConfig):
        return replace(config, patches=ConvStemConfig(3))
    if isinstance(config.patches, ResidualStemConfig):
        return replace(config, patches=ResidualStemConfig(6, (StageConfig(8, 1), StageConfig(10, 1))))
    if config.patches == WhitenedPatchesConfig(frozen=True):
        return replace(config, dim=60)
    return config


@pytest.mark.parametrize(("number", "variant"), list(enumerate(VARIANTS)))
def test_every_variant_trains_and_loads(number, variant, arrays, small, tmp_path):
    fields = {k: v for k, v in small.items() if not k.startswith("arch.")} | {"arch": fitting(VARIANTS[variant])}
    fields |= {"optim.name": OPTIMISERS[number % 3], "precision": PRECISIONS[number % 2], "optim.ema": 0.5}
    run = feathervit.train(data=arrays, out=tmp_path / "run", epochs=1, **fields)
    assert run.finished
    predictor = feathervit.load(run.folder)
    assert predictor.config.arch == fields["arch"]
    assert predictor.predict(arrays[0][:2])[0].label in predictor.class_names


def test_poorvit_recipe():
    config = recipe("poorvit_cifar10")
    assert config.augment.policy == "cifar10"
    assert (config.augment.mixup, config.augment.cutmix, config.augment.mix_prob) == (1, 1, 0.5)
    assert feathervit.models.spec(config.model).config.drop_path_rate == 0.1


def test_poorvit_learning_rates():
    """AdamW's rate is 1e-3 for any batch size after a tenth of the run, and 1e-6 at the end."""
    config = recipe("poorvit_cifar10")
    peak = peak_learning_rate(config, 1024)
    assert peak == 1e-3
    assert learning_rate(29, 1, config, peak) == pytest.approx(1e-3)
    assert learning_rate(14, 1, config, peak) == pytest.approx(0.5e-3)
    assert learning_rate(299, 1, config, peak) == pytest.approx(1e-6)


def test_latent_attention_in_a_named_model():
    """PoorViTs' variant with a rank of a third of the width saves 12,288 parameters per projection and layer."""
    whole, latent = (
        sum(p.numel() for p in feathervit.create_model("poorvit_tiny", num_classes=10, **parts).parameters())
        for parts in ({}, {"attention": LatentConfig()})
    )
    assert whole - latent == 12 * 3 * 12_288


def test_evaluation_draws_no_random_numbers():
    for config in VARIANTS.values():
        model = feathervit.models.Encoder(config, img_size=8, patch_size=2, num_classes=3).eval()
        before = torch.get_rng_state()
        model(torch.zeros(1, 3, 8, 8))
        assert torch.equal(torch.get_rng_state(), before)

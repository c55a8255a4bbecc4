"""Patch embeddings: the whitening against its definition, the stem against its layers written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import feathervit
from feathervit.checkpoint import Checkpoint, save_weights
from feathervit.config import (
    ConvStemConfig,
    EncoderConfig,
    GQAConfig,
    MLPConfig,
    PooledStemConfig,
    RunConfig,
    WhitenedPatchesConfig,
    resolve,
    spec,
    with_fields,
)
from feathervit.models import create_model
from feathervit.models.embed import whitening_filters
from feathervit.models.starting import start_from
from tests.models.test_encoder import build
from tests.reference.parts import all_patches


def correlated(count: int = 40, channels: int = 3, size: int = 8) -> torch.Tensor:
    """Smooth images with correlated channels and a nonzero mean."""
    noise = torch.randn(count, channels, size + 2, size + 2, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(noise, 3, 1) * 2 + 0.3
    return smooth + 0.5 * smooth[:, :1]


def test_filters_whiten_the_patches():
    images = correlated()
    patches = all_patches(images, 2)
    filters = whitening_filters(images, 2)
    assert filters.shape == (12, 3, 2, 2)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values[::-1], vectors[:, ::-1].T
    out = patches @ filters.flatten(1).double().numpy().T
    moment = out.T @ out / len(out)
    assert_close(torch.tensor(moment), torch.tensor(np.diag(values / (values + 5e-4))), atol=2e-4, rtol=0)
    for n in range(12):  # eigenvectors are known up to their sign
        expected = vectors[n] / np.sqrt(values[n] + 5e-4)
        cosine = filters[n].flatten().double().numpy() @ expected / (expected @ expected)
        assert abs(cosine) == pytest.approx(1, abs=1e-3)


def test_only_the_first_filters_are_whitening_filters():
    model = build(EncoderConfig(20, 1, GQAConfig(2, 2), MLPConfig(), WhitenedPatchesConfig()))
    assert model.data_dependent
    before = model.patch_embed.proj.weight.detach().clone()
    model.initialise_from(correlated())
    after = model.patch_embed.proj.weight.detach()
    assert_close(after[:12], whitening_filters(correlated(), 2))
    assert torch.equal(after[12:], before[12:])
    narrow = build(EncoderConfig(8, 1, GQAConfig(2, 2), MLPConfig(), WhitenedPatchesConfig()))
    narrow.initialise_from(correlated())
    assert_close(narrow.patch_embed.proj.weight.detach(), whitening_filters(correlated(), 2)[:8])


def test_frozen_whitening_is_stored_but_not_a_parameter():
    model = build(EncoderConfig(20, 1, GQAConfig(2, 2), MLPConfig(), WhitenedPatchesConfig(frozen=True)))
    model.initialise_from(correlated())
    assert model.patch_embed.proj.weight.shape == (8, 3, 2, 2)
    assert torch.equal(model.state_dict()["patch_embed.white"], whitening_filters(correlated(), 2))
    assert "patch_embed.white" not in dict(model.named_parameters())
    images = torch.randn(2, 3, 8, 8)
    whole = F.conv2d(images, torch.cat([model.patch_embed.white, model.patch_embed.proj.weight]), stride=2)
    assert_close(model.patch_embed(images), whole.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("layers", "patch", "strides", "widths"),
    [
        (1, 1, [1], [12]),
        (1, 2, [2], [12]),
        (2, 2, [2, 1], [6, 12]),
        (2, 4, [2, 2], [6, 12]),
        (3, 4, [2, 2, 1], [3, 6, 12]),
        (3, 8, [2, 2, 2], [3, 6, 12]),
    ],
)
def test_conv_stem(layers, patch, strides, widths):
    config = EncoderConfig(12, 1, GQAConfig(2, 2), MLPConfig(), ConvStemConfig(layers))
    model = build(config, patch_size=patch).double()
    images = x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    stem = model.patch_embed
    convs = [stem.proj, *list(stem.rest)[2::3]]
    assert [conv.out_channels for conv in convs] == widths
    for conv, stride in zip(convs, strides, strict=True):
        x = F.conv2d(x, conv.weight, stride=stride, padding=1)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = F.gelu(x)
    assert x.shape[-1] == 8 // patch
    assert_close(stem(images), x.flatten(2).transpose(1, 2), atol=1e-10, rtol=1e-10)


def test_pooled_stem():
    """Convolution, ReLU and max-pool, twice. Max-pool is written as the maximum of each window."""
    config = EncoderConfig(12, 1, GQAConfig(2, 2), MLPConfig(), PooledStemConfig(2, 5))
    model = build(config, patch_size=4).double()
    images = x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    stem = model.patch_embed
    for conv in (stem.proj, stem.rest[2]):
        x = F.conv2d(x, conv.weight, padding=1).clamp(min=0)
        side = x.shape[-1]
        rows = [x[:, :, max(0, 2 * i - 1) : 2 * i + 2].amax(2) for i in range(side // 2)]
        x = torch.stack(rows, 2)
        x = torch.stack([x[..., max(0, 2 * i - 1) : 2 * i + 2].amax(-1) for i in range(side // 2)], -1)
    assert x.shape == (2, 12, 2, 2)
    assert_close(stem(images), x.flatten(2).transpose(1, 2), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("frozen", "state"), [(False, "none yet"), (True, "whole")])
def test_a_run_initialises_from_its_training_images(frozen, state, arrays, tmp_path, small):
    """With a learning rate near zero, the filters keep their values from the training images, also in a resumed run."""
    patches = WhitenedPatchesConfig(frozen=frozen)
    arch = with_fields(spec("mlit_nano").config, depth=1, dim=64, patches=patches)
    fields = {k: v for k, v in small.items() if not k.startswith("arch.")} | {"lr": 1e-12, "optim.weight_decay": 0.0}
    fields |= {"arch": arch, "split.val_fraction": 0.0}
    run = tmp_path / "run"
    assert not feathervit.train(data=arrays, out=run, epochs=2, max_minutes=1e-6, **fields).finished
    if state == "none yet":  # killed before it was written
        [path.unlink() for path in run.glob("state*")]
    feathervit.train(data=arrays, out=run, resume=True, epochs=2, **fields)
    images = torch.from_numpy(arrays[0]).permute(0, 3, 1, 2)
    expected = whitening_filters((images / 255 - 0.5) / 0.5, 4)
    embed = feathervit.load(run).model.patch_embed
    found = embed.white if frozen else embed.proj.weight.detach()[:48]
    strong = slice(0, 4)  # eigenvalues that stand apart, so that the eigenvectors are determined up to sign
    cosine = F.cosine_similarity(found[strong].flatten(1), expected[strong].flatten(1)).abs()
    assert_close(cosine, torch.ones(4), atol=1e-3, rtol=0)


def test_a_stem_accepts_weights_of_other_channels(tmp_path):
    arch = replace(spec("mlit_nano").config, patches=ConvStemConfig(2))
    colour = create_model("mlit_nano", img_size=16, patch_size=4, num_classes=2, config=arch).eval()
    config = resolve(RunConfig(model="mlit_nano", img_size=16, patch_size=4, arch=arch))
    save_weights(tmp_path / "w.safetensors", Checkpoint(config, ("a", "b"), 3, colour.state_dict()))
    grey = create_model("mlit_nano", img_size=16, patch_size=4, in_chans=1, num_classes=2, config=arch).eval()
    start_from(grey, tmp_path / "w.safetensors")
    x = torch.randn(2, 1, 16, 16)
    assert_close(grey.forward_features(x), colour.forward_features(x.expand(-1, 3, -1, -1)))

"""Encoding under a mask: only the kept patches go through the layers, and hidden pixels do not affect them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import (
    ConvMLPConfig,
    ConvStemConfig,
    EncoderConfig,
    GQAConfig,
    LatentConfig,
    LinearPatchesConfig,
    MLPConfig,
    MoEConfig,
    PooledStemConfig,
    ResidualStemConfig,
    StageConfig,
    SwiGLUConfig,
    WhitenedPatchesConfig,
)
from feathervit.models.place import Place
from tests.models.test_encoder import VARIANTS, build

KEEP = torch.tensor([[3, 0, 9, 14, 6], [15, 1, 2, 8, 5]])


def pixels(patches: torch.Tensor, patch_size: int = 2, grid: int = 4) -> torch.Tensor:
    """[B, 1, S, S]: 1 where a pixel belongs to one of `patches`, written out patch by patch."""
    mask = torch.zeros(len(patches), 1, grid * patch_size, grid * patch_size, dtype=torch.float64)
    for image, row in enumerate(patches.tolist()):
        for patch in row:
            i, j = patch_size * (patch // grid), patch_size * (patch % grid)
            mask[image, :, i : i + patch_size, j : j + patch_size] = 1
    return mask


PATCHES = [
    LinearPatchesConfig(),
    WhitenedPatchesConfig(),
    WhitenedPatchesConfig(frozen=True),
    ConvStemConfig(1),
    ConvStemConfig(2),
    ConvStemConfig(3),
    PooledStemConfig(1),
    ResidualStemConfig(6, (StageConfig(8, 1, 2), StageConfig(16, 1, 1))),
]
FEEDFORWARDS = [
    MoEConfig(10, 4, experts=(2,)),
    MLPConfig(2.0),
    SwiGLUConfig(8, 8),
    ConvMLPConfig(2.0),
    ConvMLPConfig(2.0, 0),
]
READOUTS = [{"readout": "class", "class_tokens": 2}, {"readout": "dummy"}, {"readout": "mean"}, {"readout": "pool"}]
COMBINATIONS = [
    EncoderConfig(16, 2, attention, feedforward, patches, positions, **readout)
    for n, (patches, feedforward) in enumerate(itertools.product(PATCHES, FEEDFORWARDS))
    for positions in [["learned", "sincos", "rotary", "none"][n % 4]]
    for attention in [[GQAConfig(4, 2), LatentConfig(4, 6)][(n + n // 4) % 2]]
    for readout in [READOUTS[n // 3 % (2 if feedforward == ConvMLPConfig(2.0) else 4)]]
]


@pytest.mark.parametrize("config", [*VARIANTS.values(), *COMBINATIONS])
def test_visible_tokens_do_not_depend_on_hidden_pixels(config):
    model = build(config).double().eval()
    seen = pixels(KEEP)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    tokens, _ = model.encode(images, KEEP)
    assert tokens.shape == (2, model.num_prefix_tokens + 5, model.embed_dim)
    other = seen * images + (1 - seen) * torch.randn_like(images)
    assert_close(model.encode(other, KEEP)[0], tokens, atol=1e-12, rtol=1e-12)
    probe = torch.randn_like(tokens)
    (gradient,) = torch.autograd.grad((tokens * probe).sum(), images)
    assert torch.equal(gradient * (1 - seen), torch.zeros_like(images))
    assert ((gradient * seen).abs().sum((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_keeping_all_patches_equals_no_mask(variant):
    model = build(VARIANTS[variant]).double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    whole, prefix = model.encode(images)[0], model.num_prefix_tokens
    order = torch.stack([torch.randperm(16) for _ in range(2)])
    tokens = model.encode(images, order)[0]
    assert_close(tokens[:, :prefix], whole[:, :prefix], atol=1e-12, rtol=1e-12)
    for image in range(2):
        assert_close(tokens[image, prefix:], whole[image, prefix + order[image]], atol=1e-12, rtol=1e-12)


def test_layers_get_kept_patches_with_their_positions():
    model = build().double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    embedded = model.patch_embed(images) + model.pos_embed[:, 1:]
    rows = [torch.cat([model.pos_embed[0, :1], embedded[b, KEEP[b]]]) for b in range(2)]
    x = torch.stack(rows)
    for layer in model.blocks:
        x, _ = layer(x, Place(1, 4, KEEP))
    assert_close(model.encode(images, KEEP)[0], model.norm(x), atol=1e-12, rtol=1e-12)


def test_on_grid_puts_kept_patches_in_place():
    place = Place(1, 4, KEEP)
    patches = torch.randn(2, 5, 3)
    grid = place.on_grid(patches)
    for image in range(2):
        for n, patch in enumerate(KEEP[image].tolist()):
            assert torch.equal(grid[image, patch], patches[image, n])
    assert (grid != 0).any(-1).sum() == 10
    whole = torch.randn(2, 16, 3)
    assert torch.equal(Place(1, 4).on_grid(whole), whole)

"""Positions against their formulas, written out token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import EncoderConfig, GQAConfig, LatentConfig, MLPConfig
from feathervit.errors import ConfigError
from feathervit.models.place import Place
from feathervit.models.positions import rotary_turns, rotate, sincos_positions
from tests.models.test_encoder import TINY, build
from tests.reference.parts import rotated

KEEP = torch.tensor([[3, 0, 8], [7, 1, 2]])


def test_sincos_equals_its_formula():
    """As in MAE and MoCo v3, with temperature 10,000: sines of both coordinates, then cosines of both."""
    table = sincos_positions(3, 2, 16)
    assert table.shape == (1, 11, 16)
    assert torch.equal(table[0, :2], torch.zeros(2, 16))
    for n in range(9):
        row, column = divmod(n, 3)
        angles = [coordinate / 10_000 ** (i / 4) for coordinate in (row, column) for i in range(4)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert_close(table[0, 2 + n], torch.tensor(expected), atol=1e-6, rtol=0)


def test_rotary_rotates_patches_but_not_prefix_tokens():
    x = torch.randn(2, 3, 11, 8, dtype=torch.float64)
    y = rotate(x, Place(2, 3, turns_BNK=rotary_turns(3, 2, 8)))
    assert torch.equal(y[:, :, :2], x[:, :, :2])
    for n in range(9):
        assert_close(y[1, 2, 2 + n], rotated(x[1, 2, 2 + n], *divmod(n, 3)), atol=1e-6, rtol=0)


def test_rotary_scores_depend_only_on_the_offset():
    q, k = torch.randn(2, 8, dtype=torch.float64)
    place = Place(0, 5, turns_BNK=rotary_turns(5, 0, 8))
    turned_q = rotate(q.expand(1, 1, 25, 8), place)[0, 0]
    turned_k = rotate(k.expand(1, 1, 25, 8), place)[0, 0]
    scores = (turned_q @ turned_k.T).view(5, 5, 5, 5)
    for i, j in [(0, 0), (1, 2), (2, 1)]:
        assert_close(scores[i, j, i + 2, j + 1], scores[0, 0, 2, 1], atol=1e-6, rtol=0)
    assert (scores[0, 0, 2, 1] - scores[0, 0, 1, 2]).abs() > 1e-3


def test_rotary_positions_need_a_layer():
    with pytest.raises(ConfigError, match="layers"):
        build(EncoderConfig(12, 0, positions="rotary"))


@torch.no_grad()
@pytest.mark.parametrize("attention", [GQAConfig(3, 1), LatentConfig(3, 5)])
def test_attention_rotates_queries_and_keys_of_kept_patches(attention):
    """Both kinds of attention get the rotations of each image's own patches."""
    config = EncoderConfig(12, 1, attention, MLPConfig(), positions="rotary", readout="class")
    model = build(config, img_size=6).double().eval()
    place = model.place(KEEP)
    assert_close(place.turns_BNK[1, 2], model.turns[0, 1 + 1])
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    layer = model.blocks[0].attn
    if isinstance(attention, GQAConfig):
        q, k, v = layer.qkv(x).split([12, 4, 4], dim=-1)
        k, v = k.repeat(1, 1, 3), v.repeat(1, 1, 3)
    else:
        q, k, v = layer.q(x), layer.k(x), layer.v(x)
    q, k, v = (t.unflatten(-1, (3, 4)).transpose(1, 2).clone() for t in (q, k, v))
    for image in range(2):
        for n, patch in enumerate(KEEP[image].tolist()):
            for head in range(3):
                q[image, head, 1 + n] = rotated(q[image, head, 1 + n], *divmod(patch, 3))
                k[image, head, 1 + n] = rotated(k[image, head, 1 + n], *divmod(patch, 3))
    y = ((q @ k.mT) / 2).softmax(-1) @ v
    assert_close(layer(x, place), layer.proj(y.transpose(1, 2).flatten(2)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("positions", ["sincos", "rotary", "none"])
def test_only_learned_positions_are_weights(positions):
    model = build(EncoderConfig(12, 2, GQAConfig(3, 3), MLPConfig(), positions=positions))
    assert not [name for name in model.state_dict() if "pos_embed" in name or "turns" in name]
    assert "pos_embed" not in model.no_weight_decay()


@pytest.mark.parametrize("positions", ["learned", "sincos", "rotary", "none"])
def test_the_order_of_patches_matters_only_with_positions(positions):
    model = (
        build(EncoderConfig(12, 2, GQAConfig(3, 3), MLPConfig(), positions=positions, readout="class")).double().eval()
    )
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    moved = images.roll(2, 3)  # by one patch
    difference = (model(moved) - model(images)).abs().max()
    assert difference < 1e-12 if positions == "none" else difference > 1e-6


def test_a_dummy_patch_without_a_position_is_zero():
    model = build(EncoderConfig(12, 2, GQAConfig(3, 3), MLPConfig(), positions="sincos")).eval()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits = model(torch.randn(2, 3, 8, 8))
    assert torch.equal(seen[0][:, 0], torch.zeros(2, 12))
    assert (logits[0] - logits[1]).abs().max() > 1e-4  # it still reads the image


def test_learned_positions_are_the_default():
    assert EncoderConfig().positions == "learned"
    assert build(TINY).pos_embed.requires_grad

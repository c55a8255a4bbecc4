"""The read-outs, and configurations of older files, which had no choice of read-out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import EncoderConfig, from_dict, to_dict
from feathervit.errors import ConfigError
from tests.models.test_encoder import TINY, VARIANTS, build


@pytest.mark.parametrize("count", [1, 2, 5])
def test_class_tokens_are_concatenated_in_the_head(count):
    model = build(replace(TINY, readout="class", class_tokens=count)).double().eval()
    assert model.readout.token.shape == (1, count, 12)
    assert model.pos_embed.shape == (1, count + 16, 12)  # each has its own position
    assert model.head.weight.shape == (5, count * 12)
    tokens = model.forward_features(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    expected = sum(tokens[:, n] @ model.head.weight[:, 12 * n : 12 * (n + 1)].T for n in range(count))
    assert_close(model.forward_head(tokens), expected, atol=1e-12, rtol=1e-12)
    model.reset_classifier(3)
    assert model.head.weight.shape == (3, count * 12)


def test_class_tokens_differ():
    model = build(replace(TINY, readout="class", class_tokens=2)).eval()
    tokens = model.forward_features(torch.randn(1, 3, 8, 8))
    assert (tokens[0, 0] - tokens[0, 1]).abs().max() > 1e-3


def test_sequence_pool_is_a_softmax_weighted_mean():
    model = build(replace(TINY, readout="pool")).double().eval()
    assert model.num_prefix_tokens == 0
    tokens = torch.randn(2, 16, 12, dtype=torch.float64)
    w, b = model.readout.score.weight[0], model.readout.score.bias[0]
    for image in range(2):
        shares = [math.exp((token @ w + b).item()) for token in tokens[image]]
        expected = sum(share * token for share, token in zip(shares, tokens[image], strict=True)) / sum(shares)
        assert_close(model.readout(tokens)[image], expected, atol=1e-12, rtol=1e-12)


def test_mean_readout():
    tokens = torch.randn(2, 16, 12)
    assert_close(build(replace(TINY, readout="mean")).readout(tokens), tokens.sum(1) / 16)


@pytest.mark.parametrize("readout", ["dummy", "class", "mean"])
def test_older_configurations_load(readout):
    older = to_dict(EncoderConfig(readout=readout))
    for newer in ("positions", "patches", "class_tokens"):
        del older[newer]
    assert from_dict(EncoderConfig, older) == EncoderConfig(readout=readout)


def test_parts_survive_json():
    for config in VARIANTS.values():
        assert from_dict(EncoderConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match="low_rank"):
        from_dict(EncoderConfig, {"attention": {"kind": "Latent", "low_rank": "x"}})

"""Named intermediate values against forward, the formulas, and torch's MultiheadAttention."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import GQAConfig
from feathervit.errors import ConfigError
from feathervit.models.attention import GroupedQueryAttention
from tests.models.test_attention import HEADS, WIDTH, D, same_in_torch
from tests.models.test_encoder import VARIANTS, build


@pytest.fixture(params=VARIANTS)
def model(request):
    return build(VARIANTS[request.param]).double().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gates(layer, x):
    """Softmax over the k largest products of each token, written token by token."""
    out = torch.zeros(*x.shape[:2], layer.ffn.experts, dtype=x.dtype)
    for b in range(x.shape[0]):
        for n in range(x.shape[1]):
            h = layer.ffn.gate.w_gate.weight @ x[b, n]
            kept = sorted(range(len(h)), key=lambda e: -h[e])[: layer.ffn.gate.config.top_k]
            total = sum(h[e].exp() for e in kept)
            for e in kept:
                out[b, n, e] = h[e].exp() / total
    return out


@torch.no_grad()
def test_intermediates_equal_forward(model, images):
    found = model.intermediates(images)
    assert_close(found["tokens"], model.forward_features(images))
    x, place, with_experts = found["embedding"], model.place(), []
    for i, layer in enumerate(model.blocks):
        weights, values = found[f"blocks.{i}.attention"], found[f"blocks.{i}.values"]
        assert_close(weights.sum(-1), torch.ones(weights.shape[:3], dtype=torch.float64))
        attended = layer.attn.proj((weights @ values).transpose(1, 2).flatten(2))
        assert_close(attended, layer.attn(layer.norm1(x), place))
        if f"blocks.{i}.gate" in found:
            with_experts.append(i)
            assert_close(found[f"blocks.{i}.gate"], gates(layer, layer.norm2(x + attended)))
        x, _ = layer(x, place)
        assert_close(found[f"blocks.{i}.output"], x)
    assert with_experts == [i for i, layer in enumerate(model.blocks) if getattr(layer.ffn, "experts", 1) > 1]


@pytest.mark.parametrize("kv_heads", [6, 2, 1])
def test_attention_weights_equal_torchs(kv_heads):
    ours = GroupedQueryAttention(D, GQAConfig(HEADS, kv_heads)).double()
    x = torch.randn(2, 5, D, dtype=torch.float64)
    weights, values = ours.look(x)
    _, theirs = same_in_torch(ours, kv_heads)(x, x, x, average_attn_weights=False)
    assert_close(weights, theirs)
    assert values.shape == (2, HEADS, 5, WIDTH)


@torch.no_grad()
def test_only_requested_intermediates_are_returned(images):
    model = build(VARIANTS["moe"]).double().eval()
    whole = model.intermediates(images)
    found = model.intermediates(images, ("gate",))
    assert list(found) == ["blocks.0.gate", "blocks.1.gate", "blocks.2.gate"]
    assert all(torch.equal(value, whole[name]) for name, value in found.items())
    assert {name: tuple(value.shape) for name, value in whole.items() if name.startswith("blocks.1")} == {
        "blocks.1.attention": (2, 4, 17, 17),
        "blocks.1.values": (2, 4, 17, 3),
        "blocks.1.gate": (2, 17, 3),
        "blocks.1.output": (2, 17, 12),
    }


def test_training_mode_is_refused(images):
    with pytest.raises(ConfigError, match="eval"):
        build().double().train().intermediates(images)

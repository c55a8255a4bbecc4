"""Costs against hand counts and timm's published figure."""

from __future__ import annotations

import pytest
import timm
import torch

from feathervit.config import EncoderConfig, GQAConfig, MLPConfig, MoEConfig, SwiGLUConfig
from feathervit.errors import ConfigError
from feathervit.models import Encoder, create_model
from feathervit.models.cost import cost


def attention_macs(n: int, d: int, heads: int, kv_heads: int) -> int:
    """Projections of queries, keys, values and output, and for each query head the products with keys and values."""
    width = d // heads
    return n * d * d + 2 * n * d * kv_heads * width + n * d * d + 2 * heads * n * n * width


def build(feedforward, readout: str = "dummy") -> Encoder:
    config = EncoderConfig(dim=12, depth=1, attention=GQAConfig(4, 2), feedforward=feedforward, readout=readout)
    return Encoder(config, img_size=8, patch_size=2, in_chans=3, num_classes=7)


@pytest.mark.parametrize(
    ("feedforward", "macs_per_token"),
    [
        (MLPConfig(ratio=2), 2 * 12 * 24),
        (SwiGLUConfig(10, 10), 3 * 12 * 10),
        (MoEConfig(10, 10, experts=(3,)), 12 * 3 + 12 * 30 + 12 * 10 + 10 * 12),  # gate, three W, one V, one W2
    ],
)
def test_a_tiny_encoder_matches_a_hand_count(feedforward, macs_per_token):
    n = 17  # a dummy and 4 x 4 patches
    hand = 16 * (3 * 2 * 2) * 12 + attention_macs(n, 12, 4, 2) + n * macs_per_token + 12 * 7
    found = cost(build(feedforward), 8)
    assert (found.macs, found.tokens) == (hand, n)


def test_tokens_without_a_readout_token():
    assert cost(build(MLPConfig(), readout="mean"), 8).tokens == 16


@pytest.mark.parametrize(
    ("name", "layers", "dim", "parameters", "linear", "attention"),
    [
        ("mlit_s", 15, 144, 2_372_582, 335, 91),
        ("mlit_xs", 12, 128, 1_215_148, 169, 65),
        ("mlit_xxs", 9, 108, 662_173, 91, 41),
    ],
)
def test_costs_of_mlit(name, layers, dim, parameters, linear, attention):
    """Millions computed from Table 1 with dense experts. They include W_noise, which evaluation never computes."""
    found = cost(create_model(name, num_classes=100), 36)
    assert (found.parameters, found.tokens) == (parameters, 145)
    products = layers * 2 * 145 * 145 * dim
    noise = 145 * dim * (3 + 4 + 5) * layers // 3
    assert round(products / 1e6) == attention
    assert round((found.macs - products + noise) / 1e6) == linear


def test_timm_vit_tiny():
    """timm's model card: 5.7 M parameters, 1.3 GMACs."""
    found = cost(timm.create_model("vit_tiny_patch16_224"), 224)
    assert round(found.parameters / 1e6, 1) == 5.7
    assert round(found.macs / 1e9, 1) == 1.3
    mlp = 2 * 197 * 192 * 768
    assert found.macs == 196 * 768 * 192 + 12 * (attention_macs(197, 192, 3, 3) + mlp) + 192 * 1000
    assert found.tokens == 197


def test_convolutional_models_have_no_tokens():
    found = cost(timm.create_model("test_resnet", num_classes=3), 32)
    assert found.tokens is None
    assert found.macs > 0


def test_the_model_is_not_changed():
    model = build(MLPConfig()).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cost(model, 8)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("size", "chans"), [(9, 3), (8, 1)])
def test_mismatched_images_are_refused(size, chans):
    with pytest.raises(ConfigError):
        cost(build(MLPConfig()), size, chans)

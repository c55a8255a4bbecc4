"""The depth-wise feed-forward against its formula, window by window, with and without a mask."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import ConvMLPConfig
from feathervit.models.feedforward import build_feedforward
from feathervit.models.place import Place
from tests.reference.parts import conv_feedforward

D, GRID = 8, 4
KEEP = torch.tensor([[3, 0, 9, 14, 6, 7], [15, 1, 2, 8, 5, 11]])


@pytest.mark.parametrize("keep", [None, KEEP])
@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("reduction", [0, 4])
def test_equals_the_formula(reduction, prefix, keep):
    torch.manual_seed(0)
    layer = build_feedforward(ConvMLPConfig(1.5, reduction), D, 0, 1).double()
    kept = torch.arange(GRID**2).repeat(2, 1) if keep is None else keep
    x = torch.randn(2, prefix + kept.shape[1], D, dtype=torch.float64)
    y, balance = layer(x, Place(prefix, GRID, keep))
    assert balance.item() == 0
    for image in range(2):
        expected = conv_feedforward(layer, x[image], prefix, kept[image].tolist(), GRID, reduction > 0)
        assert_close(y[image], expected, atol=1e-12, rtol=1e-12)


def test_parameter_count():
    layer = build_feedforward(ConvMLPConfig(2.0, 4), D, 0, 1)
    parameters = sum(p.numel() for p in layer.parameters())
    assert parameters == (D * 16 + 16) + (9 * 16 + 16) + (16 * D + D) + (D * 2 + 2) + (2 * D + D)


def test_dropout_is_applied_to_the_output():
    layer = build_feedforward(ConvMLPConfig(2.0, 0, dropout=0.4), D, 0, 1).double()
    x = torch.randn(2, 17, D, dtype=torch.float64)
    whole, y = layer.eval()(x, Place(1, GRID))[0], layer.train()(x, Place(1, GRID))[0]
    kept = y != 0
    assert 0.4 < kept.double().mean() < 0.8
    assert_close(y[kept], whole[kept] / 0.6, atol=1e-12, rtol=1e-12)

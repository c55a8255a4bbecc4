"""The depth-wise feed-forward against its formula, window by window, with and without a mask."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from feathervit.config import ConvMLP
from feathervit.models.feedforward import build_feedforward
from feathervit.models.place import Place

D, GRID = 8, 4
KEEP = torch.tensor([[3, 0, 9, 14, 6, 7], [15, 1, 2, 8, 5, 11]])


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def literal(layer, x: Tensor, prefix: int, kept: list[int], recalibrated: bool) -> Tensor:
    """One picture [P + K, D]: the patches stand on their places of the grid, everywhere else is zero."""
    w1, b1, w2, b2 = layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias
    h = {patch: gelu(w1 @ x[prefix + n] + b1) for n, patch in enumerate(kept)}
    y = []
    for patch in kept:
        row, column = divmod(patch, GRID)
        window = layer.conv.bias.clone()
        for i in range(3):
            for j in range(3):
                r, c = row + i - 1, column + j - 1
                if 0 <= r < GRID and 0 <= c < GRID and r * GRID + c in h:
                    window = window + layer.conv.weight[:, 0, i, j] * h[r * GRID + c]
        y.append(w2 @ (h[patch] + gelu(window)) + b2)
    if recalibrated:
        mean = sum(y) / len(y)
        scale = layer.excite.weight @ gelu(layer.squeeze.weight @ mean + layer.squeeze.bias) + layer.excite.bias
        front = [token * scale for token in x[:prefix]]
    else:
        front = [w2 @ gelu(w1 @ token + b1) + b2 for token in x[:prefix]]
    return torch.stack([*front, *y])


@pytest.mark.parametrize("keep", [None, KEEP])
@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("reduction", [0, 4])
def test_equals_the_formula(reduction, prefix, keep):
    torch.manual_seed(0)
    layer = build_feedforward(ConvMLP(1.5, reduction), D, 0, 1).double()
    kept = torch.arange(GRID**2).repeat(2, 1) if keep is None else keep
    x = torch.randn(2, prefix + kept.shape[1], D, dtype=torch.float64)
    y, balance = layer(x, Place(prefix, GRID, keep))
    assert balance.item() == 0
    for picture in range(2):
        expected = literal(layer, x[picture], prefix, kept[picture].tolist(), reduction > 0)
        assert_close(y[picture], expected, atol=1e-12, rtol=1e-12)


def test_sizes():
    layer = build_feedforward(ConvMLP(2.0, 4), D, 0, 1)
    parameters = sum(p.numel() for p in layer.parameters())
    assert parameters == (D * 16 + 16) + (9 * 16 + 16) + (16 * D + D) + (D * 2 + 2) + (2 * D + D)


def test_dropout_falls_on_the_output():
    layer = build_feedforward(ConvMLP(2.0, 0, dropout=0.4), D, 0, 1).double()
    x = torch.randn(2, 17, D, dtype=torch.float64)
    whole, y = layer.eval()(x, Place(1, GRID))[0], layer.train()(x, Place(1, GRID))[0]
    kept = y != 0
    assert 0.4 < kept.double().mean() < 0.8
    assert_close(y[kept], whole[kept] / 0.6, atol=1e-12, rtol=1e-12)

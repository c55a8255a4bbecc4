"""Formulas of the other parts, token by token and window by window: rotary positions, DHVT's feed-forward, whitening."""

from __future__ import annotations

import cmath
import math

import numpy as np
import torch
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def rotated(x: Tensor, row: int, column: int, base: float = 100.0) -> Tensor:
    """One head's query or key [K]: pair i, (x_i, x_{i + K/2}) as a complex number, is turned by row * base^(-i / (K/4)) in the
    first half of the pairs, by the column likewise in the second."""
    k = len(x)
    out = torch.empty_like(x)
    for i in range(k // 2):
        coordinate, j = (row, i) if i < k // 4 else (column, i - k // 4)
        z = complex(x[i], x[i + k // 2]) * cmath.exp(1j * coordinate * base ** (-j / (k // 4)))
        out[i], out[i + k // 2] = z.real, z.imag
    return out


def conv_feedforward(layer, x: Tensor, prefix: int, kept: list[int], grid: int, recalibrated: bool) -> Tensor:
    """DAFF of arXiv 2210.05958 without batch norms for one image, [P + K, D]: the patches are at their places of the grid,
    and everything else is zero. `recalibrated`: the prefix tokens are scaled by a function of the patches' mean."""
    w1, b1, w2, b2 = layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias
    h = {patch: gelu(w1 @ x[prefix + n] + b1) for n, patch in enumerate(kept)}
    y = []
    for patch in kept:
        row, column = divmod(patch, grid)
        window = layer.conv.bias.clone()
        for i in range(3):
            for j in range(3):
                r, c = row + i - 1, column + j - 1
                if 0 <= r < grid and 0 <= c < grid and r * grid + c in h:
                    window = window + layer.conv.weight[:, 0, i, j] * h[r * grid + c]
        y.append(w2 @ (h[patch] + gelu(window)) + b2)
    if recalibrated:
        mean = sum(y) / len(y)
        scale = layer.excite.weight @ gelu(layer.squeeze.weight @ mean + layer.squeeze.bias) + layer.excite.bias
        front = [token * scale for token in x[:prefix]]
    else:
        front = [w2 @ gelu(w1 @ token + b1) + b2 for token in x[:prefix]]
    return torch.stack([*front, *y])


def all_patches(images: Tensor, patch: int) -> np.ndarray:
    """float64 [n, C p p]: the patches at every pixel, cut out one by one."""
    x = images.double().numpy()
    steps = range(x.shape[-1] - patch + 1)
    return np.concatenate([x[:, :, i : i + patch, j : j + patch].reshape(len(x), -1) for i in steps for j in steps])

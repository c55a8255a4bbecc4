"""Mixture of experts of arXiv 2407.17783, sections 2.1.2-2.1.3, as printed: one token and one expert at a time.

Rows are tokens. The package is not imported. A router is given by its matrices w_gate [m, t] and w_noise [m, t] and a
drawn noise [n, t]; an expert by its tensors, which are the same objects in each expert that shares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def softmax_k(h: Tensor, k: int) -> Tensor:
    """Softmax over the k largest entries of each row of h [n, t], zero elsewhere (text under Eq. 3, example Eq. 4)."""
    rows = []
    for row in h:
        chosen = sorted(range(len(row)), key=lambda c, row=row: -row[c].item())[:k]
        total = sum(row[c].exp() for c in chosen)
        rows.append(torch.stack([row[c].exp() / total if c in chosen else row[c] * 0 for c in range(len(row))]))
    return torch.stack(rows)


def softplus(x: Tensor) -> Tensor:
    return (1 + x.exp()).log()


def noisy_h(x: Tensor, w_gate: Tensor, w_noise: Tensor, noise: Tensor) -> Tensor:
    """Eq. 3 with a given draw: x W_g + noise * softplus(x W_noise), [n, t]."""
    return x @ w_gate + noise * softplus(x @ w_noise)


def psi(h: Tensor, k: int) -> Tensor:
    """Eq. 6: the (k+1)-th largest value of the row where an entry is among the k largest, the k-th elsewhere."""
    rows = []
    for row in h:
        ordered = sorted(row, key=lambda v: -v.item())
        kth, next_one = ordered[k - 1], ordered[k]
        rows.append(torch.stack([next_one if v.item() >= kth.item() else kth for v in row]))
    return torch.stack(rows)


def normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def load_probability(x: Tensor, w_gate: Tensor, w_noise: Tensor, noise: Tensor, k: int) -> Tensor:
    """Eq. 5: P [n, t]. Where all experts are chosen Psi is undefined and P is 1 (our reading)."""
    if k == w_gate.shape[1]:
        return torch.ones(len(x), k, dtype=x.dtype)
    h = noisy_h(x, w_gate, w_noise, noise)
    return normal_cdf((x @ w_gate - psi(h, k)) / softplus(x @ w_noise))


def coefficient_of_variation(v: Tensor) -> Tensor:
    return torch.std(v, unbiased=True) / v.mean()


def importance_loss(gates: Tensor, weight: float = 1e-2, squared: bool = False) -> Tensor:
    """Eq. 11, read as w CV(sum_0 G): the printed vector has a constant sum, so a CV is meant as in Eq. 10."""
    return weight * _power(coefficient_of_variation(gates.sum(0)), squared)


def load_loss(probability: Tensor, weight: float = 1e-2, squared: bool = False) -> Tensor:
    """Eq. 10: w CV(sum_0 P)."""
    return weight * _power(coefficient_of_variation(probability.sum(0)), squared)


def _power(cv: Tensor, squared: bool) -> Tensor:
    return cv * cv if squared else cv


@dataclass
class Expert:
    """W [m, h], b [h], V [m, h], c [h], W2 [h, m], d [m]: one SwiGLU network of its own."""

    w: Tensor
    b: Tensor
    v: Tensor
    c: Tensor
    w2: Tensor
    d: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Eq. 13 with its biases, for rows of embeddings."""
        a = x @ self.w + self.b
        silu = a / (1 + (-a).exp())  # Eq. 14
        return (silu * (x @ self.v + self.c)) @ self.w2 + self.d


def mixture(x: Tensor, gates: Tensor, experts: list[Expert]) -> Tensor:
    """Eq. 1: y = sum_i G(x)_i E_i(x), token by token; an expert whose gate is zero is not run."""
    rows = []
    for token, gate in zip(x, gates, strict=True):
        y = torch.zeros_like(token)
        for g, expert in zip(gate, experts, strict=True):
            if g.item() != 0:
                y = y + g * expert(token[None])[0]
        rows.append(y)
    return torch.stack(rows)


def hidden_size(layer: int, layers: int, first: int, last: int) -> int:
    """Eq. 15, its floor included; layers count from 0."""
    return math.floor(((layers - 1) - layer) / (layers - 1) * (first - last)) + last


def learning_rate(base: float, batch_size: int) -> float:
    """Eq. 17."""
    return base * batch_size / 256

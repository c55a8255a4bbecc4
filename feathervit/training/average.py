"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """Keeps the average of `model` in `module`. The decay rises from 0, so that the average forgets the first steps.

    The decay after step n is timm's, 1 - max(n, 1)^(-2/3), up to `decay`. Floating-point buffers are averaged, others are
    copied. The pairs of tensors are collected once, so a step takes two calls.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        mine, theirs = self.module.state_dict(), model.state_dict()  # views that stay valid: both are changed in place
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        self.averages = [mine[name] for name in floating]
        self.weights = [theirs[name] for name in floating]
        self.counters = [(mine[name], theirs[name]) for name in mine.keys() - set(floating)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the weights after `step` (from 0) to the average."""
        decay = min(self.decay, 1 - max(step, 1) ** (-2 / 3))
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        for average, counter in self.counters:
            average.copy_(counter)

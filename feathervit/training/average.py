"""Computes an exponential moving average of the weights of a model."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """Holds the moving average of `model` in `module`. The decay increases from 0, so that early steps are forgotten.

    The decay after step n is that of timm, 1 - max(n, 1)^(-2/3), up to `decay`. Floating-point buffers are averaged, others
    copied. The pairs of tensors are collected once, so that a step takes two calls.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        # These views stay valid, because updates are in place.
        averaged, current = self.module.state_dict(), model.state_dict()
        floating = [name for name, tensor in averaged.items() if tensor.is_floating_point()]
        self.averages = [averaged[name] for name in floating]
        self.weights = [current[name] for name in floating]
        self.counters = [(averaged[name], current[name]) for name in averaged.keys() - set(floating)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the weights after `step` (from 0) to the average."""
        decay = min(self.decay, 1 - max(step, 1) ** (-2 / 3))
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        for average, counter in self.counters:
            average.copy_(counter)

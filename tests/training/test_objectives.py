"""Class weights in the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from feathervit.data.mixing import soft_targets
from feathervit.training.objectives import balanced_class_weights, cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_weight_is_the_weight_of_its_images(smoothing):
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(20, 4), torch.arange(20) % 4, torch.tensor([0.3, 1.0, 2.0, 7.0])
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    expected = sum(weights[y] * loss for y, loss in zip(labels, losses, strict=True)) / weights[labels].sum()
    targets = soft_targets(labels, None, 4, smoothing) if smoothing else labels
    assert_close(cross_entropy(logits, targets, weights, smoothing), expected)


def test_a_rare_class_does_not_outweigh_common_ones():
    """Free logits per class, 97 images of one class and 3 of another: each keeps its own class as the best one."""
    labels = torch.tensor([0] * 97 + [1] * 3)
    weights, targets = balanced_class_weights(labels, 2), soft_targets(labels, None, 2, 0.1)
    logits = torch.zeros(2, 2, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=50)

    def step():
        optimiser.zero_grad()
        loss = cross_entropy(logits[labels], targets, weights, 0.1)
        loss.backward()
        return loss

    optimiser.step(step)
    assert_close(logits.softmax(-1).diag(), torch.tensor([0.95, 0.95]), atol=1e-3, rtol=0)

"""What is optimised. An objective wraps the model and returns the loss with its parts, named, for the log.

Contract: `forward(x, targets)` returns (loss, parts, logits): `parts` are detached scalars.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LossConfig
from ..models import Encoder


class Classification(nn.Module):
    """Cross-entropy + `loss.moe` x balance loss of the experts. Targets: classes [B] or probabilities [B, K].

    Label smoothing is in the targets already (the augmenter writes it there, so that mixing is consistent with it).
    """

    def __init__(self, model: nn.Module, loss: LossConfig, class_weights: Tensor | None = None):
        super().__init__()
        self.model = model
        self.moe = loss.moe
        self.register_buffer("class_weights", class_weights)

    def forward(self, x_BCSS: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        if isinstance(self.model, Encoder):
            logits_BK, balance = self.model.forward_balanced(x_BCSS)
        else:
            logits_BK = self.model(x_BCSS)
            balance = logits_BK.new_zeros(())
        entropy = F.cross_entropy(logits_BK.float(), targets, weight=self.class_weights)
        parts = {"cross_entropy": entropy.detach(), "balance": balance.detach()}
        return entropy + self.moe * balance, parts, logits_BK


def balanced_class_weights(labels_N: Tensor, classes: int) -> Tensor:
    """[K] weights n / (K n_k): scikit-learn's "balanced", so that each class weighs the same in the loss."""
    counts_K = torch.bincount(labels_N, minlength=classes).clamp(min=1)
    return len(labels_N) / (classes * counts_K.float())

"""The objectives that training optimises. An objective wraps the model and returns the loss and named figures for the log.

Contract: `forward(x, targets)` returns (loss, figures). Figures are detached means over the batch, one per name in `figures`.
Targets are classes [B] or probabilities [B, K]. They include label smoothing: the augmenter applies it, so that mixing is
consistent with it. Every loss includes the balance losses of the experts with the weight `loss.moe` (Eq. 16).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LossConfig, RunConfig
from ..models import Encoder, MaskedAutoencoder

Figures = dict[str, Tensor]


class Classification(nn.Module):
    """Computes cross-entropy + `loss.moe` x balance loss."""

    figures: ClassVar = ("cross_entropy", "balance", "top1")

    def __init__(self, model: nn.Module, loss: LossConfig, class_weights: Tensor | None = None):
        super().__init__()
        self.model, self.moe = model, loss.moe
        self.register_buffer("class_weights", class_weights)

    def forward(self, x_BCSS: Tensor, targets: Tensor) -> tuple[Tensor, Figures]:
        _, entropy, balance, figures = self.compare(x_BCSS, targets)
        return entropy + self.moe * balance, figures

    def compare(self, x_BCSS: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Figures]:
        """Returns logits [B, K], cross-entropy, balance loss and figures."""
        if isinstance(self.model, Encoder):
            logits_BK, balance = self.model.forward_balanced(x_BCSS)
        else:
            logits_BK = self.model(x_BCSS)
            balance = logits_BK.new_zeros(())
        entropy = F.cross_entropy(logits_BK.float(), targets, weight=self.class_weights)
        figures = {"cross_entropy": entropy.detach(), "balance": balance.detach(), "top1": _top1(logits_BK, targets)}
        return logits_BK, entropy, balance, figures


class Masked(nn.Module):
    """Computes the loss of reconstruction (Eq. 16). It ignores the targets.

    The loss is MSE of masked patches + `mae.visible_weight` x MSE of visible patches + `loss.moe` x balance loss.
    """

    figures: ClassVar = ("masked_mse", "visible_mse", "balance")

    def __init__(self, model: MaskedAutoencoder, loss: LossConfig):
        super().__init__()
        self.model, self.moe, self.visible_weight = model, loss.moe, model.config.visible_weight

    def forward(self, x_BCSS: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Figures]:
        found = self.model(x_BCSS)
        loss = found.masked + self.visible_weight * found.visible + self.moe * found.balance
        figures = {"masked_mse": found.masked, "visible_mse": found.visible, "balance": found.balance}
        return loss, {name: value.detach() for name, value in figures.items()}


class Joint(nn.Module):
    """Classifies the whole image and reconstructs the masked one in each step (SSAT, arXiv 2310.20704).

    The loss is `loss.label_share` x cross-entropy + the rest x reconstruction, plus `loss.moe` x the balance losses of both
    passes and the decoder. `mae.visible_weight` is 0 unless set: the paper reconstructs masked patches alone.
    """

    figures: ClassVar = ("cross_entropy", "masked_mse", "visible_mse", "balance", "top1")

    def __init__(self, model: MaskedAutoencoder, loss: LossConfig, class_weights: Tensor | None = None):
        super().__init__()
        self.model, self.moe, self.share = model, loss.moe, loss.label_share
        self.visible_weight = model.config.visible_weight
        self.register_buffer("class_weights", class_weights)

    def forward(self, x_BCSS: Tensor, targets: Tensor) -> tuple[Tensor, Figures]:
        logits_BK, seen_balance = self.model.encoder.forward_balanced(x_BCSS)
        found = self.model(x_BCSS)
        entropy = F.cross_entropy(logits_BK.float(), targets, weight=self.class_weights)
        pixels = found.masked + self.visible_weight * found.visible
        balance = seen_balance + found.balance
        loss = self.share * entropy + (1 - self.share) * pixels + self.moe * balance
        figures = {
            "cross_entropy": entropy.detach(),
            "masked_mse": found.masked.detach(),
            "visible_mse": found.visible.detach(),
            "balance": balance.detach(),
            "top1": _top1(logits_BK, targets),
        }
        return loss, figures


class Distillation(Classification):
    """Distils the logits of a teacher, which sees the same augmented images (arXiv 1503.02531).

    The loss is (1 - a) x cross-entropy + a T^2 KL(teacher | student at temperature T), where a is `loss.teacher_share`,
    plus `loss.moe` x balance loss.
    """

    figures: ClassVar = (*Classification.figures, "distillation")

    def __init__(self, model: nn.Module, loss: LossConfig, teacher: nn.Module, class_weights: Tensor | None = None):
        super().__init__(model, loss, class_weights)
        self.teacher, self.share, self.temperature = teacher, loss.teacher_share, loss.temperature

    def forward(self, x_BCSS: Tensor, targets: Tensor) -> tuple[Tensor, Figures]:
        logits_BK, entropy, balance, figures = self.compare(x_BCSS, targets)
        softened_BK = F.log_softmax(logits_BK.float() / self.temperature, -1)
        wanted_BK = F.log_softmax(self.teacher(x_BCSS) / self.temperature, -1)
        distance = self.temperature**2 * F.kl_div(softened_BK, wanted_BK, reduction="batchmean", log_target=True)
        loss = (1 - self.share) * entropy + self.share * distance + self.moe * balance
        return loss, {**figures, "distillation": distance.detach()}


def build_objective(
    config: RunConfig, model: nn.Module, class_weights: Tensor | None = None, teacher: nn.Module | None = None
) -> nn.Module:
    """Builds the objective that the configuration names, around its model."""
    if config.objective == "reconstruction":
        return Masked(model, config.loss)
    if config.objective == "distillation":
        return Distillation(model, config.loss, teacher, class_weights)
    kind = Joint if config.objective == "joint" else Classification
    return kind(model, config.loss, class_weights)


def _top1(logits_BK: Tensor, targets: Tensor) -> Tensor:
    wanted_B = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits_BK.argmax(1) == wanted_B).float().mean()


def balanced_class_weights(labels_N: Tensor, classes: int) -> Tensor:
    """Returns weights n / (K n_k) of shape [K], so that each class weighs the same in the loss (scikit-learn's "balanced")."""
    counts_K = torch.bincount(labels_N, minlength=classes).clamp(min=1)
    return len(labels_N) / (classes * counts_K.float())

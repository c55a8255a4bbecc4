"""Defines the training objectives. An objective wraps the model, and returns the loss and named metrics for the log.

Contract: `forward(x, targets)` returns (loss, figures). Figures are detached means over the batch, one per name in `figures`.
Targets are classes [B] or probabilities [B, K]. They include label smoothing, which the augmenter applies for consistency with
mixing. Every loss includes the balance losses of the experts with the weight `loss.moe` (Eq. 16).
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
        self.model, self.moe, self.smoothing = model, loss.moe, loss.label_smoothing
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
        entropy = cross_entropy(logits_BK.float(), targets, self.class_weights, self.smoothing)
        figures = {"cross_entropy": entropy.detach(), "balance": balance.detach(), "top1": _top1(logits_BK, targets)}
        return logits_BK, entropy, balance, figures


class Masked(nn.Module):
    """Computes the reconstruction loss (Eq. 16). Ignores the targets.

    The loss is MSE of masked patches + `mae.visible_weight` x MSE of visible patches + `loss.moe` x balance loss.
    """

    figures: ClassVar = ("masked_mse", "visible_mse", "balance")

    def __init__(self, model: MaskedAutoencoder, loss: LossConfig):
        super().__init__()
        self.model, self.moe, self.visible_weight = model, loss.moe, model.config.visible_weight

    def forward(self, x_BCSS: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Figures]:
        output = self.model(x_BCSS)
        loss = output.masked + self.visible_weight * output.visible + self.moe * output.balance
        figures = {"masked_mse": output.masked, "visible_mse": output.visible, "balance": output.balance}
        return loss, {name: value.detach() for name, value in figures.items()}


class Joint(Classification):
    """Classifies the full image and reconstructs the masked image in each step (SSAT, arXiv 2310.20704).

    The loss is a x cross-entropy + (1 - a) x reconstruction loss + `loss.moe` x balance loss. a is `loss.label_share`. The
    balance loss is that of both passes and the decoder. `mae.visible_weight` defaults to 0, because the paper reconstructs
    only masked patches.
    """

    figures: ClassVar = ("cross_entropy", "masked_mse", "visible_mse", "balance", "top1")

    def __init__(self, model: MaskedAutoencoder, loss: LossConfig, class_weights: Tensor | None = None):
        super().__init__(model, loss, class_weights)
        self.share, self.visible_weight = loss.label_share, model.config.visible_weight

    def forward(self, x_BCSS: Tensor, targets: Tensor) -> tuple[Tensor, Figures]:
        logits_BK, label_balance = self.model.encoder.forward_balanced(x_BCSS)
        output = self.model(x_BCSS)
        entropy = cross_entropy(logits_BK.float(), targets, self.class_weights, self.smoothing)
        pixels = output.masked + self.visible_weight * output.visible
        balance = label_balance + output.balance
        loss = self.share * entropy + (1 - self.share) * pixels + self.moe * balance
        means = (entropy, output.masked, output.visible, balance, _top1(logits_BK, targets))
        return loss, {name: mean.detach() for name, mean in zip(self.figures, means, strict=True)}


class Distillation(Classification):
    """Distils the logits of a teacher on the same augmented images (arXiv 1503.02531).

    The loss is (1 - a) x cross-entropy + a T^2 KL(teacher | student at temperature T), where a is `loss.teacher_share`,
    plus `loss.moe` x balance loss.
    """

    figures: ClassVar = (*Classification.figures, "distillation")

    def __init__(self, model: nn.Module, loss: LossConfig, teacher: nn.Module, class_weights: Tensor | None = None):
        super().__init__(model, loss, class_weights)
        self.teacher, self.share, self.temperature = teacher, loss.teacher_share, loss.temperature

    def forward(self, x_BCSS: Tensor, targets: Tensor) -> tuple[Tensor, Figures]:
        logits_BK, entropy, balance, figures = self.compare(x_BCSS, targets)
        student_BK = F.log_softmax(logits_BK.float() / self.temperature, -1)
        teacher_BK = F.log_softmax(self.teacher(x_BCSS) / self.temperature, -1)
        distance = self.temperature**2 * F.kl_div(student_BK, teacher_BK, reduction="batchmean", log_target=True)
        loss = (1 - self.share) * entropy + self.share * distance + self.moe * balance
        return loss, {**figures, "distillation": distance.detach()}


def build_objective(
    config: RunConfig, model: nn.Module, class_weights: Tensor | None = None, teacher: nn.Module | None = None
) -> nn.Module:
    """Builds the objective of the configuration around `model`."""
    if config.objective == "reconstruction":
        return Masked(model, config.loss)
    if config.objective == "distillation":
        return Distillation(model, config.loss, teacher, class_weights)
    kind = Joint if config.objective == "joint" else Classification
    return kind(model, config.loss, class_weights)


def cross_entropy(logits_BK: Tensor, targets: Tensor, class_weights_K: Tensor | None, smoothing: float) -> Tensor:
    """Returns the mean cross-entropy of the images, weighted by the weights of their classes.

    `targets` include the label smoothing. The `weight` of PyTorch also multiplies the smoothed share of every class. The share
    of a rare class would then outweigh the true class of common images.
    """
    if class_weights_K is None:
        return F.cross_entropy(logits_BK, targets)
    if targets.ndim == 1:
        weights_B = class_weights_K[targets]
    else:
        weights_B = (targets - smoothing / targets.shape[1]) @ class_weights_K / (1 - smoothing)
    return (weights_B * F.cross_entropy(logits_BK, targets, reduction="none")).sum() / weights_B.sum()


def _top1(logits_BK: Tensor, targets: Tensor) -> Tensor:
    classes_B = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits_BK.argmax(1) == classes_B).float().mean()


def balanced_class_weights(labels_N: Tensor, classes: int) -> Tensor:
    """Returns class weights n / (K n_k), [K], for equal total weights of all classes (scikit-learn's "balanced")."""
    counts_K = torch.bincount(labels_N, minlength=classes).clamp(min=1)
    return len(labels_N) / (classes * counts_K.float())

"""Applies mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), with a separate lambda and box for each image.

An image is mixed with the image at the mirrored position of its batch, as in timm. Both methods are one interpolation, with the
share of the image at each pixel as the weight. The targets use the share of the image over the full area.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .geometry import clip_boxes, inside


@dataclass(frozen=True)
class Mix:
    """Holds the mixing of each image of a batch. `share` float32 [B] is lambda, the share of the image (1: unmixed).

    `boxes` int64 [B, 4] (top, left, height, width) are the boxes that CutMix replaces. They are empty for mixup.
    """

    share: Tensor
    boxes: Tensor


def draw_mix(
    batch: int,
    size: int,
    mixup: float,
    cutmix: float,
    probability: float,
    switch: float,
    generator: torch.Generator,
) -> Mix:
    """Draws the mixing of each image.

    `mixup`, `cutmix`: alpha of the Beta distribution of lambda (0: off). `probability`: share of mixed images. `switch`:
    share of CutMix among them, if both are on. Lambda of CutMix is corrected for the part of its box outside the image.
    """
    mixed, kind = torch.rand(2, batch, generator=generator)
    mixed = mixed < probability
    cut = (kind < switch) if mixup and cutmix else torch.full((batch,), bool(cutmix))
    # torch can draw Beta variates only from the global generator
    beta = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta
    share = torch.from_numpy(beta(mixup or 1, mixup or 1, batch))
    sides = (size * (1 - torch.from_numpy(beta(cutmix or 1, cutmix or 1, batch))).sqrt()).long()
    boxes = clip_boxes(torch.randint(size, (batch, 2), generator=generator), sides[:, None].expand(batch, 2), size)
    boxes[:, 2:] *= (mixed & cut)[:, None]
    share = torch.where(cut, 1 - boxes[:, 2] * boxes[:, 3] / size**2, share)
    return Mix(torch.where(mixed, share, 1.0).float(), boxes)


def apply_mix(x_BCSS: Tensor, mix: Mix, batches: int = 1) -> Tensor:
    """Mixes each image with the image at the mirrored position of its batch. `batches`: number of batches of equal size."""
    hole_B1SS = inside(mix.boxes, x_BCSS.shape[-1])
    cut_B = (mix.boxes[:, 2:] > 0).all(1)
    keep_B = torch.where(cut_B, 1.0, mix.share)
    return _partners(x_BCSS, batches).lerp_(x_BCSS, torch.where(hole_B1SS, 0.0, keep_B[:, None, None, None]))


def _partners(x: Tensor, batches: int) -> Tensor:
    """Reverses the order inside each batch."""
    return x.unflatten(0, (batches, -1)).flip(1).flatten(0, 1)


def soft_targets(
    labels_B: Tensor, share_B: Tensor | None, num_classes: int, smoothing: float = 0.0, batches: int = 1
) -> Tensor:
    """Returns the targets, float32 [B, classes]: lambda x smoothed label + (1 - lambda) x smoothed label of the partner.

    Rows sum to one. Smoothing s assigns s / classes to every class, and 1 - s more to the label (arXiv 1512.00567).
    """
    off = smoothing / num_classes
    targets = torch.full((len(labels_B), num_classes), off, device=labels_B.device)
    targets.scatter_(1, labels_B[:, None], 1 - smoothing + off)
    return targets if share_B is None else torch.lerp(_partners(targets, batches), targets, share_B[:, None])

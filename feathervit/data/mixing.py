"""Applies mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), with a separate lambda and box for each image.

An image is mixed with the one at the mirrored position of its batch, as in timm. Both kinds are one interpolation, by the
share of itself that an image keeps at each pixel. The targets use the share that it keeps of the whole area.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .geometry import clip_boxes, inside


@dataclass(frozen=True)
class Mix:
    """Holds how each image of a batch is mixed. `share` float32 [B] is lambda, the share it keeps of itself (1: unmixed).

    `boxes` int64 [B, 4] (top, left, height, width) are what CutMix replaces. They are empty for mixup.
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
    """Draws for each image whether and how it is mixed.

    `mixup`, `cutmix`: alpha of the Beta distribution of lambda (0: off). `probability`: share of the images that are mixed.
    `switch`: share of these that use CutMix, if both are on. CutMix's lambda is corrected for the part of its box outside the
    image.
    """
    mixed, kind = torch.rand(2, batch, generator=generator)
    mixed = mixed < probability
    cut = (kind < switch) if mixup and cutmix else torch.full((batch,), bool(cutmix))
    # torch draws Beta variates from the global generator only
    beta = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta
    share = torch.from_numpy(beta(mixup or 1, mixup or 1, batch))
    sides = (size * (1 - torch.from_numpy(beta(cutmix or 1, cutmix or 1, batch))).sqrt()).long()
    boxes = clip_boxes(torch.randint(size, (batch, 2), generator=generator), sides[:, None].expand(batch, 2), size)
    boxes[:, 2:] *= (mixed & cut)[:, None]
    share = torch.where(cut, 1 - boxes[:, 2] * boxes[:, 3] / size**2, share)
    return Mix(torch.where(mixed, share, 1.0).float(), boxes)


def apply_mix(x_BCSS: Tensor, mix: Mix, batches: int = 1) -> Tensor:
    """Mixes each image of one or several equal batches with the one at the mirrored position of its batch."""
    hole_B1SS = inside(mix.boxes, x_BCSS.shape[-1])
    cut_B = (mix.boxes[:, 2:] > 0).all(1)
    keep_B = torch.where(cut_B, 1.0, mix.share)
    return _partners(x_BCSS, batches).lerp_(x_BCSS, torch.where(hole_B1SS, 0.0, keep_B[:, None, None, None]))


def _partners(x: Tensor, batches: int) -> Tensor:
    """Returns what is at the mirrored positions of each batch."""
    return x.unflatten(0, (batches, -1)).flip(1).flatten(0, 1)


def soft_targets(
    labels_B: Tensor, share_B: Tensor | None, num_classes: int, smoothing: float = 0.0, batches: int = 1
) -> Tensor:
    """Returns float32 [B, classes]: lambda of the image's own smoothed label, and the rest of its partner's. Rows sum to one.

    Smoothing s gives s / classes to every class, and 1 - s more to the label (arXiv 1512.00567).
    """
    off = smoothing / num_classes
    own = torch.full((len(labels_B), num_classes), off, device=labels_B.device)
    own.scatter_(1, labels_B[:, None], 1 - smoothing + off)
    return own if share_B is None else torch.lerp(_partners(own, batches), own, share_B[:, None])

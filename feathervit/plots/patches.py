"""Draws the learned filters of the patch embedding.

Legend: D filters, C channels, p side of a filter.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ..models import Encoder
from ..models.embed import FrozenWhitenedPatchEmbed
from .tiles import heat, write_tiles

MOST = 256


def filters(encoder: Encoder) -> Tensor:
    """Returns the filters [D, C, p, p] on the CPU, largest first.

    For a convolutional stem, these are the filters of the first layer. For frozen whitening, they include the frozen and the
    learned filters.
    """
    embed = encoder.patch_embed
    weight = embed.proj.weight.detach().float().cpu()
    if isinstance(embed, FrozenWhitenedPatchEmbed):
        weight = torch.cat([embed.white.float().cpu(), weight])
    return weight[weight.flatten(1).norm(dim=1).argsort(descending=True, stable=True)]


def write_patches(encoder: Encoder, path: Path) -> Path:
    """Writes a PNG of the filters, largest first, each divided by its maximum.

    Three channels are drawn as colours, with zero as grey. For other numbers of channels, the mean is drawn, red above zero
    and blue below zero, with a colour bar. Raises RunFolderError.
    """
    weight = filters(encoder)[:MOST]
    weight = weight / weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    scale: tuple[str, ...] = ()
    if weight.shape[1] == 3:
        filters_N3SS = (weight + 1) / 2
    else:
        filters_N3SS = heat((weight.mean(1) + 1) / 2, "RdBu_r")
        scale = ("minus the maximum of each filter", "plus the maximum", "RdBu_r")
    columns = math.ceil(math.sqrt(2 * len(filters_N3SS)))
    return write_tiles(path, (255 * filters_N3SS).round().byte().split(columns), scale=scale)

"""The filters that the patch embedding has learnt: what of the pixels each of its outputs answers to.

Legend: D filters, C channels, p side of a filter.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models import Encoder
from ..models.embed import FrozenWhitenedPatchEmbed
from .figures import draw_tiles, heat, new_figure, save

MOST = 256


def filters(encoder: Encoder) -> Tensor:
    """[D, C, p, p] on the CPU, the largest first: of a convolutional stem its first layer's, of frozen whitening both kinds."""
    embed = encoder.patch_embed
    weight = embed.proj.weight.detach().float().cpu()
    if isinstance(embed, FrozenWhitenedPatchEmbed):
        weight = torch.cat([embed.white.float().cpu(), weight])
    return weight[weight.flatten(1).norm(dim=1).argsort(descending=True, stable=True)]


def write_patches(encoder: Encoder, path: Path) -> Path:
    """A PNG of the filters, the largest first, each over its own largest value: zero is grey, and of three channels each is a
    colour; of other numbers of channels the mean is shown, red above zero and blue below. Raises RunFolderError."""
    weight = filters(encoder)[:MOST]
    weight = weight / weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    if weight.shape[1] == 3:
        tiles = list((weight.permute(0, 2, 3, 1).numpy() + 1) / 2)
    else:
        tiles = list(heat((weight.mean(1).numpy() + 1) / 2, "RdBu_r"))
    columns = math.ceil(math.sqrt(2 * len(tiles)))
    tiles += [np.ones_like(tiles[0])] * (-len(tiles) % columns)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    figure = new_figure(0.5 * columns + 0.2, 0.5 * len(rows) + 0.2)
    draw_tiles(figure.subplots(), rows, [""] * columns)
    return save(figure, path)

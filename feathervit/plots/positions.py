"""Draws the cosine similarity of learned positions: for each patch, a map of its similarity with all patches.

Legend: D width, G grid side.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

from ..config import RunConfig
from ..data.imageset import evenly
from ..errors import ConfigError
from ..models import Encoder
from .figures import new_figure, save

MOST = 14  # maximum number of maps per side


def similarity(encoder: Encoder, config: RunConfig) -> Tensor:
    """Returns [G, G, G, G]: the similarity of the positions (row i, column j) and (row k, column l).

    Raises ConfigError for a model without learned positions.
    """
    kind, grid = encoder.config.positions, encoder.patch_embed.grid_size
    if kind != "learned":
        raise ConfigError(f"{config.model} has positions {kind!r}: only learned positions can be drawn")
    position_ND = F.normalize(encoder.pos_embed[0, encoder.num_prefix_tokens :].detach().float().cpu(), dim=-1)
    return (position_ND @ position_ND.T).view(grid, grid, grid, grid)


def write_positions(encoder: Encoder, config: RunConfig, path: Path) -> Path:
    """Writes a PNG of `similarity`, with maps in the order of the patches. For large grids, draws an evenly spaced subset."""
    maps = similarity(encoder, config)
    grid = len(maps)
    shown = evenly(grid, MOST)
    gap = max(1, grid // 8)
    selected = maps[shown][:, shown].flatten(0, 1).unsqueeze(1)
    canvas = make_grid(selected, nrow=len(shown), padding=gap, pad_value=float("nan"))[0]
    figure = new_figure(7.2, 6.4)
    axes = figure.subplots()
    drawn = axes.imshow(canvas.numpy(), vmin=-1, vmax=1, cmap="RdBu_r", interpolation="none")
    middle = gap + torch.arange(len(shown)) * (grid + gap) + (grid - 1) / 2
    axes.set_xticks(middle.numpy(), (shown + 1).tolist())
    axes.set_yticks(middle.numpy(), (shown + 1).tolist())
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("column of the patch")
    axes.set_ylabel("row of the patch")
    figure.colorbar(drawn, label="cosine similarity with each other patch's position", shrink=0.8)
    return save(figure, path)

"""Computes fixed sine-cosine positions and rotary angles.

Prefix tokens are not on the grid. Their fixed positions are zero, and rotary positions do not rotate them.

Legend: B batch, H heads, N tokens, D width, K head width, G grid side, P prefix tokens.
"""

from __future__ import annotations

import torch
from timm.layers import apply_rot_embed_cat, build_fourier_pos_embed, build_sincos2d_pos_embed
from torch import Tensor

from ..errors import ConfigError
from .place import Place

ROTARY_BASE = 100.0  # for small grids; the base 10,000 of language models would hardly rotate most pairs


def sincos_positions(grid_size: int, prefix: int, dim: int) -> Tensor:
    """Returns timm's table [1, P + G^2, D]: sines of the row and of the column, then cosines of both, D/4 frequencies each.

    Raises ConfigError if the width is not a multiple of 4.
    """
    if dim % 4:
        raise ConfigError(
            f"sine-cosine positions need a width that is a multiple of 4, got {dim}; choose learned positions"
        )
    table_ND = build_sincos2d_pos_embed([grid_size, grid_size], dim)
    return torch.cat([table_ND.new_zeros(prefix, dim), table_ND]).unsqueeze(0)


def rotary_turns(grid_size: int, prefix: int, head_dim: int) -> Tensor:
    """Returns timm's table [1, P + G^2, 2K]: K sines, then K cosines, of the angles that rotate a token's pairs of q and k.

    The first half of the pairs rotates with the row, the second with the column. Pair i of a half rotates by
    row * base^(-4i/K) (axial rotary positions, arXiv 2403.13298). Raises ConfigError if the head width is not a multiple of 4.
    """
    if head_dim % 4:
        raise ConfigError(
            f"rotary positions need a head width that is a multiple of 4, got {head_dim}; choose other heads or positions"
        )
    tables = build_fourier_pos_embed(
        [grid_size, grid_size], num_bands=head_dim // 4, temperature=ROTARY_BASE, in_pixels=False
    )
    sin_NK, cos_NK = (table.flatten(-2).flatten(0, -2).repeat(1, 2) for table in tables)
    sin_NK = torch.cat([sin_NK.new_zeros(prefix, head_dim), sin_NK])
    cos_NK = torch.cat([cos_NK.new_ones(prefix, head_dim), cos_NK])
    return torch.cat([sin_NK, cos_NK], dim=1).unsqueeze(0)


def rotate(x_BHNK: Tensor, place: Place | None) -> Tensor:
    """Rotates queries or keys by `place.turns_BNK`, unless it is None. Pair i is (x_i, x_{i + K/2})."""
    if place is None or place.turns_BNK is None:
        return x_BHNK
    return apply_rot_embed_cat(x_BHNK, place.turns_BNK.to(x_BHNK.dtype).unsqueeze(1), half=True)

"""Positions: fixed sine-cosine tables, rotary angles, learned ones brought to another grid.

Prefix tokens have no place on the grid: a fixed position of theirs is zero, and rotary leaves them unturned.

Legend: B batch, H heads, N tokens, D width, K head width, G grid side, P prefix tokens.
"""

from __future__ import annotations

import torch
from timm.layers import (
    apply_rot_embed_cat,
    build_fourier_pos_embed,
    build_sincos2d_pos_embed,
    resample_abs_pos_embed,
)
from torch import Tensor

from ..errors import ConfigError
from .place import Place

ROTARY_BASE = 100.0  # grids are small; the 10,000 of texts would leave most pairs unturned


def sincos_positions(grid_size: int, prefix: int, dim: int) -> Tensor:
    """[1, P + G^2, D]: sines of the row and of the column, then cosines of both, D/4 frequencies each (timm's table).

    Raises ConfigError where the width does not divide by 4.
    """
    if dim % 4:
        raise ConfigError(f"sine-cosine positions need a width that divides by 4, got {dim}; take learned ones")
    table_ND = build_sincos2d_pos_embed([grid_size, grid_size], dim)
    return torch.cat([table_ND.new_zeros(prefix, dim), table_ND]).unsqueeze(0)


def rotary_turns(grid_size: int, prefix: int, head_dim: int) -> Tensor:
    """[1, P + G^2, 2K]: K sines, then K cosines, of the angles by which a token's pairs of q and k are turned (timm's).

    The first half of the pairs turns with the row, the second with the column; pair i of a half by row * base^(-4i/K)
    (axial rotary positions, arXiv 2403.13298). Raises ConfigError where the head width does not divide by 4.
    """
    if head_dim % 4:
        raise ConfigError(
            f"rotary positions need a head width that divides by 4, got {head_dim}; choose other heads or positions"
        )
    tables = build_fourier_pos_embed(
        [grid_size, grid_size], num_bands=head_dim // 4, temperature=ROTARY_BASE, in_pixels=False
    )
    sin_NK, cos_NK = (table.flatten(-2).flatten(0, -2).repeat(1, 2) for table in tables)
    sin_NK = torch.cat([sin_NK.new_zeros(prefix, head_dim), sin_NK])
    cos_NK = torch.cat([cos_NK.new_ones(prefix, head_dim), cos_NK])
    return torch.cat([sin_NK, cos_NK], dim=1).unsqueeze(0)


def rotate(x_BHNK: Tensor, place: Place | None) -> Tensor:
    """Queries or keys, turned as `place.turns_BNK` says: pair i is (x_i, x_{i + K/2}). Without turns they stay."""
    if place is None or place.turns_BNK is None:
        return x_BHNK
    return apply_rot_embed_cat(x_BHNK, place.turns_BNK.to(x_BHNK.dtype).unsqueeze(1), half=True)


def resize_positions(pos_1ND: Tensor, grid_size: int, prefix: int) -> Tensor:
    """Learned positions for another grid: the prefix tokens' kept, the patches' resampled bicubically (timm)."""
    return resample_abs_pos_embed(pos_1ND, [grid_size, grid_size], num_prefix_tokens=prefix)

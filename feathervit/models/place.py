"""Defines the positions of the tokens in a sequence, an input of each layer.

A sequence is P prefix tokens, then patches of a square grid in row order: all patches, or the visible patches of each image
under a mask. Attention with rotary positions and convolutions over the grid use the positions; other layers ignore them.

Legend: B batch, N tokens, D width, G grid side, K patches kept (in `turns_BNK`: twice the head width), P prefix tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """Holds the positions of a sequence: `prefix` tokens, then patches of a `grid_size` x `grid_size` grid.

    `keep_BK`: int64 indices of the patches in the sequence, in order; None for all patches. `turns_BNK`: rotary angles of the
    tokens in the sequence (`rotary_turns`); None without rotary positions.
    """

    prefix: int
    grid_size: int
    keep_BK: Tensor | None = None
    turns_BNK: Tensor | None = None

    def select(self, x_BND: Tensor) -> Tensor:
        """Selects the prefix and the kept patches, [B, P + K, D], from a full sequence [B, P + G^2, D]."""
        if self.keep_BK is None:
            return x_BND
        return torch.cat([x_BND[:, : self.prefix], self.from_grid(x_BND[:, self.prefix :])], dim=1)

    def from_grid(self, patches_BND: Tensor) -> Tensor:
        """Selects the kept patches, [B, K, D], from all patches [B, G^2, D]."""
        return patches_BND if self.keep_BK is None else patches_BND.gather(1, self._index(patches_BND.shape[-1]))

    def on_grid(self, patches_BKD: Tensor) -> Tensor:
        """Scatters the kept patches [B, K, D] (without prefix) to the grid, [B, G^2, D]. Other patches are zero."""
        if self.keep_BK is None:
            return patches_BKD
        grid_BND = patches_BKD.new_zeros(patches_BKD.shape[0], self.grid_size**2, patches_BKD.shape[-1])
        return grid_BND.scatter(1, self._index(patches_BKD.shape[-1]), patches_BKD)

    def _index(self, dim: int) -> Tensor:
        return self.keep_BK.unsqueeze(-1).expand(-1, -1, dim)

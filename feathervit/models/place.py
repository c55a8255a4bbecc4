"""Where the tokens of a sequence are: what a layer is told besides the tokens.

A sequence is P prefix tokens, then patches of a square grid in rows: all of them, or those that each picture keeps under a
mask. Attention with rotary positions and convolutions over the grid need to know; what looks at no position may ignore it.

Legend: B batch, N tokens, D width, G grid side, K patches kept (in `turns_BNK`: twice the head width), P prefix tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """`prefix` tokens, then patches of a `grid_size` x `grid_size` grid. `keep_BK`: int64 indices of the patches that are in
    the sequence, in its order; None for all of them. `turns_BNK`: rotary angles of the tokens in the sequence (`rotary_turns`);
    None where attention turns nothing."""

    prefix: int
    grid_size: int
    keep_BK: Tensor | None = None
    turns_BNK: Tensor | None = None

    def select(self, x_BND: Tensor) -> Tensor:
        """[B, P + G^2, D] of a whole sequence to [B, P + K, D]: the prefix and the kept patches."""
        if self.keep_BK is None:
            return x_BND
        return torch.cat([x_BND[:, : self.prefix], self.from_grid(x_BND[:, self.prefix :])], dim=1)

    def from_grid(self, patches_BND: Tensor) -> Tensor:
        """[B, G^2, D] of all patches to [B, K, D] of the kept ones."""
        return patches_BND if self.keep_BK is None else patches_BND.gather(1, self._index(patches_BND.shape[-1]))

    def on_grid(self, patches_BKD: Tensor) -> Tensor:
        """[B, K, D] of the kept patches (no prefix) to [B, G^2, D], zero where none was kept."""
        if self.keep_BK is None:
            return patches_BKD
        grid_BND = patches_BKD.new_zeros(patches_BKD.shape[0], self.grid_size**2, patches_BKD.shape[-1])
        return grid_BND.scatter(1, self._index(patches_BKD.shape[-1]), patches_BKD)

    def _index(self, dim: int) -> Tensor:
        return self.keep_BK.unsqueeze(-1).expand(-1, -1, dim)

"""From pixels to tokens: patch projection, read-out tokens, positions.

Read-out tokens come first in the sequence, as timm's `num_prefix_tokens` expects. The paper appends its dummy patch
last: the same function up to a permutation of the positions.

Legend: B batch, C channels, N tokens, D width, P prefix tokens.
"""

from __future__ import annotations

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ..errors import ConfigError


class PatchEmbed(nn.Module):
    """Non-overlapping patches, each projected linearly without bias: [B, C, S, S] to [B, (S/p)^2, D]."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int):
        super().__init__()
        if patch_size < 1 or img_size < 1 or img_size % patch_size:
            fits = [p for p in range(2, img_size // 2 + 1) if img_size % p == 0][:8]
            raise ConfigError(
                f"patch size {patch_size} does not divide image size {img_size}"
                + (f"; patch sizes that do: {', '.join(map(str, fits))}" if fits else "")
            )
        if in_chans < 1:
            raise ConfigError(f"in_chans must be at least 1, got {in_chans}")
        self.img_size, self.patch_size, self.in_chans = img_size, patch_size, in_chans
        self.grid_size = img_size // patch_size
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size, bias=False)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        if x_BCSS.ndim != 4 or x_BCSS.shape[-2:] != (self.img_size, self.img_size):
            shape = list(x_BCSS.shape)
            raise ConfigError(f"the model takes images [B, C, {self.img_size}, {self.img_size}], got {shape}")
        return self.proj(x_BCSS).flatten(2).transpose(1, 2)


class Readout(nn.Module):
    """Prefix tokens and what the head reads.

    "dummy": an all-zero patch through the bias-free projection, so a zero embedding that only its position fills.
    "class": one learned token. "mean": no prefix token, the mean of the patches.
    """

    def __init__(self, kind: str, dim: int):
        super().__init__()
        self.kind = kind
        self.num_tokens = 0 if kind == "mean" else 1
        self.token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02)) if kind == "class" else None

    def prepend(self, patches_BND: Tensor) -> Tensor:
        if self.kind == "mean":
            return patches_BND
        batch, _, dim = patches_BND.shape
        token = patches_BND.new_zeros(1, 1, dim) if self.token is None else self.token.to(patches_BND.dtype)
        return torch.cat([token.expand(batch, 1, dim), patches_BND], dim=1)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """[B, P + N, D] to the features of the head, [B, D]."""
        return tokens_BND.mean(1) if self.kind == "mean" else tokens_BND[:, 0]


def resize_positions(pos_1ND: Tensor, grid_size: int, prefix: int) -> Tensor:
    """Learned positions for another grid: the prefix tokens' kept, the patches' resampled bicubically (timm)."""
    return resample_abs_pos_embed(pos_1ND, [grid_size, grid_size], num_prefix_tokens=prefix)

"""Attention. Contract of the room: `forward(x_BND, place)` returns y_BND; `place` says where the tokens are.

Notable: q, k and v are one product. PyTorch's default initialisation depends on the fan-in alone, so this is the same as
three layers of their own. Multi-head attention is the case of as many key/value heads as heads.

Legend: B batch, N tokens, D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import GQA
from ..errors import ConfigError
from .place import Place


class GroupedQueryAttention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245), all projections with bias."""

    def __init__(self, dim: int, config: GQA):
        super().__init__()
        heads, kv_heads = config.heads, config.kv_heads
        if heads < 1 or kv_heads < 1:
            raise ConfigError(f"attention needs at least 1 head and 1 key/value head, got {heads} and {kv_heads}")
        if dim % heads:
            raise ConfigError(f"width {dim} does not divide into {heads} heads")
        if heads % kv_heads:
            raise ConfigError(f"{heads} heads do not divide into {kv_heads} groups of key/value heads")
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * self.head_dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, place: Place | None = None) -> Tensor:
        qkv_BNTK = self.qkv(x_BND).unflatten(-1, (-1, self.head_dim))
        q_BHNK, k_BGNK, v_BGNK = (
            t.transpose(1, 2) for t in qkv_BNTK.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        )
        grouped = self.kv_heads != self.heads
        y_BHNK = F.scaled_dot_product_attention(q_BHNK, k_BGNK, v_BGNK, enable_gqa=grouped)
        return self.proj(y_BHNK.transpose(1, 2).flatten(2))

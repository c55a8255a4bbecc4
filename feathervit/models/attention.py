"""Defines the attention layers. Contract: `forward(x_BND, place)` returns y_BND; `place` holds the positions of the tokens.

`look` takes the same arguments and returns the attention weights and the values, for plots and tests.

One product computes q, k and v. PyTorch's default initialisation depends only on the fan-in, so one layer is initialised like
three separate layers. Multi-head attention is the special case of equal numbers of heads and key/value heads.

Legend: B batch, N tokens, D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Attention, GQAConfig, LatentConfig
from ..errors import ConfigError
from .place import Place
from .positions import rotate


class _Attention(nn.Module):
    """Base class of both kinds. A kind sets the numbers of heads, and `project` returns its queries, keys and values."""

    def forward(self, x_BND: Tensor, place: Place | None = None) -> Tensor:
        q_BHNK, k_BGNK, v_BGNK = self.project(x_BND)
        y_BHNK = self.attend(rotate(q_BHNK, place), rotate(k_BGNK, place), v_BGNK)
        return self.proj(y_BHNK.transpose(1, 2).flatten(2))

    def attend(self, q_BHNK: Tensor, k_BGNK: Tensor, v_BGNK: Tensor) -> Tensor:
        """Returns softmax(q k^T / sqrt(K)) v, [B, H, N, K]."""
        grouped = self.kv_heads != self.heads
        if grouped and torch.jit.is_tracing():  # the ONNX exporter for traced models does not support grouped queries
            k_BGNK, v_BGNK = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k_BGNK, v_BGNK))
            grouped = False
        return F.scaled_dot_product_attention(q_BHNK, k_BGNK, v_BGNK, enable_gqa=grouped)

    def look(self, x_BND: Tensor, place: Place | None = None) -> tuple[Tensor, Tensor]:
        """Returns attention weights [B, H, N, N], whose rows sum to 1, and values per query head [B, H, N, K]."""
        q_BHNK, k_BGNK, v_BGNK = self.project(x_BND)
        q_BHNK, k_BGNK = rotate(q_BHNK, place), rotate(k_BGNK, place)
        k_BHNK, v_BHNK = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k_BGNK, v_BGNK))
        return (q_BHNK @ k_BHNK.mT * self.head_dim**-0.5).softmax(-1), v_BHNK


class GroupedQueryAttention(_Attention):
    """Grouped-query attention (arXiv 2305.13245). All projections have a bias."""

    def __init__(self, dim: int, config: GQAConfig):
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

    def project(self, x_BND: Tensor) -> tuple[Tensor, ...]:
        qkv_BNTK = self.qkv(x_BND).unflatten(-1, (-1, self.head_dim))
        q_BNHK, k_BNGK, v_BNGK = qkv_BNTK.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        return q_BNHK.transpose(1, 2), k_BNGK.transpose(1, 2), v_BNGK.transpose(1, 2)


class LatentAttention(_Attention):
    """Multi-head attention with low-rank projections (PoorViTs, arXiv 2501.06220).

    The projections named in `low_rank` (q, k, v) are pairs of layers: down to `rank` without bias, then up with bias, without
    an activation between them. The other projections and the output have full rank.
    """

    def __init__(self, dim: int, config: LatentConfig):
        super().__init__()
        heads, rank = config.heads, config.rank
        if heads < 1 or dim % heads:
            raise ConfigError(f"width {dim} does not divide into {heads} heads")
        if not 1 <= rank <= dim:
            raise ConfigError(f"the rank of a projection must be from 1 to the width {dim}, got {rank}")
        self.heads, self.kv_heads, self.head_dim = heads, heads, dim // heads

        def projection(name: str) -> nn.Module:
            if name in config.low_rank:
                return nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim))
            return nn.Linear(dim, dim)

        self.q, self.k, self.v = projection("q"), projection("k"), projection("v")
        self.proj = nn.Linear(dim, dim)

    def project(self, x_BND: Tensor) -> tuple[Tensor, ...]:
        layers = (self.q, self.k, self.v)
        return tuple(layer(x_BND).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for layer in layers)


def build_attention(config: Attention, dim: int) -> nn.Module:
    """Builds the attention of one layer. Raises ConfigError if heads and width are incompatible."""
    return LatentAttention(dim, config) if isinstance(config, LatentConfig) else GroupedQueryAttention(dim, config)

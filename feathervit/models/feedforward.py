"""Plain feed-forward layers. Contract of the room: `forward(x_BND, place)` returns (y_BND, balance loss), the loss being 0
here; `place` says where the tokens are.

Legend: B batch, N tokens, D width, F hidden size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import MLP as MLPConfig
from ..config import MoE as MoEConfig
from ..config import SwiGLU as SwiGLUConfig
from ..errors import ConfigError
from .moe import SHARINGS
from .place import Place


class SwiGLU(nn.Module):
    """(silu(x W) * (x V)) W2 with biases, Eq. 13 of arXiv 2407.17783."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.w = nn.Linear(dim, hidden)
        self.v = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, place: Place | None = None) -> tuple[Tensor, Tensor]:
        return self.drop(self.w2(F.silu(self.w(x_BND)) * self.v(x_BND))), x_BND.new_zeros(())


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, place: Place | None = None) -> tuple[Tensor, Tensor]:
        return self.drop(self.fc2(F.gelu(self.fc1(x_BND)))), x_BND.new_zeros(())


def hidden_size(layer: int, depth: int, first: int, last: int) -> int:
    """Hidden size of layer `layer` (from 0) of `depth`, Eq. 15: a linear fall from `first` to `last`, floored."""
    if depth == 1:
        return first
    return (depth - 1 - layer) * (first - last) // (depth - 1) + last


def expert_count(layer: int, depth: int, stages: tuple[int, ...]) -> int:
    """Experts of layer `layer` (from 0): `stages` are equally long (Fig. 4: 3, 4, 5 experts by thirds)."""
    return stages[min(layer * len(stages) // depth, len(stages) - 1)]


def build_feedforward(config: MoEConfig | SwiGLUConfig | MLPConfig, dim: int, layer: int, depth: int) -> nn.Module:
    """The feed-forward of one layer, its hidden size and experts taken from the depth-wise schedules."""
    if isinstance(config, MLPConfig):
        if int(dim * config.ratio) < 1:
            raise ConfigError(f"MLP ratio {config.ratio} leaves no hidden unit at width {dim}")
        return MLP(dim, int(dim * config.ratio), config.dropout)
    hidden = hidden_size(layer, depth, config.hidden_first, config.hidden_last)
    if hidden < 1:
        raise ConfigError(f"hidden size {hidden} of layer {layer}: hidden_first and hidden_last must be at least 1")
    if isinstance(config, SwiGLUConfig):
        return SwiGLU(dim, hidden, config.dropout)
    if not config.experts:
        raise ConfigError("experts names no stage; give at least one count of experts")
    return SHARINGS[config.sharing](dim, hidden, expert_count(layer, depth, config.experts), config)

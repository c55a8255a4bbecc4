"""Defines the feed-forward layers without experts. Contract: `forward(x_BND, place)` returns (y_BND, balance loss).

The balance loss is 0. `place` holds the positions of the tokens.

Legend: B batch, N tokens, D width, F hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ConvMLPConfig, FeedForward, MLPConfig, SwiGLUConfig
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
    """MLP: linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, place: Place | None = None) -> tuple[Tensor, Tensor]:
        return self.drop(self.fc2(F.gelu(self.fc1(x_BND)))), x_BND.new_zeros(())


class ConvMLP(nn.Module):
    """MLP with a depth-wise 3x3 convolution over the grid of patches: h = gelu(x W1 + b1), y = (h + gelu(conv(h))) W2 + b2.

    Prefix tokens are not on the grid; their output is h W2 + b2. Under a mask, the grid is zero at masked patches.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        prefix_BPD, patches_BKD = x_BND[:, : place.prefix], x_BND[:, place.prefix :]
        h_BKF = F.gelu(self.fc1(patches_BKD))
        y_BND = self.fc2(h_BKF + F.gelu(self._convolved(h_BKF, place)))
        if place.prefix:
            y_BND = torch.cat([self._prefix(prefix_BPD, y_BND), y_BND], dim=1)
        return self.drop(y_BND), x_BND.new_zeros(())

    def _convolved(self, h_BKF: Tensor, place: Place) -> Tensor:
        grid_BFGG = place.on_grid(h_BKF).transpose(1, 2).unflatten(2, (place.grid_size, place.grid_size))
        return place.from_grid(self.conv(grid_BFGG).flatten(2).transpose(1, 2))

    def _prefix(self, prefix_BPD: Tensor, patches_BKD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(prefix_BPD)))


class RecalibratedConvMLP(ConvMLP):
    """DAFF of DHVT (arXiv 2210.05958), without its batch norms (ours).

    The output for a prefix token x is x * e(m). m is the mean of the outputs of the patches, and e is linear, GELU, linear
    with a hidden width of D / `reduction`.
    """

    def __init__(self, dim: int, hidden: int, reduction: int, dropout: float = 0.0):
        super().__init__(dim, hidden, dropout)
        self.squeeze = nn.Linear(dim, max(dim // reduction, 1))
        self.excite = nn.Linear(max(dim // reduction, 1), dim)

    def _prefix(self, prefix_BPD: Tensor, patches_BKD: Tensor) -> Tensor:
        return prefix_BPD * self.excite(F.gelu(self.squeeze(patches_BKD.mean(1, keepdim=True))))


def hidden_size(layer: int, depth: int, first: int, last: int) -> int:
    """Returns the hidden size of layer `layer` (from 0) of `depth`, Eq. 15.

    The size decreases linearly from `first` to `last`, rounded down.
    """
    if depth == 1:
        return first
    return (depth - 1 - layer) * (first - last) // (depth - 1) + last


def expert_count(layer: int, depth: int, stages: tuple[int, ...]) -> int:
    """Returns the number of experts of layer `layer` (from 0).

    All `stages` have the same number of layers (Fig. 4: 3, 4 and 5 experts in the three stages).
    """
    return stages[min(layer * len(stages) // depth, len(stages) - 1)]


def check_feedforward(config: FeedForward, prefix_tokens: int, readout: str, name: str) -> None:
    """Raises ConfigError, with the name of the field, if there are no prefix tokens to recalibrate."""
    if isinstance(config, ConvMLPConfig) and config.reduction and not prefix_tokens:
        raise ConfigError(
            f"{name}.reduction {config.reduction} re-calibrates the read-out token, but read-out {readout!r} has none; set "
            "it to 0, or choose read-out dummy or class"
        )


def build_feedforward(config: FeedForward, dim: int, layer: int, depth: int) -> nn.Module:
    """Builds the feed-forward of one layer. Its hidden size and number of experts depend on the depth."""
    if isinstance(config, (MLPConfig, ConvMLPConfig)):
        hidden = int(dim * config.ratio)
        if hidden < 1:
            raise ConfigError(f"MLP ratio {config.ratio} gives 0 hidden units at width {dim}; choose a larger ratio")
        if isinstance(config, MLPConfig):
            return MLP(dim, hidden, config.dropout)
        if config.reduction < 0:
            raise ConfigError(f"reduction must be at least 0 (0: no re-calibration), got {config.reduction}")
        if config.reduction:
            return RecalibratedConvMLP(dim, hidden, config.reduction, config.dropout)
        return ConvMLP(dim, hidden, config.dropout)
    hidden = hidden_size(layer, depth, config.hidden_first, config.hidden_last)
    if hidden < 1:
        raise ConfigError(f"hidden size {hidden} of layer {layer}: hidden_first and hidden_last must be at least 1")
    if isinstance(config, SwiGLUConfig):
        return SwiGLU(dim, hidden, config.dropout)
    if not config.experts:
        raise ConfigError("experts is empty; give at least one number of experts")
    return SHARINGS[config.sharing](dim, hidden, expert_count(layer, depth, config.experts), config)

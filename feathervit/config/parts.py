"""Defines the parts of a model: one dataclass per kind of attention, feed-forward and patch embedding, and the encoder.

Each dataclass holds only the parameters of its part. In JSON (`fields.py`), "kind" holds the name of a part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from .bounds import AtLeastZero, Bounds, Depth, Share, Width


@dataclass(frozen=True)
class GQAConfig:
    """Grouped-query attention (arXiv 2305.13245)."""

    heads: int = 8
    """Number of query heads."""
    kv_heads: int = 4
    """Key and value heads, each shared by heads / kv_heads query heads."""


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head attention with low-rank projections: products of two matrices, D to rank to D (arXiv 2501.06220)."""

    heads: int = 12
    """Number of heads."""
    rank: int = 64
    """Rank: width between the two matrices."""
    low_rank: Literal["q", "k", "v", "qk", "qv", "kv", "qkv"] = "qkv"
    """The low-rank projections: of queries (q), keys (k), values (v)."""


@dataclass(frozen=True)
class MoEConfig:
    """Mixture of SwiGLU experts with noisy top-k gates (arXiv 2407.17783, section 2.1.2)."""

    hidden_first: int = 144
    """Hidden size of the first layer."""
    hidden_last: int = 72
    """Hidden size of the last layer; Eq. 15 gives the sizes in between."""
    experts: tuple[int, ...] = (3, 4, 5)
    """Experts per layer, one number per stage. All stages have the same number of layers."""
    top_k: int = 2
    """Experts per token."""
    sharing: Literal["v_w2", "v_w", "w_w2", "none"] = "v_w2"
    """Projections that the experts of a layer share (Table 9)."""
    noise: bool = True
    """Noise on the gates in training."""
    balance: Literal["cv", "cv_squared"] = "cv"
    """Coefficient of variation (the paper's text) or its square (Shazeer et al.)."""
    importance_weight: AtLeastZero = 1e-2
    """Weight of the loss that balances the experts' gates."""
    load_weight: AtLeastZero = 1e-2
    """Weight of the loss that balances the experts' tokens."""
    dropout: Share = 0.1
    """Dropout of the output."""


@dataclass(frozen=True)
class SwiGLUConfig:
    """One SwiGLU feed-forward (arXiv 2407.17783, Eq. 13)."""

    hidden_first: int = 144
    """Hidden size of the first layer."""
    hidden_last: int = 144
    """Hidden size of the last layer; Eq. 15 gives the sizes in between."""
    dropout: Share = 0.0
    """Dropout of the output."""


@dataclass(frozen=True)
class MLPConfig:
    """MLP: linear, GELU, linear."""

    ratio: Annotated[float, Bounds(0, 1024)] = 4.0
    """Hidden size divided by width."""
    dropout: Share = 0.0
    """Dropout of the output."""


@dataclass(frozen=True)
class ConvMLPConfig:
    """MLP with a depth-wise 3x3 convolution over the patches between its layers (DAFF of DHVT, arXiv 2210.05958)."""

    ratio: Annotated[float, Bounds(0, 1024)] = 4.0
    """Hidden size divided by width."""
    reduction: int = 4
    """The mean of the patches scales the prefix tokens through a bottleneck of width / reduction. 0: prefix tokens pass
    through the MLP without the convolution."""
    dropout: Share = 0.0
    """Dropout of the output."""


@dataclass(frozen=True)
class LinearPatchesConfig:
    """A linear projection of each patch."""


@dataclass(frozen=True)
class WhitenedPatchesConfig:
    """A linear projection whose first filters start as the whitening of training patches."""

    frozen: bool = False
    """Do not train these filters."""


@dataclass(frozen=True)
class ConvStemConfig:
    """3x3 convolutions with norm and GELU. The patch size sets the number of strides of 2."""

    layers: int = 2
    """Number of convolutions, one to three."""


@dataclass(frozen=True)
class PooledStemConfig:
    """3x3 convolutions, each with ReLU and a 3x3 max-pool of stride 2 (the tokeniser of arXiv 2104.05704)."""

    layers: Annotated[int, Bounds(1, 5)] = 2
    """Number of convolutions; the patch size is 2 to this power."""
    width: int = 64
    """Channels of all convolutions except the last."""


@dataclass(frozen=True)
class StageConfig:
    """Residual blocks of one width."""

    width: int = 32
    """Number of channels."""
    blocks: int = 1
    """Number of blocks."""
    stride: int = 2
    """Stride of the first block."""


@dataclass(frozen=True)
class ResidualStemConfig:
    """A small residual network that replaces the patch projection: a 3x3 convolution to `width` channels, then the stages.

    The patch size is the product of the strides, twice the product, or half of it. For twice the product, the first
    convolution has stride 2. For half of it, the last stage has stride 1. All three use the same weights.
    """

    width: int = 16
    """Channels of the first convolution."""
    stages: tuple[StageConfig, ...] = (StageConfig(32, 1), StageConfig(64, 2), StageConfig(128, 1))
    """The stages of residual blocks."""

    @property
    def reached(self) -> int:
        """The product of the strides."""
        return math.prod(stage.stride for stage in self.stages)

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        """The patch sizes of this stem, ascending."""
        half = (self.reached // 2,) if self.stages[-1].stride == 2 else ()
        return (*half, self.reached, 2 * self.reached)


Attention = GQAConfig | LatentConfig
FeedForward = MoEConfig | SwiGLUConfig | MLPConfig | ConvMLPConfig
Patches = LinearPatchesConfig | WhitenedPatchesConfig | ConvStemConfig | PooledStemConfig | ResidualStemConfig


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder: width, depth and parts of the layers. Image size, patch size and classes are settings of the run."""

    dim: Width = 144
    """Width of a token."""
    depth: Annotated[int, Bounds(0, 1_000)] = 15
    """Number of layers."""
    attention: Attention = GQAConfig()
    """Kind of attention."""
    feedforward: FeedForward = MoEConfig()
    """Kind of feed-forward."""
    patches: Patches = LinearPatchesConfig()
    """Kind of patch embedding."""
    positions: Literal["learned", "sincos", "rotary", "none"] = "learned"
    """Learned, fixed sines and cosines, rotary in the attention, or none."""
    readout: Literal["dummy", "class", "mean", "pool"] = "dummy"
    """The input of the head: an all-zero patch, learned tokens, the mean of the patches, or their mean weighted by learned
    scores."""
    class_tokens: int = 1
    """Number of learned tokens (readout class)."""
    drop_rate: Share = 0.0
    """Dropout before the head."""
    drop_path_rate: Share = 0.0
    """Stochastic depth: probability that a sample skips the last layer's branches. It rises from 0 at the first layer."""


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder of a masked auto-encoder. Its layers are of the same kinds as those of an encoder."""

    dim: Width = 64
    """Width of a token."""
    depth: Depth = 2
    """Number of layers."""
    attention: Attention = GQAConfig(4, 2)
    """Kind of attention."""
    feedforward: FeedForward = MoEConfig(64, 32, (3,))
    """Kind of feed-forward."""
    positions: Literal["encoder", "learned"] = "encoder"
    """encoder: add the encoder's positions to mask tokens only (arXiv 2407.17783). learned: add learned positions to all
    tokens (arXiv 2402.03752)."""
    drop_path_rate: Share = 0.0
    """Stochastic depth, as in the encoder."""

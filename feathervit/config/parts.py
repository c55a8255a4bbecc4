"""The parts of a model: a dataclass for each kind of attention, feed-forward and patch embedding, and for the whole encoder.

Each holds the parameters of one part and no other's. In JSON (`fields.py`) a part carries its name under "kind".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .bounds import AtLeastZero, Bounds, Depth, Share, Width


@dataclass(frozen=True)
class GQAConfig:
    """Grouped-query attention (arXiv 2305.13245)."""

    heads: int = 8
    """Query heads."""
    kv_heads: int = 4
    """Key and value heads, each shared by heads / kv_heads query heads."""


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head attention, some projections a product of two matrices, D to rank to D (arXiv 2501.06220)."""

    heads: int = 12
    """Heads."""
    rank: int = 64
    """Width between the two matrices."""
    low_rank: Literal["q", "k", "v", "qk", "qv", "kv", "qkv"] = "qkv"
    """Projections that are a product: of queries, keys, values."""


@dataclass(frozen=True)
class MoEConfig:
    """Mixture of SwiGLU experts with noisy top-k gates (arXiv 2407.17783, section 2.1.2)."""

    hidden_first: int = 144
    """Hidden size of the first layer."""
    hidden_last: int = 72
    """Hidden size of the last layer; it falls between by Eq. 15."""
    experts: tuple[int, ...] = (3, 4, 5)
    """A layer's experts, in each of equally long stages of layers."""
    top_k: int = 2
    """Experts that a token goes to."""
    sharing: Literal["v_w2", "v_w", "w_w2", "none"] = "v_w2"
    """What the experts of a layer share (Table 9)."""
    noise: bool = True
    """Noise on the gates in training."""
    balance: Literal["cv", "cv_squared"] = "cv"
    """Coefficient of variation or its square (the paper's text names the first, Shazeer et al. square it)."""
    importance_weight: AtLeastZero = 1e-2
    """Weight of the loss that balances the experts' gates."""
    load_weight: AtLeastZero = 1e-2
    """Weight of the loss that balances the experts' tokens."""
    dropout: Share = 0.1
    """Dropout of the hidden units."""


@dataclass(frozen=True)
class SwiGLUConfig:
    """One SwiGLU feed-forward (arXiv 2407.17783, Eq. 13)."""

    hidden_first: int = 144
    """Hidden size of the first layer."""
    hidden_last: int = 144
    """Hidden size of the last layer; it falls between as in a mixture."""
    dropout: Share = 0.0
    """Dropout of the hidden units."""


@dataclass(frozen=True)
class MLPConfig:
    """Linear, GELU, linear."""

    ratio: Annotated[float, Bounds(0, 1024)] = 4.0
    """Hidden size over width."""
    dropout: Share = 0.0
    """Dropout of the hidden units."""


@dataclass(frozen=True)
class ConvMLPConfig:
    """MLP with a depth-wise 3x3 convolution over the patches between its layers (DAFF of DHVT, arXiv 2210.05958)."""

    ratio: Annotated[float, Bounds(0, 1024)] = 4.0
    """Hidden size over width."""
    reduction: int = 4
    """Prefix tokens are scaled by what the patches' mean gives through a bottleneck of width / this; 0: they go through
    the MLP without the convolution."""
    dropout: Share = 0.0
    """Dropout of the hidden units."""


@dataclass(frozen=True)
class LinearPatchesConfig:
    """Each patch is projected linearly."""


@dataclass(frozen=True)
class WhitenedPatchesConfig:
    """A linear projection whose first filters start as the whitening of training patches."""

    frozen: bool = False
    """These filters stay as they start."""


@dataclass(frozen=True)
class ConvStemConfig:
    """3x3 convolutions with norm and GELU, as many of stride 2 as the patch size needs."""

    layers: int = 2
    """Convolutions, one to three."""


@dataclass(frozen=True)
class StageConfig:
    """Residual blocks of one width."""

    width: int = 32
    """Channels."""
    blocks: int = 1
    """Blocks."""
    stride: int = 2
    """Stride of the first block."""


@dataclass(frozen=True)
class ResidualStemConfig:
    """A small residual network in place of a patch projection: a 3x3 convolution to `width` channels, then the stages.

    The patch size is the product of the strides, or twice that: the first convolution then has stride 2.
    """

    width: int = 16
    """Channels of the first convolution."""
    stages: tuple[StageConfig, ...] = (StageConfig(32, 1), StageConfig(64, 2), StageConfig(128, 1))
    """The stages of residual blocks."""


Attention = GQAConfig | LatentConfig
FeedForward = MoEConfig | SwiGLUConfig | MLPConfig | ConvMLPConfig
Patches = LinearPatchesConfig | WhitenedPatchesConfig | ConvStemConfig | ResidualStemConfig


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder: width, depth and the parts of its layers. Image size, patch size and classes belong to the run."""

    dim: Width = 144
    """Width of a token."""
    depth: Annotated[int, Bounds(0, 1_000)] = 15
    """Layers."""
    attention: Attention = GQAConfig()
    """Kind of attention."""
    feedforward: FeedForward = MoEConfig()
    """Kind of feed-forward."""
    patches: Patches = LinearPatchesConfig()
    """How patches become tokens."""
    positions: Literal["learned", "sincos", "rotary", "none"] = "learned"
    """Learned, fixed sines and cosines, rotary in the attention, or none."""
    readout: Literal["dummy", "class", "mean", "pool"] = "dummy"
    """What the head reads: an all-zero patch, learned tokens, the mean of the patches, or their mean weighed by learned
    scores."""
    class_tokens: int = 1
    """Learned tokens side by side (readout class)."""
    drop_rate: Share = 0.0
    """Dropout before the head."""
    drop_path_rate: Share = 0.0
    """Stochastic depth: probability that a sample skips the last layer's branches; it rises by layers from 0."""


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder of a masked auto-encoder: layers of the same kinds as an encoder's."""

    dim: Width = 64
    """Width of a token."""
    depth: Depth = 2
    """Layers."""
    attention: Attention = GQAConfig(4, 2)
    """Kind of attention."""
    feedforward: FeedForward = MoEConfig(64, 32, (3,))
    """Kind of feed-forward."""
    positions: Literal["encoder", "learned"] = "encoder"
    """encoder gives mask tokens the encoder's positions and visible tokens none a second time (arXiv 2407.17783);
    learned adds the decoder's own to all tokens (arXiv 2402.03752)."""
    drop_path_rate: Share = 0.0
    """Stochastic depth, as the encoder's."""

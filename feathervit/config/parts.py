"""The parts of a model: a dataclass for each kind of attention, feed-forward and patch embedding, and for the whole encoder.

Each holds the parameters of one part and no other's. In JSON (`fields.py`) a part carries its name under "kind".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .bounds import AtLeastZero, Bounds, Depth, Share, Width


@dataclass(frozen=True)
class GQAConfig:
    """Grouped-query attention (arXiv 2305.13245): `heads` query heads share `kv_heads` key and value heads."""

    heads: int = 8
    kv_heads: int = 4


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head attention whose projections named in `low_rank` are a product of two, D to `rank` to D (arXiv 2501.06220)."""

    heads: int = 12
    rank: int = 64
    low_rank: Literal["q", "k", "v", "qk", "qv", "kv", "qkv"] = "qkv"


@dataclass(frozen=True)
class MoEConfig:
    """Mixture of SwiGLU experts with noisy top-k gates (arXiv 2407.17783, section 2.1.2).

    The hidden size falls from `hidden_first` to `hidden_last` by Eq. 15; `experts` counts a layer's experts in each of
    equally long stages. `sharing` names what the experts of a layer share (Table 9). `balance` is the coefficient of
    variation or its square (the paper's text names the first, Shazeer et al. square it).
    """

    hidden_first: int = 144
    hidden_last: int = 72
    experts: tuple[int, ...] = (3, 4, 5)
    top_k: int = 2
    sharing: Literal["v_w2", "v_w", "w_w2", "none"] = "v_w2"
    noise: bool = True
    balance: Literal["cv", "cv_squared"] = "cv"
    importance_weight: AtLeastZero = 1e-2
    load_weight: AtLeastZero = 1e-2
    dropout: Share = 0.1


@dataclass(frozen=True)
class SwiGLUConfig:
    """One SwiGLU feed-forward (Eq. 13), the hidden size scaled by depth as in `MoE`."""

    hidden_first: int = 144
    hidden_last: int = 144
    dropout: Share = 0.0


@dataclass(frozen=True)
class MLPConfig:
    """Linear, GELU, linear; `ratio` is hidden size over width."""

    ratio: Annotated[float, Bounds(0, 1024)] = 4.0
    dropout: Share = 0.0


@dataclass(frozen=True)
class ConvMLPConfig:
    """MLP with a depth-wise 3x3 convolution over the patches between its layers (DAFF of DHVT, arXiv 2210.05958).

    `ratio` is hidden size over width. Prefix tokens are scaled channel by channel by what the patches' mean says through
    a bottleneck of width / `reduction`; `reduction` 0: they go through the MLP without the convolution.
    """

    ratio: Annotated[float, Bounds(0, 1024)] = 4.0
    reduction: int = 4
    dropout: Share = 0.0


@dataclass(frozen=True)
class LinearPatchesConfig:
    """Each patch is projected linearly."""


@dataclass(frozen=True)
class WhitenedPatchesConfig:
    """A linear projection whose first filters start as the whitening of training patches; `frozen`: and stay so."""

    frozen: bool = False


@dataclass(frozen=True)
class ConvStemConfig:
    """One to three 3x3 convolutions with norm and GELU, as many of stride 2 as the patch size needs."""

    layers: int = 2


@dataclass(frozen=True)
class StageConfig:
    """Residual blocks of one width; the first block has the stride."""

    width: int = 32
    blocks: int = 1
    stride: int = 2


@dataclass(frozen=True)
class ResidualStemConfig:
    """A small residual network in place of a patch projection: a 3x3 convolution to `width` channels, then the stages.

    The patch size is the product of the strides, or twice that: the first convolution then has stride 2.
    """

    width: int = 16
    stages: tuple[StageConfig, ...] = (StageConfig(32, 1), StageConfig(64, 2), StageConfig(128, 1))


Attention = GQAConfig | LatentConfig
FeedForward = MoEConfig | SwiGLUConfig | MLPConfig | ConvMLPConfig
Patches = LinearPatchesConfig | WhitenedPatchesConfig | ConvStemConfig | ResidualStemConfig


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder: width, depth and the parts of its layers. Image size, patch size and classes belong to the run.

    `readout`, what the head reads: an all-zero patch, `class_tokens` learned tokens side by side, the mean of the patches,
    or their mean weighed by learned scores. `positions`: learned, fixed sines and cosines, rotary in the attention, or none.
    """

    dim: Width = 144
    depth: Annotated[int, Bounds(0, 1_000)] = 15
    attention: Attention = GQAConfig()
    feedforward: FeedForward = MoEConfig()
    patches: Patches = LinearPatchesConfig()
    positions: Literal["learned", "sincos", "rotary", "none"] = "learned"
    readout: Literal["dummy", "class", "mean", "pool"] = "dummy"
    class_tokens: int = 1
    drop_rate: Share = 0.0
    drop_path_rate: Share = 0.0


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder of a masked auto-encoder: layers of the same kinds as an encoder's.

    `positions`: "encoder" gives the mask tokens the encoder's positions and the visible tokens none a second time (arXiv
    2407.17783); "learned" adds the decoder's own to all tokens (arXiv 2402.03752).
    """

    dim: Width = 64
    depth: Depth = 2
    attention: Attention = GQAConfig(4, 2)
    feedforward: FeedForward = MoEConfig(64, 32, (3,))
    positions: Literal["encoder", "learned"] = "encoder"
    drop_path_rate: Share = 0.0

"""Defines the named models as configurations, each with its default input size.

This module does not import torch, so that the command line starts fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UnknownNameError
from .parts import (
    ConvMLPConfig,
    DecoderConfig,
    EncoderConfig,
    GQAConfig,
    MLPConfig,
    MoEConfig,
    PooledStemConfig,
    ResidualStemConfig,
    StageConfig,
)

PAPER = "arXiv 2407.17783, Table 1"
MLP_DECODER = DecoderConfig(dim=96, depth=3, attention=GQAConfig(6, 6), feedforward=MLPConfig(2.0), positions="learned")
SMALL_DECODER = DecoderConfig(dim=64, depth=2, attention=GQAConfig(4, 2), feedforward=MoEConfig(64, 32, (3,)))


@dataclass(frozen=True)
class ModelSpec:
    """Holds a named configuration, its image size and patch size, and its decoder for pre-training.

    The decoders are ours: Table 2 of the paper is not available, and its text gives only the kind of layers.
    """

    config: EncoderConfig
    img_size: int
    patch_size: int
    source: str
    decoder: DecoderConfig = SMALL_DECODER


def _vit_lite(depth: int) -> ModelSpec:
    config = EncoderConfig(
        dim=256, depth=depth, attention=GQAConfig(4, 4), feedforward=MLPConfig(2.0), readout="class", drop_path_rate=0.1
    )
    return ModelSpec(config, 32, 4, "arXiv 2104.05704; queries, keys and values with bias (ours)", MLP_DECODER)


def _cct(depth: int) -> ModelSpec:
    """Returns a compact convolutional transformer with a tokeniser of two convolutions and sequence pooling."""
    config = EncoderConfig(
        dim=128,
        depth=depth,
        attention=GQAConfig(2, 2),
        feedforward=MLPConfig(1.0),
        patches=PooledStemConfig(2),
        readout="pool",
        drop_path_rate=0.1,
    )
    source = "arXiv 2104.05704; queries, keys and values with bias, no dropout of attention weights (ours)"
    return ModelSpec(config, 32, 4, source, MLP_DECODER)


def _feather(stem: int, widths: tuple[int, int, int]) -> ModelSpec:
    """Returns a network of residual convolutions. Its three stages halve the resolution; the head reads the mean."""
    config = EncoderConfig(
        dim=widths[-1],
        depth=0,
        attention=GQAConfig(2, 2),  # attention and feed-forward apply to layers that a user adds
        feedforward=ConvMLPConfig(2.0, 0),
        patches=ResidualStemConfig(stem, tuple(StageConfig(width, 2) for width in widths)),
        positions="none",
        readout="mean",
    )
    return ModelSpec(config, 32, 8, "ours", _FEATHER_DECODER)


_FEATHER_DECODER = DecoderConfig(
    dim=64, depth=2, attention=GQAConfig(4, 2), feedforward=ConvMLPConfig(2.0, 0), positions="learned"
)
_VIT_192 = EncoderConfig(dim=192, depth=12, attention=GQAConfig(12, 12), feedforward=MLPConfig(2.0))

MODELS = {
    "vit_lite_7": _vit_lite(7),
    "mae_vit": ModelSpec(
        _VIT_192,
        36,
        3,
        "arXiv 2402.03752; 12 heads (ours); called Mae-ViT-C10 or -C100 after pre-training on CIFAR-10 or -100",
        MLP_DECODER,
    ),
    "poorvit_tiny": ModelSpec(
        replace(_VIT_192, readout="class", drop_path_rate=0.1),
        32,
        4,
        "arXiv 2501.06220 and its repository",
        MLP_DECODER,
    ),
    "vit_lite_6": _vit_lite(6),
    "mlit_s": ModelSpec(
        EncoderConfig(dim=144, depth=15, attention=GQAConfig(8, 4), feedforward=MoEConfig(144, 72)),
        36,
        3,
        PAPER,
        DecoderConfig(dim=96, depth=3, attention=GQAConfig(6, 3), feedforward=MoEConfig(96, 48, (3,))),
    ),
    "feather_s": _feather(32, (64, 128, 224)),
    "mlit_xs": ModelSpec(
        EncoderConfig(dim=128, depth=12, attention=GQAConfig(8, 4), feedforward=MoEConfig(96, 32)),
        36,
        3,
        PAPER,
        DecoderConfig(dim=80, depth=2, attention=GQAConfig(5, 5), feedforward=MoEConfig(80, 40, (3,))),
    ),
    "feather_xs": _feather(16, (40, 88, 166)),
    "mlit_xxs": ModelSpec(
        EncoderConfig(dim=108, depth=9, attention=GQAConfig(6, 3), feedforward=MoEConfig(81, 27)),
        36,
        3,
        PAPER,
    ),
    "feather_attn_xxs": ModelSpec(
        EncoderConfig(
            dim=128,
            depth=2,
            attention=GQAConfig(4, 4),
            feedforward=ConvMLPConfig(2.0, 0),
            patches=ResidualStemConfig(16, (StageConfig(32, 1), StageConfig(64, 2), StageConfig(128, 1))),
            positions="none",
            readout="mean",
        ),
        32,
        8,
        "ours: a residual stem, then two layers of attention",
        _FEATHER_DECODER,
    ),
    "feather_xxs": _feather(16, (32, 64, 122)),
    "cct_4_3x2": _cct(4),
    "cct_2_3x2": _cct(2),
    "mlit_nano": ModelSpec(
        EncoderConfig(dim=64, depth=6, attention=GQAConfig(4, 2), feedforward=MoEConfig(36, 16)),
        16,
        2,
        "ours, with the parts of mLiT",
        DecoderConfig(dim=48, depth=2, attention=GQAConfig(4, 2), feedforward=MoEConfig(48, 24, (3,))),
    ),
    "feather_nano": _feather(8, (16, 32, 54)),
}


def list_models() -> list[str]:
    """Returns the names of our models, largest first."""
    return list(MODELS)


def spec(name: str) -> ModelSpec:
    """Returns the specification of a named model. Raises UnknownNameError with the nearest names."""
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS, "timm:NAME is any timm model")
    return MODELS[name]


def named_weights(name: str) -> str:
    """Returns the weights that a model name includes: "resnet10t.c3_in1k" for `timm:resnet10t.c3_in1k`, else ""."""
    return name.removeprefix("timm:") if name.startswith("timm:") and "." in name else ""


def architecture(name: str) -> str:
    """Returns the name of a model without its weights and without `timm:`."""
    return name.removeprefix("timm:").partition(".")[0]

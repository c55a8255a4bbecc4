"""The named models as configurations, each with the input it was made for. Imports no torch: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import GQA, MLP, ConvMLP, DecoderConfig, EncoderConfig, MoE, ResidualStem, Stage
from .errors import UnknownNameError

PAPER = "arXiv 2407.17783, Table 1"
MLP_DECODER = DecoderConfig(dim=96, depth=3, attention=GQA(6, 6), feedforward=MLP(2.0), positions="learned")
SMALL_DECODER = DecoderConfig(dim=64, depth=2, attention=GQA(4, 2), feedforward=MoE(64, 32, (3,)))


@dataclass(frozen=True)
class ModelSpec:
    """A named configuration, the input it was made for, and the decoder it is pre-trained with (ours: the paper's Table 2 is
    lost; it says only that the decoder's layers are of the encoder's kind)."""

    config: EncoderConfig
    img_size: int
    patch_size: int
    source: str
    decoder: DecoderConfig = SMALL_DECODER


def _vit_lite(depth: int) -> ModelSpec:
    config = EncoderConfig(
        dim=256, depth=depth, attention=GQA(4, 4), feedforward=MLP(2.0), readout="class", drop_path_rate=0.1
    )
    return ModelSpec(config, 32, 4, "arXiv 2104.05704; queries, keys and values with bias (ours)", MLP_DECODER)


def _feather(stem: int, stages: tuple[Stage, ...], heads: int) -> ModelSpec:
    """A residual stem that halves the resolution three times, then two layers of attention on what is left."""
    dim = stages[-1].width
    config = EncoderConfig(
        dim=dim,
        depth=2,
        attention=GQA(heads, heads),
        feedforward=ConvMLP(2.0, 0),
        patches=ResidualStem(stem, stages),
        positions="none",
        readout="mean",
    )
    decoder = DecoderConfig(dim=64, depth=2, attention=GQA(4, 2), feedforward=ConvMLP(2.0, 0), positions="learned")
    return ModelSpec(config, 32, 8, "ours", decoder)


_VIT_192 = EncoderConfig(dim=192, depth=12, attention=GQA(12, 12), feedforward=MLP(2.0))

MODELS = {
    "vit_lite_7": _vit_lite(7),
    "mae_vit": ModelSpec(
        _VIT_192,
        36,
        3,
        "arXiv 2402.03752; 12 heads (ours); as pre-trained on CIFAR-10 or -100 called Mae-ViT-C10, -C100",
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
        EncoderConfig(dim=144, depth=15, attention=GQA(8, 4), feedforward=MoE(144, 72)),
        36,
        3,
        PAPER,
        DecoderConfig(dim=96, depth=3, attention=GQA(6, 3), feedforward=MoE(96, 48, (3,))),
    ),
    "feather_s": _feather(32, (Stage(64, 2), Stage(128, 2), Stage(224, 1)), 7),
    "feather_xs": _feather(16, (Stage(48, 1), Stage(96, 2), Stage(168, 1)), 7),
    "mlit_xs": ModelSpec(
        EncoderConfig(dim=128, depth=12, attention=GQA(8, 4), feedforward=MoE(96, 32)),
        36,
        3,
        PAPER,
        DecoderConfig(dim=80, depth=2, attention=GQA(5, 5), feedforward=MoE(80, 40, (3,))),
    ),
    "mlit_xxs": ModelSpec(
        EncoderConfig(dim=108, depth=9, attention=GQA(6, 3), feedforward=MoE(81, 27)),
        36,
        3,
        PAPER,
    ),
    "feather_xxs": _feather(16, (Stage(32, 1), Stage(64, 2), Stage(128, 1)), 4),
    "mlit_nano": ModelSpec(
        EncoderConfig(dim=64, depth=6, attention=GQA(4, 2), feedforward=MoE(36, 16)),
        16,
        2,
        "ours, the same parts",
        DecoderConfig(dim=48, depth=2, attention=GQA(4, 2), feedforward=MoE(48, 24, (3,))),
    ),
    "feather_nano": _feather(8, (Stage(16, 1), Stage(32, 2), Stage(56, 1)), 2),
}


def list_models() -> list[str]:
    """Names of our models, by falling size."""
    return list(MODELS)


def spec(name: str) -> ModelSpec:
    """The named configuration. Raises UnknownNameError with the nearest names."""
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS, "any timm model goes by timm:NAME")
    return MODELS[name]

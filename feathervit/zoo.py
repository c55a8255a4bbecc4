"""The named models as configurations, each with the input it was made for. Imports no torch: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass

from .config import GQA, DecoderConfig, EncoderConfig, MoE
from .errors import UnknownNameError

PAPER = "arXiv 2407.17783, Table 1"
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


MODELS = {
    "mlit_s": ModelSpec(
        EncoderConfig(dim=144, depth=15, attention=GQA(8, 4), feedforward=MoE(144, 72)),
        36,
        3,
        PAPER,
        DecoderConfig(dim=96, depth=3, attention=GQA(6, 3), feedforward=MoE(96, 48, (3,))),
    ),
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
    "mlit_nano": ModelSpec(
        EncoderConfig(dim=64, depth=6, attention=GQA(4, 2), feedforward=MoE(36, 16)),
        16,
        2,
        "ours, the same parts",
        DecoderConfig(dim=48, depth=2, attention=GQA(4, 2), feedforward=MoE(48, 24, (3,))),
    ),
}


def list_models() -> list[str]:
    """Names of our models, by falling size."""
    return list(MODELS)


def spec(name: str) -> ModelSpec:
    """The named configuration. Raises UnknownNameError with the nearest names."""
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS, "any timm model goes by timm:NAME")
    return MODELS[name]

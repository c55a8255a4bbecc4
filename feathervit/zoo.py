"""The named models as configurations, each with the input it was made for. Imports no torch: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass

from .config import GQA, EncoderConfig, MoE
from .errors import UnknownNameError

PAPER = "arXiv 2407.17783, Table 1"


@dataclass(frozen=True)
class ModelSpec:
    """A named configuration and the input it was made for."""

    config: EncoderConfig
    img_size: int
    patch_size: int
    source: str


MODELS = {
    "mlit_s": ModelSpec(EncoderConfig(dim=144, depth=15, attention=GQA(8, 4), feedforward=MoE(144, 72)), 36, 3, PAPER),
    "mlit_xs": ModelSpec(EncoderConfig(dim=128, depth=12, attention=GQA(8, 4), feedforward=MoE(96, 32)), 36, 3, PAPER),
    "mlit_xxs": ModelSpec(EncoderConfig(dim=108, depth=9, attention=GQA(6, 3), feedforward=MoE(81, 27)), 36, 3, PAPER),
    "mlit_nano": ModelSpec(
        EncoderConfig(dim=64, depth=6, attention=GQA(4, 2), feedforward=MoE(36, 16)), 16, 2, "ours, the same parts"
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

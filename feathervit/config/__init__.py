"""Defines the settings of a run as typed dataclasses.

A recipe returns a `RunConfig`. The command line sets any field by its dotted name (`--optim.weight-decay 0.1`). The resolved
configuration is stored with the weights, so that a checkpoint can rebuild its run. This package does not import torch.
"""

from .fields import changed, from_dict, kind_of, to_dict, with_fields
from .named import MODELS, ModelSpec, architecture, list_models, named_weights, spec
from .parts import (
    Attention,
    ConvMLPConfig,
    ConvStemConfig,
    DecoderConfig,
    EncoderConfig,
    FeedForward,
    GQAConfig,
    LatentConfig,
    LinearPatchesConfig,
    MLPConfig,
    MoEConfig,
    Patches,
    PooledStemConfig,
    ResidualStemConfig,
    StageConfig,
    SwiGLUConfig,
    WhitenedPatchesConfig,
)
from .resolve import check_channels, check_effect, imbalanced, resolve, set_fields
from .runs import (
    Augmentation,
    ImageConfig,
    LossConfig,
    MAEConfig,
    OptimConfig,
    ReadingConfig,
    RunConfig,
    SplitConfig,
)

__all__ = [
    "MODELS",
    "Attention",
    "Augmentation",
    "ConvMLPConfig",
    "ConvStemConfig",
    "DecoderConfig",
    "EncoderConfig",
    "FeedForward",
    "GQAConfig",
    "ImageConfig",
    "LatentConfig",
    "LinearPatchesConfig",
    "LossConfig",
    "MAEConfig",
    "MLPConfig",
    "MoEConfig",
    "ModelSpec",
    "OptimConfig",
    "Patches",
    "PooledStemConfig",
    "ReadingConfig",
    "ResidualStemConfig",
    "RunConfig",
    "SplitConfig",
    "StageConfig",
    "SwiGLUConfig",
    "WhitenedPatchesConfig",
    "architecture",
    "changed",
    "check_channels",
    "check_effect",
    "from_dict",
    "imbalanced",
    "kind_of",
    "list_models",
    "named_weights",
    "resolve",
    "set_fields",
    "spec",
    "to_dict",
    "with_fields",
]

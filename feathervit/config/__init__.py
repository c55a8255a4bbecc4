"""Defines the settings of a run as typed dataclasses.

A recipe returns a `RunConfig`. The command line sets any field by its dotted name (`--optim.weight-decay 0.1`). The resolved
configuration is stored with the weights, so that a checkpoint can rebuild its run. This package does not import torch.
"""

from .fields import changed as changed
from .fields import from_dict as from_dict
from .fields import kind_of as kind_of
from .fields import to_dict as to_dict
from .fields import with_fields as with_fields
from .named import MODELS as MODELS
from .named import ModelSpec as ModelSpec
from .named import architecture as architecture
from .named import list_models as list_models
from .named import named_weights as named_weights
from .named import spec as spec
from .parts import Attention as Attention
from .parts import ConvMLPConfig as ConvMLPConfig
from .parts import ConvStemConfig as ConvStemConfig
from .parts import DecoderConfig as DecoderConfig
from .parts import EncoderConfig as EncoderConfig
from .parts import FeedForward as FeedForward
from .parts import GQAConfig as GQAConfig
from .parts import LatentConfig as LatentConfig
from .parts import LinearPatchesConfig as LinearPatchesConfig
from .parts import MLPConfig as MLPConfig
from .parts import MoEConfig as MoEConfig
from .parts import Patches as Patches
from .parts import PooledStemConfig as PooledStemConfig
from .parts import ResidualStemConfig as ResidualStemConfig
from .parts import StageConfig as StageConfig
from .parts import SwiGLUConfig as SwiGLUConfig
from .parts import WhitenedPatchesConfig as WhitenedPatchesConfig
from .resolve import check_channels as check_channels
from .resolve import check_effect as check_effect
from .resolve import imbalanced as imbalanced
from .resolve import resolve as resolve
from .resolve import set_fields as set_fields
from .runs import Augmentation as Augmentation
from .runs import ImageConfig as ImageConfig
from .runs import LossConfig as LossConfig
from .runs import MAEConfig as MAEConfig
from .runs import OptimConfig as OptimConfig
from .runs import ReadingConfig as ReadingConfig
from .runs import RunConfig as RunConfig
from .runs import SplitConfig as SplitConfig

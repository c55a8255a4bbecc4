"""Defines the models. Importing this package registers our models in timm."""

from ..config import list_models, spec
from . import registered  # noqa: F401 (registers our models in timm)
from .encoder import Encoder
from .mae import MaskedAutoencoder
from .peers import twin
from .registry import build_model, create_model, described

__all__ = [
    "Encoder",
    "MaskedAutoencoder",
    "build_model",
    "create_model",
    "described",
    "list_models",
    "spec",
    "twin",
]

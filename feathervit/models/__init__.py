"""Defines the models. Importing this package registers our models in timm."""

from ..config import list_models as list_models
from ..config import spec as spec
from . import registered  # noqa: F401 (registers our models in timm)
from .encoder import Encoder as Encoder
from .mae import MaskedAutoencoder as MaskedAutoencoder
from .peers import twin as twin
from .registry import build_model as build_model
from .registry import create_model as create_model
from .registry import described as described

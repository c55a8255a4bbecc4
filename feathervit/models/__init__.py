"""The models. Importing this package registers ours in timm."""

from ..config import list_models, spec
from .encoder import Encoder
from .mae import MaskedAutoencoder
from .peers import twin
from .registry import build_model, create_model

__all__ = ["Encoder", "MaskedAutoencoder", "build_model", "create_model", "list_models", "spec", "twin"]

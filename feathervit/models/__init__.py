"""The models. Importing this package registers ours in timm."""

from .encoder import Encoder
from .registry import create_model, list_models, spec

__all__ = ["Encoder", "create_model", "list_models", "spec"]

"""The models. Importing this package registers ours in timm."""

from ..zoo import list_models, spec
from .encoder import Encoder
from .registry import create_model

__all__ = ["Encoder", "create_model", "list_models", "spec"]

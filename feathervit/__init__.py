"""feathervit: ultra-light vision models for small images.

`import feathervit` is fast: torch and timm are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .config import Augmentation, EncoderConfig, RunConfig, list_models
from .errors import FeatherVitError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data import load_data
    from .evaluation.inference import load
    from .export.export import export_model
    from .models import create_model
    from .recipes import recipe
    from .training.train import pretrain, train

_LAZY = {
    "create_model": "models",
    "export_model": "export.export",
    "load": "evaluation.inference",
    "load_data": "data",
    "pretrain": "training.train",
    "recipe": "recipes",
    "train": "training.train",
}

__all__ = [
    "Augmentation",
    "EncoderConfig",
    "FeatherVitError",
    "RunConfig",
    "__version__",
    "create_model",
    "export_model",
    "list_models",
    "load",
    "load_data",
    "pretrain",
    "recipe",
    "train",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__

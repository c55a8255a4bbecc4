"""Builds models by name: our models, `timm:NAME`, and `twin:NAME`, timm's VisionTransformer in the size of our NAME."""

from __future__ import annotations

import torch
from torch import nn

from ..models import create_model, twin


def build(name: str, img_size: int, patch_size: int | None, num_classes: int) -> nn.Module:
    """Builds a model in evaluation mode, with random weights from seed 0.

    `patch_size` is for our models and their twins (None: the default). Raises UnknownNameError and ConfigError.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if name.startswith("twin:"):
            return twin(name.removeprefix("twin:"), img_size, patch_size, num_classes).eval()
        patch = None if name.startswith("timm:") else patch_size
        return create_model(name, img_size=img_size, patch_size=patch, num_classes=num_classes).eval()

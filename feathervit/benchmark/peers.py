"""Models to measure by name: ours, timm's as `timm:NAME`, and `twin:NAME`, timm's VisionTransformer made as one of ours is."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..models import create_model
from ..zoo import spec


def build(name: str, img_size: int, patch_size: int | None, num_classes: int) -> nn.Module:
    """The model in evaluation mode, with random weights drawn from seed 0. `patch_size` is for ours and their twins; None:
    their own. Raises UnknownNameError, ConfigError."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name.startswith("twin:"):
            return twin(name.removeprefix("twin:"), img_size, patch_size, num_classes).eval()
        patch = None if name.startswith("timm:") else patch_size
        return create_model(name, img_size=img_size, patch_size=patch, num_classes=num_classes).eval()


def twin(name: str, img_size: int, patch_size: int | None, num_classes: int) -> nn.Module:
    """timm's VisionTransformer of the same width, depth, heads and tokens as ours called `name`, and with the hidden size that
    brings it nearest to the same number of parameters."""
    known = spec(name)
    patch_size, config = patch_size or known.patch_size, known.config

    def made(hidden: int) -> nn.Module:
        return VisionTransformer(
            img_size=img_size,
            patch_size=patch_size,
            num_classes=num_classes,
            embed_dim=config.dim,
            depth=config.depth,
            num_heads=config.attention.heads,
            mlp_ratio=(hidden + 0.5) / config.dim,  # it takes the whole part of ratio x width
        )

    with torch.device("meta"):
        ours = create_model(name, img_size=img_size, patch_size=patch_size, num_classes=num_classes)
        one, two = (_parameters(made(hidden)) for hidden in (1, 2))
    return made(1 + round((_parameters(ours) - one) / (two - one)))


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())

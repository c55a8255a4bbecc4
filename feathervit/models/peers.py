"""What ours are held against, from timm's own classes at the size of ours; by name as `timm:vit_twin_xxs`,
`timm:vit_twin_s` and `timm:resnet18_xxs`."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..config import spec
from .registry import create_model


def twin(name: str, img_size: int | None, patch_size: int | None, num_classes: int, in_chans: int = 3) -> nn.Module:
    """timm's VisionTransformer of the same width, depth, heads and tokens as ours called `name`, and with the hidden size that
    brings it nearest to the same number of parameters."""
    known = spec(name)
    img_size, patch_size, config = img_size or known.img_size, patch_size or known.patch_size, known.config
    sizes = {"img_size": img_size, "patch_size": patch_size, "in_chans": in_chans, "num_classes": num_classes}

    def made(hidden: int) -> nn.Module:
        return VisionTransformer(
            **sizes,
            embed_dim=config.dim,
            depth=config.depth,
            num_heads=config.attention.heads,
            mlp_ratio=(hidden + 0.5) / config.dim,  # it takes the whole part of ratio x width
        )

    with torch.device("meta"):
        ours = create_model(name, **sizes)
        one, two = (_parameters(made(hidden)) for hidden in (1, 2))
    return made(1 + round((_parameters(ours) - one) / (two - one)))


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@register_model
def vit_twin_xxs(pretrained: bool = False, img_size=None, patch_size=None, num_classes=100, in_chans=3, **_: Any):
    """The twin of mlit_xxs."""
    return twin("mlit_xxs", img_size, patch_size, num_classes, in_chans)


@register_model
def vit_twin_s(pretrained: bool = False, img_size=None, patch_size=None, num_classes=100, in_chans=3, **_: Any):
    """The twin of mlit_s."""
    return twin("mlit_s", img_size, patch_size, num_classes, in_chans)


@register_model
def resnet18_xxs(pretrained: bool = False, num_classes: int = 100, in_chans: int = 3, drop_rate: float = 0.0, **_: Any):
    """ResNet-18 of widths 16, 32, 64 and 120 with the stem for small images: one 3x3 of stride 1, no pooling."""
    words = {"channels": (16, 32, 64, 120), "drop_rate": drop_rate}
    model = ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_chans, stem_type="deep", stem_width=8, **words)
    model.conv1, model.maxpool = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False), nn.Identity()
    return model

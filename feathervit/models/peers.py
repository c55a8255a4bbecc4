"""What ours are held against, from timm's own classes at the size of ours; by name as `timm:vit_twin_xxs`,
`timm:vit_twin_s` and `timm:resnet18_xxs`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..config import spec
from .registry import create_model

# What timm asks of a registered model; `register_model` reads it under this name. There are no weights of these.
_VIT = {
    "num_classes": 100,
    "input_size": (3, 36, 36),
    "fixed_input_size": True,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
default_cfgs = {
    "vit_twin_xxs": _VIT,
    "vit_twin_s": _VIT,
    "resnet18_xxs": {"num_classes": 100, "input_size": (3, 32, 32), "first_conv": "conv1", "classifier": "fc"},
}


def twin(
    name: str, img_size: int | None, patch_size: int | None, num_classes: int, in_chans: int = 3, **words: Any
) -> nn.Module:
    """timm's VisionTransformer of the same width, depth, heads and tokens as ours called `name`, and with the hidden size that
    brings it nearest to the same number of parameters. `words` are passed on to VisionTransformer."""
    known = spec(name)
    img_size, patch_size, config = img_size or known.img_size, patch_size or known.patch_size, known.config
    sizes = {"img_size": img_size, "patch_size": patch_size, "in_chans": in_chans, "num_classes": num_classes}

    def made(hidden: int) -> nn.Module:
        return VisionTransformer(
            **sizes,
            **words,
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


def _twin(
    ours: str, img_size: Any = None, patch_size: int | None = None, num_classes: int = 100, **words: Any
) -> nn.Module:
    img_size = img_size if img_size is None or isinstance(img_size, int) else img_size[0]  # timm gives (height, width)
    return twin(ours, img_size, patch_size, num_classes, **words)


def _resnet18_xxs(num_classes: int, in_chans: int, **words: Any) -> nn.Module:
    shape = {"channels": (16, 32, 64, 120), "stem_type": "deep", "stem_width": 8}
    model = ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_chans, **shape, **words)
    model.conv1, model.maxpool = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False), nn.Identity()
    return model


@register_model
def vit_twin_xxs(pretrained: bool = False, **words: Any) -> nn.Module:
    """The twin of mlit_xxs."""
    return build_model_with_cfg(partial(_twin, "mlit_xxs"), "vit_twin_xxs", pretrained, **words)


@register_model
def vit_twin_s(pretrained: bool = False, **words: Any) -> nn.Module:
    """The twin of mlit_s."""
    return build_model_with_cfg(partial(_twin, "mlit_s"), "vit_twin_s", pretrained, **words)


@register_model
def resnet18_xxs(pretrained: bool = False, **words: Any) -> nn.Module:
    """ResNet-18 of widths 16, 32, 64 and 120 with the stem for small images: one 3x3 of stride 1, no pooling."""
    return build_model_with_cfg(_resnet18_xxs, "resnet18_xxs", pretrained, **words)

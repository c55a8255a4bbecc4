"""Builds the baseline models from classes of timm, at our sizes and at the sizes of published tables.

Names: `timm:vit_twin_xxs`, `timm:vit_twin_s`, `timm:resnet18_xxs`, `timm:resnet20_xxs`, `timm:resnet_56` and
`timm:convmixer_xxs`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.convmixer import ConvMixer
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..config import spec
from .registry import create_model

# timm requires these fields of a registered model; `register_model` reads `default_cfgs`. There are no weights.
_VIT = {
    "num_classes": 100,
    "input_size": (3, 36, 36),
    "fixed_input_size": True,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
_RESNET = {"num_classes": 100, "input_size": (3, 32, 32), "first_conv": "conv1", "classifier": "fc"}
default_cfgs = {
    "vit_twin_xxs": _VIT,
    "vit_twin_s": _VIT,
    **dict.fromkeys(("resnet18_xxs", "resnet20_xxs", "resnet_56"), _RESNET),
    "convmixer_xxs": {"num_classes": 100, "input_size": (3, 32, 32), "first_conv": "stem.0", "classifier": "head"},
}


def twin(
    name: str, img_size: int | None, patch_size: int | None, num_classes: int, in_chans: int = 3, **words: Any
) -> nn.Module:
    """Builds timm's VisionTransformer with the width, depth, heads and tokens of our model `name`.

    The hidden size is chosen for the nearest number of parameters. `words` are arguments of VisionTransformer.
    """
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
            mlp_ratio=(hidden + 0.5) / config.dim,  # timm truncates ratio x width
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
    img_size = img_size if img_size is None or isinstance(img_size, int) else img_size[0]  # timm passes (height, width)
    return twin(ours, img_size, patch_size, num_classes, **words)


def _resnet(channels: tuple[int, ...], blocks: int, num_classes: int, in_chans: int, **words: Any) -> nn.Module:
    """Builds a ResNet of `blocks` basic blocks per stage, with a stem for small images.

    The stem is one 3x3 convolution of stride 1, without pooling.
    """
    shape = {"channels": channels, "stem_type": "deep", "stem_width": channels[0] // 2}
    model = ResNet(BasicBlock, (blocks,) * len(channels), num_classes, in_chans, **shape, **words)
    model.conv1, model.maxpool = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False), nn.Identity()
    if len(channels) == 3:
        model.layer4 = nn.Identity()
    for i, level in enumerate(model.feature_info):  # act1 and layer1 have the resolution of the image
        level["reduction"] = 2 ** max(0, i - 1)
    return model


def _build_resnet(name: str, pretrained: bool, channels: tuple[int, ...], blocks: int, **words: Any) -> nn.Module:
    levels = {"out_indices": tuple(range(len(channels) + 1))}  # of features_only
    return build_model_with_cfg(partial(_resnet, channels, blocks), name, pretrained, feature_cfg=levels, **words)


@register_model
def vit_twin_xxs(pretrained: bool = False, **words: Any) -> nn.Module:
    """Builds the twin of mlit_xxs."""
    return build_model_with_cfg(partial(_twin, "mlit_xxs"), "vit_twin_xxs", pretrained, **words)


@register_model
def vit_twin_s(pretrained: bool = False, **words: Any) -> nn.Module:
    """Builds the twin of mlit_s."""
    return build_model_with_cfg(partial(_twin, "mlit_s"), "vit_twin_s", pretrained, **words)


@register_model
def resnet18_xxs(pretrained: bool = False, **words: Any) -> nn.Module:
    """Builds ResNet-18 of widths 16, 32, 64 and 120."""
    return _build_resnet("resnet18_xxs", pretrained, (16, 32, 64, 120), 2, **words)


@register_model
def resnet20_xxs(pretrained: bool = False, **words: Any) -> nn.Module:
    """Builds the ResNet-20 for CIFAR (arXiv 1512.03385, section 4.2), widened to 24, 48 and 100 channels."""
    return _build_resnet("resnet20_xxs", pretrained, (24, 48, 100), 3, **words)


@register_model
def resnet_56(pretrained: bool = False, **words: Any) -> nn.Module:
    """Builds the ResNet-56 for CIFAR (arXiv 1512.03385, section 4.2).

    The two shortcuts that change the shape have 1x1 convolutions.
    """
    return _build_resnet("resnet_56", pretrained, (16, 32, 64), 9, **words)


@register_model
def convmixer_xxs(pretrained: bool = False, **words: Any) -> nn.Module:
    """Builds ConvMixer-256/8 with 7x7 kernels on patches of 2 px (arXiv 2201.09792)."""
    made = partial(ConvMixer, 256, 8, 7, 2)
    levels = {"out_indices": tuple(range(8)), "feature_cls": "getter"}  # of features_only
    return build_model_with_cfg(made, "convmixer_xxs", pretrained, feature_cfg=levels, **words)

"""The named models. Importing `feathervit.models` registers them in timm, so `timm.create_model("mlit_xxs")` works.

A name stands for an `EncoderConfig` with the image and patch size it was made for; any other size, channel count and
class count can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from ..config import GQA, EncoderConfig, MoE
from ..errors import ConfigError, UnknownNameError
from .encoder import Encoder

PAPER = "arXiv 2407.17783, Table 1"


@dataclass(frozen=True)
class ModelSpec:
    """A named configuration and the input it was made for."""

    config: EncoderConfig
    img_size: int
    patch_size: int
    source: str


MODELS = {
    "mlit_s": ModelSpec(EncoderConfig(dim=144, depth=15, attention=GQA(8, 4), feedforward=MoE(144, 72)), 36, 3, PAPER),
    "mlit_xs": ModelSpec(EncoderConfig(dim=128, depth=12, attention=GQA(8, 4), feedforward=MoE(96, 32)), 36, 3, PAPER),
    "mlit_xxs": ModelSpec(EncoderConfig(dim=108, depth=9, attention=GQA(6, 3), feedforward=MoE(81, 27)), 36, 3, PAPER),
    "mlit_nano": ModelSpec(
        EncoderConfig(dim=64, depth=6, attention=GQA(4, 2), feedforward=MoE(40, 16)), 16, 2, "ours, the same parts"
    ),
}


def list_models() -> list[str]:
    """Names of our models, by falling size."""
    return list(MODELS)


def spec(name: str) -> ModelSpec:
    """The named configuration. Raises UnknownNameError with the nearest names."""
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS, "any timm model goes by timm:NAME")
    return MODELS[name]


def create_model(
    name: str,
    *,
    img_size: int | None = None,
    patch_size: int | None = None,
    in_chans: int = 3,
    num_classes: int = 100,
    config: EncoderConfig | None = None,
    **parts: Any,
) -> nn.Module:
    """A model by name: ours, or any of timm's as `timm:NAME`.

    `img_size` and `patch_size` default to the model's own; `config` replaces the named configuration, `parts` replaces
    fields of it (`drop_path_rate=0.1`). Raises UnknownNameError, and ConfigError where sizes do not fit.
    """
    if name.startswith("timm:"):
        return _timm_model(name.removeprefix("timm:"), img_size, patch_size, in_chans, num_classes, parts)
    known = spec(name)
    config = config or known.config
    unknown = sorted(set(parts) - set(EncoderConfig.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(EncoderConfig.__dataclass_fields__)}")
    return Encoder(
        replace(config, **parts), img_size or known.img_size, patch_size or known.patch_size, in_chans, num_classes
    )


def _timm_model(name: str, img_size, patch_size, in_chans: int, num_classes: int, parts: dict) -> nn.Module:
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    sizes = {"img_size": img_size, "patch_size": patch_size}
    try:
        return timm.create_model(name, in_chans=in_chans, num_classes=num_classes, **sizes, **parts)
    except TypeError as error:
        # Convolutional models take any image size and have no such word; a patch size must mean something.
        if patch_size is not None:
            raise ConfigError(f"timm:{name} takes no patch_size; leave it out") from error
        return timm.create_model(name, in_chans=in_chans, num_classes=num_classes, **parts)


def _register(name: str) -> None:
    def create(pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
        if pretrained:
            raise ConfigError(f"no pretrained weights of {name} are shipped; create it without pretrained=True")
        return create_model(name, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}: {MODELS[name].source}."
    register_model(create)


for _name in MODELS:
    _register(_name)

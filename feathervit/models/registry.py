"""Models by name. Importing `feathervit.models` registers ours in timm, so `timm.create_model("mlit_xxs")` works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from ..config import EncoderConfig, RunConfig, from_dict, to_dict
from ..errors import ConfigError, UnknownNameError
from ..zoo import MODELS, spec
from .encoder import Encoder
from .mae import MaskedAutoencoder


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
        raise ConfigError(
            f"{name} has no setting {unknown[0]!r}; it has {', '.join(EncoderConfig.__dataclass_fields__)}"
        )
    config = from_dict(EncoderConfig, to_dict(replace(config, **parts)))  # Python checks no types: "readout" may be any
    return Encoder(config, img_size or known.img_size, patch_size or known.patch_size, in_chans, num_classes)


def build_model(config: RunConfig, in_chans: int, num_classes: int, train: bool = False) -> nn.Module:
    """The model of a resolved run configuration: the classifier, or the masked auto-encoder of a pre-training run.

    `train`: what the run trains, which in joint training is the auto-encoder whose encoder is the classifier.
    """
    arch = {"config": config.arch} if config.arch else {}
    sizes = {"img_size": config.img_size, "patch_size": config.patch_size, "in_chans": in_chans}
    pretraining = config.objective == "reconstruction"
    model = create_model(config.model, **sizes, num_classes=0 if pretraining else num_classes, **arch)
    if pretraining and isinstance(model, Encoder) and config.arch and config.arch.readout == "pool":
        model.readout.requires_grad_(
            False
        )  # its scores are in no reconstruction, and processes wait for every gradient
    masked = pretraining or (train and config.objective == "joint")
    return MaskedAutoencoder(model, config.mae) if masked else model


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

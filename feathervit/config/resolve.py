"""Resolves and checks a configuration: fills in the defaults of its model, and checks the bounds of its numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..errors import ConfigError
from .bounds import check_bounds
from .fields import from_dict, to_dict, with_fields
from .named import spec
from .runs import RunConfig

BETAS = {"adamw": (0.9, 0.999), "lion": (0.9, 0.99), "muon": (0.9, 0.95)}


def resolve(config: RunConfig) -> RunConfig:
    """Fills in the default image size, patch size and architecture of the model, and the betas of the optimiser.

    Raises UnknownNameError for an unknown model, and ConfigError for numbers out of bounds.
    """
    check_bounds(config)
    if config.optim.betas is None and config.optim.name in BETAS:
        config = replace(config, optim=replace(config.optim, betas=BETAS[config.optim.name]))
    if (
        len(config.images.mean) != len(config.images.std)
        or not all(0 < s < math.inf for s in config.images.std)
        or not all(map(math.isfinite, config.images.mean))
    ):
        raise ConfigError(
            f"images.mean and images.std must hold one finite value, or one per channel, and std must be above 0; got "
            f"{config.images.mean} and {config.images.std}"
        )
    if config.augment.sampling == config.loss.class_weights == "balanced":
        raise ConfigError("augment.sampling and loss.class_weights both balance the classes; leave one out")
    masked = config.objective in ("reconstruction", "joint")
    if masked and config.optim.layer_decay < 1:
        raise ConfigError(
            "optim.layer_decay is for fine-tuning, and a decoder is not one of the encoder's layers; leave it out"
        )
    if config.model.startswith("timm:"):
        if config.arch is not None:
            raise ConfigError(f"--arch has no effect on {config.model}: it applies only to our models")
        if masked:
            raise ConfigError(f"{config.model} cannot be masked: objective {config.objective} needs one of our models")
        return replace(config, img_size=config.img_size or 224)
    known = spec(config.model)
    mae = config.mae
    if masked:
        visible = 0.0 if config.objective == "joint" else 0.1
        visible = visible if mae.visible_weight is None else mae.visible_weight
        mae = replace(mae, decoder=mae.decoder or known.decoder, visible_weight=visible)
    return replace(
        config,
        mae=mae,
        arch=config.arch or known.config,
        img_size=config.img_size or known.img_size,
        patch_size=config.patch_size or known.patch_size,
    )


def check_channels(config: RunConfig, channels: int) -> None:
    """Raises ConfigError if the number of means and deviations differs from the number of channels."""
    if len(config.images.mean) not in (1, channels):
        raise ConfigError(
            f"images.mean and images.std hold {len(config.images.mean)} values but the images have {channels} channels; "
            "give one value, or one per channel"
        )


def imbalanced(sizes: Iterable[int]) -> bool:
    """Returns whether the sizes of the classes with images differ by more than 3 to 1. Balanced class weights then help."""
    some = [size for size in sizes if size]
    return bool(some) and max(some) > 3 * min(some)


def check_effect(config: RunConfig, fields: Iterable[str]) -> None:
    """Raises ConfigError for a field that was set but has no effect in this configuration."""
    augment, optim = config.augment, config.optim
    moe = any(_field(config, f"{half}.feedforward.experts") for half in ("arch", "mae.decoder"))
    distils, labelled = config.objective == "distillation", config.objective != "reconstruction"
    mixes, cuts = augment.mixup > 0, augment.cutmix > 0
    layers = config.arch is None or config.arch.depth > 0
    rules = (  # beginnings of the names of fields, whether these fields have an effect, what they need
        ("augment.rand_", augment.policy == "rand", "augment.policy rand"),
        ("augment.fill", augment.policy != "none", "augment.policy"),
        (("augment.crop_scale", "augment.crop_ratio"), augment.crop == "resized", "augment.crop resized"),
        ("augment.crop_filter", augment.crop == "resized", "augment.crop resized"),
        ("augment.crop_padding", augment.crop == "pad", "augment.crop pad"),
        ("augment.erasing_", augment.erasing > 0, "augment.erasing above 0"),
        ("augment.mix_prob", mixes or cuts, "augment.mixup or augment.cutmix above 0"),
        ("augment.switch_prob", mixes and cuts, "both augment.mixup and augment.cutmix above 0"),
        ("optim.eps", optim.name in ("adamw", "muon"), "optim.name adamw or muon"),
        (("optim.adamw_lr", "optim.matrix_rate"), optim.name == "muon", "optim.name muon"),
        ("optim.betas", optim.name in BETAS, f"optim.name {', '.join(BETAS)}"),
        ("optim.momentum", optim.name == "sgd", "optim.name sgd"),
        ("loss.moe", moe, "a model with experts"),
        (("teacher", "loss.teacher_share", "loss.temperature"), distils, "objective distillation"),
        ("loss.label_share", config.objective == "joint", "objective joint"),
        (("loss.label_smoothing", "loss.class_weights"), labelled, "an objective with labels, not reconstruction"),
        (("augment.sampling", "reading.classes"), labelled, "an objective with labels, not reconstruction"),
        ("mae.", config.objective in ("reconstruction", "joint"), "objective reconstruction or joint"),
        (("arch.attention", "arch.feedforward", "arch.drop_path_rate"), layers, "layers, arch.depth above 0"),
        ("optim.matrix_rate", layers, "layers, arch.depth above 0"),
    )
    for name in fields:
        for beginning, has_effect, requirement in rules:
            if name.startswith(beginning) and not has_effect:
                raise ConfigError(f"{name} has no effect here: it needs {requirement}; leave it out")


def _field(config: Any, name: str) -> Any:
    """Returns a field by its dotted name, or None if the part has no such field."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return config


def set_fields(config: RunConfig, fields: dict[str, Any]) -> RunConfig:
    """Sets fields by dotted name, including `arch` of a named model. Raises ConfigError for an invalid name or type."""
    fields = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in fields.items()}
    if not isinstance(fields.get("model", ""), str):
        raise ConfigError(f"model must be a name, got {fields['model']!r:.80}")
    if any(name.startswith("mae.decoder.") for name in fields) and config.mae.decoder is None:
        decoder = spec(fields.get("model", config.model)).decoder
        config = replace(config, mae=replace(config.mae, decoder=decoder))
    if any(name.startswith("arch.") for name in fields):
        model = fields.get("model", config.model)
        if model.startswith("timm:"):
            raise ConfigError(f"--arch has no effect on {model}: it applies only to our models")
        if config.arch is None or model != config.model:
            config = replace(config, arch=spec(model).config)
    elif "model" in fields and fields["model"] != config.model and "arch" not in fields:
        config = replace(config, arch=None)  # another model has its own architecture
    return from_dict(RunConfig, to_dict(with_fields(config, **fields)))

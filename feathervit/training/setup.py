"""What is chosen before a run starts, each choice with its reason for the banner: device, precision, sizes."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from ..config import RunConfig
from ..errors import ConfigError
from ..fields import from_dict, to_dict, with_fields
from ..zoo import spec

# The least and the most a field may be. What the parts of a model check themselves is not here.
BOUNDS: dict[str, tuple[float, float]] = {
    "lr": (0, math.inf),
    "images.channels": (1, 1024),
    "images.stored_size": (1, 4096),
    "split.seed": (0, 2**32 - 1),
    "optim.lr_batch": (0, math.inf),
    "optim.weight_decay": (0, math.inf),
    "optim.warmup_epochs": (0, math.inf),
    "optim.min_lr": (0, math.inf),
    "optim.clip_grad": (0, math.inf),
    "optim.eps": (0, math.inf),
    "optim.ema": (0, 1),
    "loss.moe": (0, math.inf),
    "loss.label_share": (0, 1),
    "loss.teacher_share": (0, 1),
    "loss.temperature": (1e-3, 1e3),
    "mae.mask_ratio": (0, 1),
    "mae.visible_weight": (0, math.inf),
    "mae.decoder.dim": (1, 16_384),
    "mae.decoder.depth": (1, 1_000),
    "mae.decoder.drop_path_rate": (0, 1),
    "mae.decoder.feedforward.dropout": (0, 1),
    "mae.decoder.feedforward.ratio": (0, 1024),
    "mae.decoder.feedforward.importance_weight": (0, math.inf),
    "mae.decoder.feedforward.load_weight": (0, math.inf),
    "arch.dim": (1, 16_384),
    "arch.depth": (0, 1_000),
    "arch.drop_rate": (0, 1),
    "arch.drop_path_rate": (0, 1),
    "arch.feedforward.dropout": (0, 1),
    "arch.feedforward.ratio": (0, 1024),
    "arch.feedforward.importance_weight": (0, math.inf),
    "arch.feedforward.load_weight": (0, math.inf),
}


def choose_device(asked: str) -> tuple[torch.device, str]:
    """The device to run on and why. Raises ConfigError when the asked one is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if available[n])
        why = "the fastest there is" if name != "cpu" else f"no CUDA or MPS device; {torch.get_num_threads()} threads"
    elif not available[asked]:
        raise ConfigError(f"--device {asked}: PyTorch finds no such device here; use --device auto or cpu")
    else:
        name, why = asked, "asked for"
    if name == "cuda":
        why += f", {torch.cuda.get_device_name()}"
    return torch.device(name), why


def choose_precision(asked: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The autocast type and why: bfloat16 where the GPU has it, float16 on older ones, float32 elsewhere."""
    if asked != "auto":
        if asked == "float16" and device.type == "cpu":
            raise ConfigError("--precision float16 does not train on the CPU; use float32 or bfloat16")
        return getattr(torch, asked), "asked for"
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "the GPU has it") if bf16 else (torch.float16, "the GPU has no bfloat16")
    return torch.float32, "mixed precision is not faster on MPS" if device.type == "mps" else "asked of a trial step"


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to `dtype` on a GPU. On the CPU layers cast by themselves (`models.fast.accelerate`), which is faster."""
    plain = dtype == torch.float32 or device.type == "cpu"
    return contextlib.nullcontext() if plain else torch.autocast(device.type, dtype)


def resolve(config: RunConfig) -> RunConfig:
    """The configuration with the model's own image size, patch size and architecture written out.

    Raises UnknownNameError for a model, ConfigError for numbers that cannot work.
    """
    for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1)):
        if getattr(config, name) < least:
            raise ConfigError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if config.patience < 0:
        raise ConfigError(f"patience must be at least 0 (0: never stop early), got {config.patience}")
    for name in ("img_size", "patch_size"):
        value = getattr(config, name)
        if value is not None and not 1 <= value <= 4096:
            raise ConfigError(f"{name} must be from 1 to 4096 pixels, got {value}")
    if not 0 <= config.loss.label_smoothing < 1:
        raise ConfigError(f"label smoothing must be in [0, 1), got {config.loss.label_smoothing}")
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise ConfigError(f"optim.betas must be in [0, 1), got {config.optim.betas}")
    for name, (least, most) in BOUNDS.items():
        value = _field(config, name)
        if value is not None and not (least <= value <= most and value < math.inf):  # so also for what is no number
            between = f"finite and at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise ConfigError(f"{name} must be {between}, got {value}")
    if (
        len(config.images.mean) != len(config.images.std)
        or not all(0 < s < math.inf for s in config.images.std)
        or not all(map(math.isfinite, config.images.mean))
    ):
        raise ConfigError(
            f"images.mean and images.std must hold one finite value, or one a channel, and std be above 0; got "
            f"{config.images.mean} and {config.images.std}"
        )
    masked = config.objective in ("reconstruction", "joint")
    if masked and config.optim.layer_decay < 1:
        raise ConfigError(
            "optim.layer_decay is for fine-tuning: a decoder has no place among the encoder's layers; leave it out"
        )
    if config.model.startswith("timm:"):
        if config.arch is not None:
            raise ConfigError(f"--arch has no effect on {config.model}: it describes our own models")
        if masked:
            raise ConfigError(
                f"{config.model} cannot be masked: objective {config.objective} needs one of our own models"
            )
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
    """Raises ConfigError where mean and std are given for another number of channels than the pictures have."""
    if len(config.images.mean) not in (1, channels):
        raise ConfigError(
            f"images.mean and images.std hold {len(config.images.mean)} values but the pictures have {channels} channels; "
            "give one value, or one a channel"
        )


def check_effect(config: RunConfig, fields: Iterable[str]) -> None:
    """Raises ConfigError for a field that was asked for and changes nothing in this configuration."""
    augment, optim = config.augment, config.optim
    moe = any(_field(config, f"{half}.feedforward.experts") for half in ("arch", "mae.decoder"))
    needs = {
        "augment.rand_ops": (augment.policy == "rand", "augment.policy rand"),
        "augment.rand_magnitude": (augment.policy == "rand", "augment.policy rand"),
        "augment.crop_scale": (augment.crop == "resized", "augment.crop resized"),
        "augment.crop_ratio": (augment.crop == "resized", "augment.crop resized"),
        "augment.crop_padding": (augment.crop == "pad", "augment.crop pad"),
        "augment.erasing_scale": (augment.erasing > 0, "augment.erasing above 0"),
        "augment.mix_prob": (augment.mixup > 0 or augment.cutmix > 0, "augment.mixup or augment.cutmix above 0"),
        "augment.switch_prob": (
            augment.mixup > 0 and augment.cutmix > 0,
            "both augment.mixup and augment.cutmix above 0",
        ),
        "optim.eps": (optim.name == "adamw", "optim.name adamw"),
        "loss.moe": (moe, "a model with experts"),
        "teacher": (config.objective == "distillation", "objective distillation"),
        "loss.teacher_share": (config.objective == "distillation", "objective distillation"),
        "loss.temperature": (config.objective == "distillation", "objective distillation"),
        "loss.label_share": (config.objective == "joint", "objective joint"),
        "loss.label_smoothing": (config.objective != "reconstruction", "labels: another objective than reconstruction"),
        "loss.class_weights": (config.objective != "reconstruction", "labels: another objective than reconstruction"),
        "split.fold": (config.split.folds > 0, "split.folds"),
    }
    for name in fields:
        holds, what = needs.get(name, (True, ""))
        if name.startswith("mae.") and config.objective in ("classification", "distillation"):
            holds, what = False, "objective reconstruction or joint"
        if not holds:
            raise ConfigError(f"{name} has no effect here: it needs {what}; leave it out")


def _field(config: Any, name: str) -> Any:
    """A field by its dotted name; None where the part has no such field."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return config


def set_fields(config: RunConfig, fields: dict[str, Any]) -> RunConfig:
    """`with_fields`, where a field of `arch` may be set on a model that is named only. Raises ConfigError also for types."""
    fields = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in fields.items()}
    if not isinstance(fields.get("model", ""), str):
        raise ConfigError(f"model must be a name, got {fields['model']!r:.80}")
    if any(name.startswith("mae.decoder.") for name in fields) and config.mae.decoder is None:
        decoder = spec(fields.get("model", config.model)).decoder
        config = replace(config, mae=replace(config.mae, decoder=decoder))
    if any(name.startswith("arch.") for name in fields):
        model = fields.get("model", config.model)
        if model.startswith("timm:"):
            raise ConfigError(f"--arch has no effect on {model}: it describes our own models")
        if config.arch is None or model != config.model:
            config = replace(config, arch=spec(model).config)
    elif "model" in fields and fields["model"] != config.model and "arch" not in fields:
        config = replace(config, arch=None)  # another model brings its own
    return from_dict(RunConfig, to_dict(with_fields(config, **fields)))

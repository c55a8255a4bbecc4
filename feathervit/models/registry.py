"""Creates models by name: our models, and models of timm as `timm:NAME`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import timm
from timm.models import is_model_pretrained
from torch import nn

from ..checkpoint import load_weights
from ..config import MODELS, EncoderConfig, RunConfig, architecture, from_dict, spec, to_dict
from ..config.bounds import check_bounds
from ..errors import ConfigError, UnknownNameError
from ..weights import list_weights, shipped_file
from .contract import side
from .encoder import Encoder
from .mae import MaskedAutoencoder
from .starting import start_from


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    img_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_chans: int | None = None,
    num_classes: int | None = None,
    global_pool: str | None = None,
    config: EncoderConfig | None = None,
    **parts: Any,
) -> nn.Module:
    """Creates a model by name: one of our models, or any model of timm as `timm:NAME`.

    - `img_size` and `patch_size` default to those of the named model, `in_chans` to 3 and `num_classes` to 100.
    - `global_pool` is as in `reset_classifier`.
    - `config` replaces the named configuration. `parts` replace fields of it (`drop_path_rate=0.1`), or of its attention,
      feed-forward and patches (`kv_heads=1`).
    - `pretrained` loads weights of the package: "mlit_nano.digits" selects them by name, "mlit_nano" selects the first weights
      of that model. The defaults are then those of the weights. A different number of classes requires a new head.

    Raises UnknownNameError for unknown names, and ConfigError or CheckpointError for incompatible sizes.
    """
    img_size = None if img_size is None else side(img_size)
    name, _, tag = name.partition(".") if not name.startswith("timm:") else (name, "", "")
    if tag or (pretrained and name in MODELS):
        sizes = {"img_size": img_size, "patch_size": patch_size, "in_chans": in_chans, "num_classes": num_classes}
        if config is not None:
            raise ConfigError(f"weights of {name} have their own configuration; leave config out")
        return _with_weights(name, tag, pretrained, sizes, parts | {"global_pool": global_pool})
    in_chans, num_classes = 3 if in_chans is None else in_chans, 100 if num_classes is None else num_classes
    if name.startswith("timm:"):
        parts |= {"pretrained": True} if pretrained else {}
        parts |= {"global_pool": global_pool} if global_pool is not None else {}
        return _timm_model(name.removeprefix("timm:"), img_size, patch_size, in_chans, num_classes, parts)
    known = spec(name)
    config = config or known.config
    config = from_dict(EncoderConfig, to_dict(_replaced(name, config, parts)))  # checks the types of `parts`
    check_bounds(config)
    img_size = known.img_size if img_size is None else img_size
    patch_size = known.patch_size if patch_size is None else patch_size
    model = Encoder(config, img_size, patch_size, in_chans, num_classes, global_pool)
    cfg = described(RunConfig(img_size=img_size), in_chans, num_classes)
    model.pretrained_cfg = {**cfg, "architecture": name, "tag": ""}
    return model


def _replaced(name: str, config: EncoderConfig, parts: dict[str, Any]) -> EncoderConfig:
    """Replaces fields of a configuration or of one of its parts. Raises ConfigError for a field unknown or without effect."""
    direct = {field: value for field, value in parts.items() if field in EncoderConfig.__dataclass_fields__}
    config = replace(config, **direct)
    if not config.depth and direct.get("drop_path_rate"):
        raise ConfigError(f"drop_path_rate has no effect in {name}, which has no layers; leave it out")
    for field, value in parts.items():
        if field in direct:
            continue
        kinds = {part: getattr(config, part) for part in ("attention", "feedforward", "patches")}
        owners = [part for part, kind in kinds.items() if field in getattr(kind, "__dataclass_fields__", ())]
        if len(owners) != 1:
            inner = [f for kind in kinds.values() for f in getattr(kind, "__dataclass_fields__", ())]
            known = ", ".join([*EncoderConfig.__dataclass_fields__, *dict.fromkeys(inner)])
            raise ConfigError(f"{name} has no setting {field!r}; it has {known}")
        if not config.depth and owners[0] != "patches":
            raise ConfigError(f"{field} has no effect in {name}, which has no layers; leave it out")
        config = replace(config, **{owners[0]: replace(kinds[owners[0]], **{field: value})})
    return config


def build_model(
    config: RunConfig, in_chans: int, num_classes: int, train: bool = False, pretrained: bool = False
) -> nn.Module:
    """Builds the model of a resolved run configuration: a classifier, or the masked auto-encoder of a pre-training run.

    `train`: build the model for training. In joint training, this is the auto-encoder whose encoder is the classifier.
    `pretrained`: load the weights in the model name (see `named_weights`).
    """
    arch = {"config": config.arch} if config.arch else {}
    sizes = {"img_size": config.img_size, "patch_size": config.patch_size, "in_chans": in_chans}
    pretraining = config.objective == "reconstruction"
    classes = 0 if pretraining else num_classes
    model = create_model(config.model, **sizes, num_classes=classes, pretrained=pretrained, **arch)
    if pretraining and isinstance(model, Encoder) and config.arch and config.arch.readout == "pool":
        # Reconstruction does not use the scores, and distributed training waits for the gradients of all parameters.
        model.readout.requires_grad_(False)
    masked = pretraining or (train and config.objective == "joint")
    return MaskedAutoencoder(model, config.mae) if masked else model


def _with_weights(name: str, tag: str, pretrained: bool, sizes: dict[str, Any], parts: dict[str, Any]) -> nn.Module:
    """Builds the model of weights in the package, and loads them if `pretrained`."""
    spec(name)
    if not tag and not list_weights(name):
        raise ConfigError(f"the package has no pretrained weights of {name}; create it without pretrained=True")
    tagged = f"{name}.{tag}" if tag else list_weights(name)[0]
    stored = load_weights(shipped_file(tagged))
    defaults = {"img_size": stored.config.img_size, "patch_size": stored.config.patch_size}
    defaults |= {"in_chans": stored.in_chans, "num_classes": len(stored.class_names)}
    model = create_model(
        name, config=stored.config.arch, **{k: defaults[k] if v is None else v for k, v in sizes.items()}, **parts
    )
    if not pretrained:
        return model
    start_from(model, shipped_file(tagged))
    if model.num_classes == defaults["num_classes"]:
        model.load_state_dict({k: v for k, v in stored.weights.items() if k.startswith("head.")}, strict=False)
    shape = (sizes["in_chans"] or stored.in_chans, *[sizes["img_size"] or stored.config.img_size] * 2)
    cfg = described(stored.config, stored.in_chans, len(stored.class_names))
    model.pretrained_cfg = {**cfg, "architecture": name, "tag": tagged.partition(".")[2], "input_size": shape}
    return model


def described(config: RunConfig, in_chans: int, num_classes: int) -> dict[str, Any]:
    """Returns the fields of timm's PretrainedCfg for our weights."""
    images = config.images
    return {
        "input_size": (in_chans, config.img_size, config.img_size),
        "fixed_input_size": True,
        "num_classes": num_classes,
        "mean": images.mean,
        "std": images.std,
        "crop_pct": 1.0,
        "crop_mode": {"crop": "center", "pad": "border", "stretch": "squash"}[images.fit],
        "interpolation": "bilinear",
        "classifier": "head",
        "first_conv": "patch_embed.proj",
    }


# ---------------------------------------------------------------------------------------------------------------------
# timm's models


def _timm_model(name: str, img_size, patch_size, in_chans: int, num_classes: int, parts: dict) -> nn.Module:
    known = architecture(name)
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    if known != name and not is_model_pretrained(name):
        raise UnknownNameError(
            "weights of timm", name, timm.list_pretrained(known), f"timm:{known} starts from scratch"
        )
    options = {"in_chans": in_chans, "num_classes": num_classes, **parts}
    try:
        with _quiet_hub():
            try:
                model = timm.create_model(name, img_size=img_size, patch_size=patch_size, **options)
            except TypeError as error:
                # Convolutional models have no img_size, because they accept any size. A patch size would have no effect.
                if "img_size" not in str(error) and "patch_size" not in str(error):
                    raise
                if patch_size is not None:
                    raise ConfigError(f"timm:{name} does not accept patch_size; leave it out") from error
                model = timm.create_model(name, **options)
    except ConfigError:
        raise
    except Exception as error:  # the exception depends on the network, the hub and the file
        if not options.get("pretrained"):
            raise
        raise ConfigError(
            f"the weights of timm:{name} cannot be loaded from the Hugging Face hub or its cache: {error}; timm:{known} "
            "starts from scratch"
        ) from error
    # Not all registered models set it.
    model.pretrained_cfg = {**getattr(model, "pretrained_cfg", {}), "architecture": known}
    return model


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Suppresses the hub's log lines for each attempt. The raised error contains the cause."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

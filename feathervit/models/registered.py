"""Registers our models in timm, so that `timm.create_model("mlit_xxs")` works after `import feathervit.models`.

timm has four ways to select weights, and all of them work: a tag ("mlit_nano.digits"), a `pretrained_cfg`, an overlay of it
(timm's --pretrained-path), and a folder or a repository of the hub ("local-dir:FOLDER", "hf-hub:OWNER/NAME").
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    build_model_with_cfg,
    get_pretrained_cfg,
    load_pretrained,
    register_model,
)
from torch import Tensor, nn

from ..checkpoint import load_weights
from ..config import MODELS, EncoderConfig, ResidualStemConfig, RunConfig, from_dict, spec
from ..errors import CheckpointError
from ..weights import list_weights, shipped_file, shipped_header
from .registry import create_model, described
from .starting import fitted

SOURCES = ("file", "url", "hf_hub_id", "state_dict")  # fields of timm's PretrainedCfg with the location of weights
WORDS = {*inspect.signature(create_model).parameters, *EncoderConfig.__dataclass_fields__}


def _default_cfg(name: str) -> DefaultCfg:
    """Returns timm's configuration of a model: first without weights, then with each of its weights in the package."""
    known = spec(name)
    cfgs = {"": PretrainedCfg(**described(RunConfig(img_size=known.img_size), 3, 100))}
    for tagged in list_weights(name):
        header = shipped_header(tagged)
        config = from_dict(RunConfig, header["config"])
        cfg = described(config, header["in_chans"], len(header["class_names"]))
        cfgs[tagged.partition(".")[2]] = PretrainedCfg(**cfg, file=str(shipped_file(tagged)))
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs, is_pretrained=len(cfgs) > 1)


def _create(
    name: str,
    pretrained: bool = False,
    pretrained_cfg: str | dict | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict | None = None,
    cache_dir: Any = None,
    pretrained_model_args: dict | None = None,
    device: Any = None,
    dtype: torch.dtype | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    feature_cls: Any = "getter",
    **words: Any,
) -> nn.Module:
    """Builds one of our models for timm.

    Loads weights from the location in `pretrained_cfg` and its overlay, else from the package. `features_only`: the returned
    module outputs the levels `out_indices` (by default the last three) as [B, D, G, G]. Raises TypeError for unknown
    arguments, and CheckpointError for weights that are not available or do not match.
    """
    if unknown := sorted(set(words) - WORDS):
        raise TypeError(f"{name} got an unexpected argument {unknown[0]!r}")
    tag = pretrained_cfg if isinstance(pretrained_cfg, str) else ""
    cfg = asdict(pretrained_cfg) if is_dataclass(pretrained_cfg) else {} if tag else dict(pretrained_cfg or {})
    cfg |= pretrained_cfg_overlay or {}
    elsewhere = any(cfg.get(key) for key in SOURCES)
    for tagged in list_weights(name):
        if cfg.get("file") == str(shipped_file(tagged)):  # these weights define the architecture
            tag, elsewhere = tagged.partition(".")[2], False
    if cfg.get("input_size"):
        channels, _, width = cfg["input_size"]
        words = {"in_chans": channels, **({"img_size": width} if cfg.get("fixed_input_size") else {}), **words}
    if (cfg.get("num_classes") or 0) > 0:
        words = {"num_classes": cfg["num_classes"], **words}
    if isinstance(words.get("config"), dict):  # from JSON: timm writes the arguments of a model with its weights
        words["config"] = from_dict(EncoderConfig, words["config"], "config")
    if pretrained and elsewhere and cfg.get("file"):
        words = {**_patch_size(cfg["file"]), **words}
    with torch.device(device) if device is not None else nullcontext():
        model = create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained and not elsewhere, **words)
    if pretrained and elsewhere:
        cfg = {"num_classes": model.num_classes, "classifier": "head", **cfg, "first_conv": None}  # for `_taken`
        try:
            load_pretrained(model, cfg, model.num_classes, filter_fn=_taken, cache_dir=cache_dir)
        except CheckpointError:
            raise
        except Exception as error:  # the exception depends on the source and the file format
            place = next(str(cfg[key]) for key in SOURCES if cfg.get(key))
            raise CheckpointError(
                f"the weights of {name} at {place:.200} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
    if pretrained and not (tag or elsewhere):
        tag = list_weights(name)[0].partition(".")[2]
    known = get_pretrained_cfg(f"{name}.{tag}" if tag else name).to_dict()
    shown = {key: value for key, value in cfg.items() if key != "state_dict"}
    # timm's data loaders make images of this shape.
    sizes = {"input_size": (model.in_chans, *(known | shown)["input_size"][1:])}
    # The model exists already: this call adds timm's attributes and the wrapper for features.
    return build_model_with_cfg(
        lambda **_: model.to(dtype=dtype),
        name,
        pretrained=False,
        pretrained_cfg=known | shown | sizes | {"architecture": name},
        pretrained_model_args=pretrained_model_args,
        img_size=model.patch_embed.img_size,
        features_only=features_only,
        out_indices=min(3, len(model.feature_info)) if out_indices is None else out_indices,
        feature_cls=feature_cls,
    )


def _patch_size(file: Any) -> dict[str, int]:
    """Returns the patch size of a weights file of this package: a residual stem accepts the weights with any patch size."""
    try:
        stored = load_weights(file).config
    except CheckpointError:  # a file of another kind, which timm reads
        return {}
    fits_any = stored.arch is not None and isinstance(stored.arch.patches, ResidualStemConfig)
    return {"patch_size": stored.patch_size} if fits_any else {}


def _taken(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights for timm's loader. From a pre-training run, these are the weights of the encoder."""
    if any(name.startswith("encoder.") for name in weights):
        weights = {n.removeprefix("encoder."): t for n, t in weights.items() if n.startswith("encoder.")}
    if unknown := sorted(set(weights) - set(model.state_dict()) - {"head.weight"}):
        raise CheckpointError(f"the weights have {unknown[0]}, but the model does not; choose the same model")
    return fitted(model, weights, "the weights")


def _register(name: str) -> None:
    def create(pretrained: bool = False, **words: Any) -> nn.Module:
        return _create(name, pretrained, **words)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}: {MODELS[name].source}."
    register_model(create)


default_cfgs = {name: _default_cfg(name) for name in MODELS}  # `register_model` reads this name
for _name in MODELS:
    _register(_name)

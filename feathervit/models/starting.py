"""Starts a new run from the weights of another run: loads the matching tensors, and reports them.

In contrast, `--resume` continues a stopped run.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from timm.models import adapt_input_conv
from torch import Tensor, nn

from ..checkpoint import Checkpoint, load_weights
from ..config import architecture, changed
from ..errors import CheckpointError
from .embed import ResidualStem
from .encoder import Encoder
from .mae import MaskedAutoencoder
from .readout import classifiers

# Fields of an architecture that do not affect the weights.
NO_WEIGHTS = ("dropout", "drop_rate", "drop_path_rate", "importance_weight", "load_weight", "balance")


def start_from(model: nn.Module, path: str | Path, class_names: tuple[str, ...] = ()) -> list[str]:
    """Loads the encoder of a checkpoint into `model`. Returns lines for the banner.

    The head is loaded if the checkpoint's classes are `class_names`, in this order. Otherwise, the head of `model` stays new.
    The decoder of a pre-training run is dropped, unless `model` is an auto-encoder with the same decoder. Positions are resized
    for another image size. The patch projection is adapted to another number of channels: a grey image equals a colour image
    with equal channels. Raises CheckpointError if architecture or patch size differ.
    """
    checkpoint = load_weights(path)
    target = model.encoder if isinstance(model, MaskedAutoencoder) else model
    _check(target, checkpoint, path)
    target_prefix = "encoder." if target is not model else ""
    prefix = "encoder." if checkpoint.config.objective == "reconstruction" else ""
    weights = {n.removeprefix(prefix): t for n, t in checkpoint.weights.items() if n.startswith(prefix)}
    weights = fitted(target, weights, path)
    same_classes = class_names and class_names == checkpoint.class_names
    head = set() if same_classes else head_weights(target)
    loadable = {f"{target_prefix}{n}": t for n, t in weights.items() if n not in head}
    loadable |= {n: t for n, t in checkpoint.weights.items() if prefix and not n.startswith(prefix)}
    state = model.state_dict()
    matching = {n: t for n, t in loadable.items() if n in state and t.shape == state[n].shape}
    model.load_state_dict(matching, strict=False)
    names = {_renamed(n, target_prefix, prefix): n for n in matching}  # in the file -> in the model
    resized = sorted(old for old, new in names.items() if checkpoint.weights[old].shape != state[new].shape)
    return [
        f"start      {path}: {len(matching)} tensors loaded"
        + (f", of these resized {', '.join(resized)}" if resized else "")
        + f"; not used: {_listed(set(checkpoint.weights) - set(names))}; new: {_listed(set(state) - set(matching))}"
    ]


def _renamed(name: str, before: str, after: str) -> str:
    return after + name.removeprefix(before) if name.startswith(before) else name


def _listed(names: set[str]) -> str:
    """Formats names: up to four in full, otherwise counts per part of the model."""
    if len(names) <= 4:
        return ", ".join(sorted(names)) or "none"
    parts = Counter(re.split(r"[._]", name)[0] for name in names)
    return ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items()))


def _check(model: nn.Module, checkpoint: Checkpoint, path: str | Path) -> None:
    if isinstance(model, Encoder):
        arch = checkpoint.config.arch
        differ = changed(arch, model.config) if arch else {"model": ("timm", "ours")}
        differ = {k: v for k, v in differ.items() if not k.endswith(NO_WEIGHTS)}
        before, after = checkpoint.config.patch_size, model.patch_embed.patch_size
        if before != after and not isinstance(model.patch_embed, ResidualStem):  # whose weights fit all its patch sizes
            differ["patch_size"] = (before, after)
        if differ:
            texts = [f"{name} is {before} there, {after} here" for name, (before, after) in list(differ.items())[:4]]
            raise CheckpointError(
                f"cannot start from {path}: {'; '.join(texts)}; leave out these settings to "
                "take the model, its parts and the patch size from the weights"
            )
    elif architecture(checkpoint.config.model) != model.pretrained_cfg["architecture"]:
        raise CheckpointError(f"cannot start from {path}: it holds {checkpoint.config.model}; choose the same model")


def fitted(model: nn.Module, weights: dict[str, Tensor], where: str | Path) -> dict[str, Tensor]:
    """Adapts the positions and the patch projection in `weights` to the sizes of the model. Does not change the head.

    Raises CheckpointError if a tensor of the model is missing or has another shape.
    """
    weights = _resized(model, weights)
    head = head_weights(model)
    sizes = {n: t.shape for n, t in model.state_dict().items() if n not in head}
    if missing := sorted(set(sizes) - set(weights)):
        raise CheckpointError(f"cannot start from {where}: {missing[0]} is missing there; choose the same model")
    for name, shape in sizes.items():
        if weights[name].shape != shape:
            raise CheckpointError(
                f"cannot start from {where}: {name} is {list(weights[name].shape)} there, {list(shape)} here; choose the same "
                "model, sizes and channels"
            )
    return weights


def _resized(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(model, Encoder) or "patch_embed.proj.weight" not in weights:
        return weights
    weights = model.adapt(weights)
    projection = weights["patch_embed.proj.weight"]
    channels = model.patch_embed.proj.in_channels
    if projection.shape[1] == 1:  # grey to colour: divide equally, so that equal channels give the same tokens
        projection = projection.repeat(1, channels, 1, 1) / channels
    elif projection.shape[1] != channels:
        if projection.shape[1] != 3:
            raise CheckpointError(f"the weights are for {projection.shape[1]} channels, but the model takes {channels}")
        projection = adapt_input_conv(channels, projection)
    return {**weights, "patch_embed.proj.weight": projection}


def head_weights(model: nn.Module) -> set[str]:
    """Returns the names of the weights of the classifier."""
    heads = [prefix for prefix, module in model.named_modules() if module in classifiers(model)]
    return {name for name in model.state_dict() if any(name.startswith(f"{h}.") for h in heads)}

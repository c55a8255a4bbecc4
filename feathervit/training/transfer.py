"""Starting from the weights of another run: what fits is taken, and what was taken, left and new is told.

To start from weights is to begin a new run; to go on with a stopped one is `--resume`.
"""

from __future__ import annotations

from pathlib import Path

from timm.models import adapt_input_conv
from torch import Tensor, nn

from ..config import changed
from ..errors import CheckpointError
from ..models import Encoder
from .checkpoint import load_weights


def start_from(model: nn.Module, path: str | Path) -> list[str]:
    """Loads a checkpoint's encoder into `model`, which keeps its own new head; returns lines that say what was done.

    Positions are resized to another image size. The patch projection takes another number of channels: grey pictures are
    seen as colour ones with equal channels. Raises CheckpointError where the architectures or patch sizes differ.
    """
    checkpoint = load_weights(path)
    own = model.state_dict()
    if isinstance(model, Encoder):
        differ = (
            changed(checkpoint.config.arch, model.config) if checkpoint.config.arch else {"model": ("timm", "ours")}
        )
        differ = {k: v for k, v in differ.items() if not k.endswith(("dropout", "drop_rate", "drop_path_rate"))}
        if checkpoint.config.patch_size != model.patch_embed.patch_size:
            differ["patch_size"] = (checkpoint.config.patch_size, model.patch_embed.patch_size)
        if differ:
            texts = [f"{name} is {before} there, {after} here" for name, (before, after) in list(differ.items())[:4]]
            raise CheckpointError(f"cannot start from {path}: {'; '.join(texts)}; choose the same model and patch size")
    elif checkpoint.config.model.removeprefix("timm:") not in str(
        getattr(model, "pretrained_cfg", {}).get("architecture")
    ):
        raise CheckpointError(f"cannot start from {path}: it holds {checkpoint.config.model}; choose the same model")
    weights = _fitted(model, checkpoint.weights)
    head = {name for name in own if isinstance(model, Encoder) and name.startswith("head.")} or _classifier(model)
    taken = {n: t for n, t in weights.items() if n in own and n not in head and t.shape == own[n].shape}
    model.load_state_dict(taken, strict=False)
    left = sorted(set(checkpoint.weights) - set(taken))
    new = sorted(set(own) - set(taken))
    resized = sorted(n for n in taken if checkpoint.weights[n].shape != taken[n].shape)
    return [
        f"start      {path}: {len(taken)} tensors taken"
        + (f", of these resized {', '.join(resized)}" if resized else "")
        + f"; left there: {', '.join(left) or 'none'}; new here: {', '.join(new) or 'none'}"
    ]


def _fitted(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with positions and patch projection brought to the model's sizes."""
    if not isinstance(model, Encoder):
        return weights
    weights = model.adapt(weights)
    projection = weights["patch_embed.proj.weight"]
    channels = model.patch_embed.proj.in_channels
    if projection.shape[1] == 1:  # grey to colour: each channel a share, so that equal channels give the same tokens
        projection = projection.repeat(1, channels, 1, 1) / channels
    elif projection.shape[1] != channels:
        if projection.shape[1] != 3:
            raise CheckpointError(f"cannot start from weights for {projection.shape[1]} channels with {channels} here")
        projection = adapt_input_conv(channels, projection)
    return {**weights, "patch_embed.proj.weight": projection}


def _classifier(model: nn.Module) -> set[str]:
    classifier = model.get_classifier()
    heads = [prefix for prefix, module in model.named_modules() if module is classifier]
    return {name for name in model.state_dict() if any(name.startswith(f"{h}.") for h in heads)}

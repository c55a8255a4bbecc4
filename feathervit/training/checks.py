"""Checks a run before its first step: memory, batch norm, and starting weights that know the validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..checkpoint import load_weights, weights_file
from ..config import RunConfig
from ..data import DataSplits
from ..errors import ConfigError
from ..files import same_data
from ..models import build_model
from ..results import machine, trained_on
from .display import say

if TYPE_CHECKING:
    from rich.console import Console


def warn_of_known(config: RunConfig, data: DataSplits, console: Console) -> None:
    """Prints a warning if the starting weights were trained on labels of validation images."""
    stored = load_weights(config.start_from)
    if data.val is None or not stored.class_names or not same_data(config.data, stored.config.data):
        return
    known = trained_on(weights_file(config.start_from)).intersection(data.val.sources)
    if known:
        say(
            console,
            f"warning: {config.start_from} was trained on {len(known)} of the {len(data.val)} validation images: the "
            "validation accuracy is too high",
        )


def check_memory(config: RunConfig, channels: int, classes: int) -> None:
    """Raises ConfigError if one of our models exceeds the memory: the kernel would kill the process without a message."""
    memory = machine()["memory_gib"]
    if config.arch is None or memory is None:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # allocates no memory
        parameters = sum(p.numel() for p in build_model(config, channels, classes, train=True).parameters())
    needed = 4 * 4 * parameters / 2**30  # weights, gradients and two moments, 4 bytes each
    if needed > memory:
        raise ConfigError(
            f"{config.model} with these settings has {parameters:.3g} parameters; training needs {needed:,.0f} GiB of memory "
            f"for them and this machine has {memory:g}"
        )


def check_batch_norm(config: RunConfig, model: nn.Module, images: int, world: int) -> None:
    """Raises ConfigError for batch norm with micro-batches of one image, which have no variance."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    shares, views = world * config.accumulate, config.augment.repeats
    smallest = views * min(config.batch_size // (shares * views), -(-images // shares))  # as in the sampler
    if smallest != 1 or not any(isinstance(module, kinds) for module in model.modules()):
        return
    if images > shares:
        advice = f"give --batch-size {2 * shares} or more"
    else:
        advice = "use fewer processes and micro-steps" if shares > 1 else "add training images"
    raise ConfigError(
        f"{config.model} has batch norm, which cannot train on one image at a time: batch size {config.batch_size} and "
        f"{images} training images in {shares} share{'s' * (shares > 1)} per step leave one image per share; {advice}"
    )

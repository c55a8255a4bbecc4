"""Checks a run before its first step: memory and batch norm."""

from __future__ import annotations

import torch
from torch import nn

from ..config import RunConfig
from ..errors import ConfigError
from ..models import build_model
from ..results import machine


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

"""Builds the model of a checkpoint and loads its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..checkpoint import Checkpoint
from ..config import check_channels, resolve
from ..errors import CheckpointError, ConfigError, UnknownNameError
from .registry import build_model


def load_model(checkpoint: Checkpoint, where: str | Path = "the checkpoint") -> nn.Module:
    """Builds the model of a checkpoint and loads its weights. Returns it in evaluation mode.

    The model is a classifier, or the auto-encoder of a pre-training run. Raises CheckpointError if the weights do not match.
    """
    config = checkpoint.config

    def build() -> nn.Module:
        return build_model(config, checkpoint.in_chans, len(checkpoint.class_names))

    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in checkpoint.weights.items()}
    misfit = CheckpointError(f"the weights of {where} do not match its configuration ({config.model})")
    if config.arch and config.arch.depth > len(shapes):
        raise misfit
    try:
        resolve(config)  # checks the bounds of all numbers
        check_channels(config, checkpoint.in_chans)
        with torch.device("meta"):  # checks the sizes before memory is allocated
            model = build()
        if {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()} != shapes:
            raise misfit
        model = build()
        model.load_state_dict(checkpoint.weights)
    except (ConfigError, UnknownNameError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{where} cannot be built: {error}") from error
    return model.eval()

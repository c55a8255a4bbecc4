"""Builds the optimiser and sets its learning rate.

timm builds the optimiser and its parameter groups. There is no weight decay of biases, norms and the parameters in
`no_weight_decay` of the model. With layer-wise decay, timm stores an `lr_scale` in each group, and `set_learning_rate` applies
it. Schedules depend on steps, not on time.
"""

from __future__ import annotations

import math

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from ..config import RunConfig
from ..config.resolve import BETAS
from ..errors import ConfigError
from .muon import Muon, hidden_matrices


def peak_learning_rate(config: RunConfig, global_batch: int) -> float:
    """Returns the peak learning rate: base x batch / `lr_batch` (Eq. 17), or the base if `lr_batch` is 0."""
    return config.lr * global_batch / config.optim.lr_batch if config.optim.lr_batch else config.lr


def learning_rate(step: int, steps_per_epoch: int, config: RunConfig, peak: float) -> float:
    """Returns the learning rate of `step` (from 0): linear warm-up, then cosine decay to `min_lr` at the last step."""
    optim = config.optim
    warmup = optim.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / math.ceil(warmup)
    total = config.epochs * steps_per_epoch
    progress = min((step - warmup) / max(total - 1 - warmup, 1), 1.0)
    return optim.min_lr + (peak - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Builds AdamW, Lion, SGD or Muon with timm's parameter groups. Raises ConfigError for values out of range."""
    optim = config.optim
    if config.lr <= 0 or optim.weight_decay < 0 or not 0 < optim.layer_decay <= 1:
        raise ConfigError(
            f"lr must be above 0, weight decay at least 0 and layer decay in (0, 1]; got {config.lr}, "
            f"{optim.weight_decay} and {optim.layer_decay}"
        )
    if not 0 <= optim.ema < 1:
        raise ConfigError(f"the decay of the moving average must be in [0, 1), got {optim.ema}")
    if optim.name == "muon":
        return _muon(model, config)
    if optim.name == "sgd":
        options = {"momentum": optim.momentum}  # timm's "sgd" uses Nesterov momentum
    else:
        options = {"betas": optim.betas or BETAS[optim.name]}
    if optim.name == "adamw":
        options |= {"eps": optim.eps, "fused": True}
    return create_optimizer_v2(
        model,
        opt=optim.name,
        lr=config.lr,
        weight_decay=optim.weight_decay,
        layer_decay=optim.layer_decay if optim.layer_decay < 1 else None,
        **options,
    )


def _muon(model: nn.Module, config: RunConfig) -> Muon:
    """Builds Muon for hidden matrices and AdamW for other parameters, with timm's groups for the decays."""
    optim = config.optim
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    decay = {"weight_decay": optim.weight_decay, "no_weight_decay_list": spared}
    if optim.layer_decay < 1:
        groups = param_groups_layer_decay(model, layer_decay=optim.layer_decay, **decay)
    else:
        groups = param_groups_weight_decay(model, **decay)
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = hidden_matrices(model)
    adamw_scale = 1.0 if optim.adamw_lr is None else optim.adamw_lr / config.lr
    by_setting: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for group in groups:
        scale = group.get("lr_scale", 1.0)
        for p in group["params"]:
            name = names[id(p)]
            muon = name in matrices
            rate = adamw_scale if not muon else optim.matrix_rate if "blocks." in name else 1.0
            by_setting.setdefault((group["weight_decay"], scale * rate, muon), []).append(p)
    groups = [
        {"params": params, "weight_decay": weight_decay, "lr_scale": scale, "muon": muon}
        for (weight_decay, scale, muon), params in by_setting.items()
    ]
    return Muon(groups, lr=config.lr, betas=optim.betas or BETAS["muon"], eps=optim.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of each group to `lr` times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)

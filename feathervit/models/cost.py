"""Counts parameters, multiply-accumulates and tokens of a model without computation.

A copy of the model processes one image on the meta device under torch's FLOP counter. Attention uses the math backend, so that
every product is counted; grouped queries count one product per query head. Matrix products and convolutions are counted.
Norms, activations and other elementwise operations are not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigError


@dataclass(frozen=True)
class Cost:
    """Holds the cost of a model.

    `macs`: multiply-accumulates per image. `tokens`: sequence length, or None for a model without a sequence.
    """

    parameters: int
    macs: int
    tokens: int | None


def count_macs(model: nn.Module, run: Callable[[nn.Module], Any]) -> tuple[int, Any]:
    """Returns the multiply-accumulates of `run` on a copy of the model on the meta device, and its result."""
    twin, counter = copy.deepcopy(model).to("meta"), FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        result = run(twin)
    return counter.get_total_flops() // 2, result


def cost(model: nn.Module, img_size: int, in_chans: int = 3) -> Cost:
    """Returns the cost of one forward pass of `model`, in evaluation mode, on one image [in_chans, img_size, img_size].

    Does not change the model. Raises ConfigError if the model does not accept such an image.
    """
    image_BCHW = torch.empty(1, in_chans, img_size, img_size, device="meta")

    def run(twin: nn.Module) -> Any:
        twin.eval()
        if not hasattr(twin, "forward_features"):
            return twin(image_BCHW)
        features = twin.forward_features(image_BCHW)
        twin.forward_head(features)
        return features

    try:
        macs, features = count_macs(model, run)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot take an image of {img_size} x {img_size} with {in_chans} channels: "
            f"{error}; give the size and channels it was built for"
        ) from error
    is_sequence = isinstance(features, torch.Tensor) and features.ndim == 3
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=macs,
        tokens=features.shape[1] if is_sequence else None,
    )

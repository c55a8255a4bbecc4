"""Counts parameters, multiply-accumulates and tokens of a model without computation.

A copy of the model processes one image on the meta device under torch's FLOP counter. Attention uses the math backend, so that
every product is counted; grouped queries count one product per query head. Matrix products and convolutions are counted.
Norms, activations and other elementwise operations are not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

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


@torch.no_grad()
def cost(model: nn.Module, img_size: int, in_chans: int = 3) -> Cost:
    """Returns the cost of one forward pass of `model`, in evaluation mode, on one image [in_chans, img_size, img_size].

    Does not change the model. Raises ConfigError if the model does not accept such an image.
    """
    twin = copy.deepcopy(model).to("meta").eval()
    image_BCHW = torch.empty(1, in_chans, img_size, img_size, device="meta")
    counter = FlopCounterMode(display=False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            if hasattr(twin, "forward_features"):
                features = twin.forward_features(image_BCHW)
                twin.forward_head(features)
            else:
                features = twin(image_BCHW)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot take an image of {img_size} x {img_size} with {in_chans} channels: "
            f"{error}; give the size and channels it was built for"
        ) from error
    is_sequence = isinstance(features, torch.Tensor) and features.ndim == 3
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        tokens=features.shape[1] if is_sequence else None,
    )

"""Measures the reconstruction errors of a masked auto-encoder, with the same masks in all runs, for comparability."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.image import as_input
from ..device import autocast
from ..models import MaskedAutoencoder
from .inference import BATCH


def fixed_order(model: MaskedAutoencoder, count: int) -> Tensor:
    """Returns the orders of the patches [count, N] for the evaluation masks. They are the same in every run."""
    return model.draw(count, torch.device("cpu"), torch.Generator().manual_seed(0))


@torch.inference_mode()
def reconstruction_error(
    model: MaskedAutoencoder,
    images_NCRR: Tensor,
    config: RunConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Returns {"masked_mse", "visible_mse", "n"} for stored uint8 images [N, C, R, R].

    The errors are for normalised pixels. Sets evaluation mode.
    """
    model.eval()
    n, sums = len(images_NCRR), []
    orders = fixed_order(model, n).to(device).split(BATCH)
    for images_BCRR, order_BN in zip(images_NCRR.split(BATCH), orders, strict=True):
        x_BCSS = as_input(images_BCRR.to(device), config)
        with autocast(device, dtype):
            output = model(x_BCSS, order_BN)
        sums.append(len(x_BCSS) * torch.stack((output.masked, output.visible)))
    masked, visible = torch.stack(sums).cpu().double().sum(0).tolist()  # the host waits for the device once
    return {"masked_mse": masked / n, "visible_mse": visible / n, "n": n}

"""Draws the attention of the read-out token to the patches: in the last layer, per head, and over all layers (rollout).

Legend: B batch, H heads, N tokens, P prefix tokens, G grid side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.image import as_input, resize
from ..errors import ConfigError
from ..models import Encoder
from .tiles import enlarge, heat, over, rgb, write_tiles

SIDE = 96  # px, minimum side of an image


def rollout(weights: list[Tensor]) -> Tensor:
    """Computes the attention over all layers [B, N, N] from the weights of each layer [B, H, N, N], first layer first.

    The result is the product over layers of (mean over heads + identity) / 2. The identity represents the residual stream
    (Abnar and Zuidema, arXiv 2005.00928, section 3). Rows sum to 1.
    """
    identity_NN = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    total_BNN = identity_NN
    for weight_BHNN in weights:
        total_BNN = (weight_BHNN.mean(1) + identity_NN) / 2 @ total_BNN
    return total_BNN


@torch.inference_mode()
def readout_attention(encoder: Encoder, images_BCRR: Tensor, config: RunConfig) -> tuple[Tensor, Tensor]:
    """Returns the attention of the read-out token to each patch: [B, H, G, G] in the last layer, [B, G, G] in the rollout.

    With several class tokens, returns their mean. Raises ConfigError for a model without a read-out token.
    """
    prefix, grid = encoder.num_prefix_tokens, encoder.patch_embed.grid_size
    if not prefix:
        raise ConfigError(
            f"{config.model} has read-out {encoder.config.readout!r} and no read-out token, so there is no attention to show"
        )
    encoder.eval()
    by_layer = encoder.intermediates(as_input(images_BCRR, config), ("attention",))
    weights = list(by_layer.values())
    last_BHG = weights[-1][:, :, :prefix, prefix:].mean(2)
    through_BG = rollout(weights)[:, :prefix, prefix:].mean(1)
    return last_BHG.unflatten(-1, (grid, grid)), through_BG.unflatten(-1, (grid, grid))


def write_attention(
    encoder: Encoder, images_BCRR: Tensor, config: RunConfig, path: Path, names: Sequence[str] = ()
) -> Path:
    """Writes a PNG: each image, the mean over heads in the last layer, the rollout, then each head of the last layer.

    Each map is divided by its maximum, and a colour bar states this. `names` are drawn beside the images. Raises ConfigError
    and RunFolderError.
    """
    last_BHGG, through_BGG = readout_attention(encoder, images_BCRR, config)
    maps_BMGG = torch.cat([last_BHGG.mean(1, keepdim=True), through_BGG.unsqueeze(1), last_BHGG], 1)
    maps_BM3GG = heat(maps_BMGG / maps_BMGG.amax((-2, -1), keepdim=True).clamp_min(1e-12))
    images_B3SS = enlarge(rgb(resize(images_BCRR, config.img_size)), SIDE)
    maps_BM3SS = enlarge(maps_BM3GG, images_B3SS.shape[-1])
    rows = [
        torch.cat([image[None], over(image, maps, 0.7)]) for image, maps in zip(images_B3SS, maps_BM3SS, strict=True)
    ]
    columns = ["image", "last layer", "rollout", *(f"head {h + 1}" for h in range(last_BHGG.shape[1]))]
    scale = ("attention: 0", "the maximum of each map")
    return write_tiles(path, rows, names, columns, "Attention of the read-out token", scale)

"""Draws original, masked and reconstructed images of a masked auto-encoder, in three rows.

Legend: B batch, C channels, S image side, N patches, X values of a patch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.image import as_input, resize
from ..evaluation.reconstruction import fixed_order
from ..models import MaskedAutoencoder
from .tiles import levels, write_tiles

ROWS = ("original", "masked", "reconstructed")
GREY = 128  # grey level of masked patches


@torch.inference_mode()
def reconstructions(model: MaskedAutoencoder, images_BCRR: Tensor, config: RunConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (original, masked, reconstructed), each uint8 [B, C, S, S] on the CPU, of stored uint8 images.

    Masked patches are grey. The reconstruction combines the prediction of the decoder for masked patches with the visible
    patches. The masks are the same in every call. Sets evaluation mode.
    """
    model.eval()
    device = model.mask_token.device
    original = resize(images_BCRR, config.img_size)
    x_BCSS = as_input(original.to(device), config)
    output = model(x_BCSS, fixed_order(model, len(x_BCSS)).to(device))
    patches_BNX = model.patchify(x_BCSS)
    painted_BNX = output.patches.float()
    if model.config.norm_pixels:  # the mean and deviation of each patch come from the original
        var_BN1, mean_BN1 = torch.var_mean(patches_BNX, -1, keepdim=True)
        painted_BNX = painted_BNX * (var_BN1 + 1e-6).sqrt() + mean_BN1
    combined = model.unpatchify(torch.where(output.mask.unsqueeze(-1), painted_BNX, patches_BNX))
    painted = levels(combined, config.images).cpu()
    hidden = model.unpatchify(output.mask.unsqueeze(-1).expand_as(patches_BNX).to(patches_BNX.dtype)).bool().cpu()
    return original.cpu(), original.cpu().masked_fill(hidden, GREY), painted


def write_reconstructions(model: MaskedAutoencoder, images_BCRR: Tensor, config: RunConfig, path: Path) -> Path:
    """Writes a PNG of `reconstructions`. Raises RunFolderError if writing fails."""
    rows = reconstructions(model, images_BCRR, config)
    return write_tiles(path, rows, ROWS, title="Reconstructions of masked images")

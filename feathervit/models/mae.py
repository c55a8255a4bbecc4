"""Defines the masked auto-encoder around an encoder (arXiv 2407.17783, section 2.2; arXiv 2111.06377).

A separate mask is drawn for each image, with a fixed number of masked patches. The encoder processes only the visible patches
and the prefix tokens. Its normalised output is restored to the original order, with a mask token for each hidden patch. One
projection without bias maps it to the width of the decoder, which has the same kinds of layers as the encoder. The prefix
token (the dummy patch) passes through encoder and decoder, but is not part of the loss. Decoder sizes are ours: Table 2 of
the paper is not available.

Legend: B batch, C channels, S image side, N patches, K visible patches, P prefix tokens, D width, X values of a patch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import MAEConfig
from ..errors import ConfigError
from .encoder import Encoder, Layer
from .feedforward import check_feedforward
from .place import Place


class Reconstruction(NamedTuple):
    """The output of a masked auto-encoder.

    `patches`: output of the decoder, [B, N, X]. `mask`: [B, N], True for masked patches. `masked` and `visible`: mean squared
    errors on masked and visible patches. `balance`: sum of the balance losses. The last three are scalars.
    """

    patches: Tensor
    mask: Tensor
    masked: Tensor
    visible: Tensor
    balance: Tensor


class MaskedAutoencoder(nn.Module):
    """Adds a decoder to `encoder` that reconstructs masked patches. Raises ConfigError for incompatible settings."""

    def __init__(self, encoder: Encoder, config: MAEConfig):
        super().__init__()
        decoder = config.decoder
        if decoder is None:
            raise ConfigError("mae.decoder is not set; give its width, depth and layers")
        self.encoder, self.config = encoder, config
        embed = encoder.patch_embed
        self.patch_size, patches = embed.patch_size, embed.grid_size**2
        if embed.img_size % embed.patch_size:
            raise ConfigError(
                f"reconstruction needs a patch size that divides the image size; {embed.patch_size} does not divide "
                f"{embed.img_size}"
            )
        self.masked_patches = round(patches * config.mask_ratio)
        if not 0 < self.masked_patches < patches:
            raise ConfigError(
                f"mask ratio {config.mask_ratio} masks {self.masked_patches} of {patches} patches, but some must be masked "
                "and some visible; choose a ratio further from 0 and 1, or smaller patches"
            )
        if decoder.positions == "encoder" and encoder.pos_embed is None:
            raise ConfigError("the encoder has no positions for mask tokens; set mae.decoder.positions to learned")
        if config.norm_pixels and embed.in_chans * self.patch_size**2 < 2:
            raise ConfigError(
                "mae.norm_pixels needs patches of more than one value; set it to false, or choose larger patches"
            )
        readout = encoder.config.readout
        check_feedforward(decoder.feedforward, encoder.num_prefix_tokens, readout, "mae.decoder.feedforward")
        self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.embed_dim).normal_(std=0.02))
        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder.dim, bias=False)
        tokens = encoder.num_prefix_tokens + patches
        self.decoder_pos_embed = None
        if decoder.positions == "learned":
            self.decoder_pos_embed = nn.Parameter(torch.empty(1, tokens, decoder.dim).normal_(std=0.02))
        self.decoder_blocks = nn.ModuleList([Layer(decoder, i) for i in range(decoder.depth)])
        self.decoder_norm = nn.LayerNorm(decoder.dim)
        self.decoder_head = nn.Linear(decoder.dim, embed.in_chans * self.patch_size**2, bias=False)

    def draw(self, batch: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Draws a random order of the patches of each image, [B, N]. The first K patches are visible.

        Uses `generator`, or torch's generator of the device, which the training loop seeds in each step.
        """
        patches = self.encoder.patch_embed.grid_size**2
        return torch.rand(batch, patches, device=device, generator=generator).argsort(1)

    def forward(self, x_BCSS: Tensor, order_BN: Tensor | None = None) -> Reconstruction:
        """Masks, encodes and reconstructs images. `order_BN`: the order from `draw`, which fixes the masks; None draws it."""
        batch, patches = len(x_BCSS), self.encoder.patch_embed.grid_size**2
        order_BN = self.draw(batch, x_BCSS.device) if order_BN is None else order_BN
        keep_BK = order_BN[:, : patches - self.masked_patches]
        mask_BN = torch.ones_like(order_BN, dtype=torch.bool).scatter(1, keep_BK, False)
        tokens_BND, balance = self.encoder.encode(x_BCSS, keep_BK)
        painted_BNX, decoder_balance = self.decode(tokens_BND, keep_BK)
        error_BN = (painted_BNX.float() - self.target(x_BCSS)).square().mean(-1)
        masked = (error_BN * mask_BN).sum() / (batch * self.masked_patches)  # static shapes: the counts are known
        visible = (error_BN * ~mask_BN).sum() / (batch * (patches - self.masked_patches))
        return Reconstruction(painted_BNX, mask_BN, masked, visible, balance + decoder_balance)

    def decode(self, tokens_BND: Tensor, keep_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes the output of the encoder [B, P + K, D] to all patches [B, N, X]. Also returns the balance loss."""
        encoder, prefix = self.encoder, self.encoder.num_prefix_tokens
        grid = encoder.patch_embed.grid_size
        gaps_1ND = self.mask_token.expand(-1, grid**2, -1)
        if self.decoder_pos_embed is None:
            gaps_1ND = gaps_1ND + encoder.pos_embed[:, prefix:]
        gaps_BND = gaps_1ND.to(tokens_BND.dtype).expand(len(tokens_BND), -1, -1)
        index_BKD = keep_BK.unsqueeze(-1).expand(-1, -1, tokens_BND.shape[-1])
        full_BND = gaps_BND.scatter(1, index_BKD, tokens_BND[:, prefix:])
        y_BND = self.decoder_embed(torch.cat([tokens_BND[:, :prefix], full_BND], 1))
        if self.decoder_pos_embed is not None:
            y_BND = y_BND + self.decoder_pos_embed
        place, losses = Place(prefix, grid), []
        for layer in self.decoder_blocks:
            y_BND, balance = layer(y_BND, place)
            losses.append(balance)
        return self.decoder_head(self.decoder_norm(y_BND)[:, prefix:]), torch.stack(losses).sum()

    def patchify(self, x_BCSS: Tensor) -> Tensor:
        """Splits [B, C, S, S] into the values of each patch, [B, N, X], channels first as in the patch projection."""
        p = self.patch_size
        return nn.functional.unfold(x_BCSS, p, stride=p).transpose(1, 2)

    def unpatchify(self, patches_BNX: Tensor) -> Tensor:
        """Joins the values of each patch [B, N, X] to images [B, C, S, S]. The inverse of `patchify`."""
        size, p = self.encoder.patch_embed.img_size, self.patch_size
        return nn.functional.fold(patches_BNX.transpose(1, 2), size, p, stride=p)

    def target(self, x_BCSS: Tensor) -> Tensor:
        """Returns the target of the decoder, float32 [B, N, X]."""
        patches_BNX = self.patchify(x_BCSS).float()
        if not self.config.norm_pixels:
            return patches_BNX
        var_BN1, mean_BN1 = torch.var_mean(patches_BNX, -1, keepdim=True)
        return (patches_BNX - mean_BN1) / (var_BN1 + 1e-6).sqrt()

    # The part of timm's interface that the parameter groups of the optimiser need

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters without weight decay: those of the encoder, and decoder tokens, positions and biases."""
        biases = {n for n, _ in self.named_parameters() if n.startswith("decoder_") and n.endswith(".b2")}
        return {f"encoder.{n}" for n in self.encoder.no_weight_decay()} | biases | {"mask_token", "decoder_pos_embed"}

"""From pixels to patch tokens. Contract of the room: `forward(x_BCSS, place)` returns [B, (S/p)^2, D], and what it says of
a patch that `place` keeps depends on no pixel of one that it does not keep.

`proj` is in every one of them the convolution that sees the pixels. Where `data_dependent` is set, `initialise_from` looks
at training pictures before training begins.

Legend: B batch, C channels, S image side, N tokens, D width, G grid side, K patches kept, M whitening filters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..config import ConvStemConfig, Patches, WhitenedPatchesConfig
from ..errors import ConfigError
from .place import Place

WHITENING_EPS = 5e-4  # of the eigenvalues, as in PoorViTs
_VALUES = 1 << 24  # unfolded at a time: 64 MiB


class PatchEmbed(nn.Module):
    """What all patch embeddings have in common: sizes and their checks."""

    data_dependent = False

    def __init__(self, img_size: int, patch_size: int, in_chans: int):
        super().__init__()
        if patch_size < 1 or img_size < 1 or img_size % patch_size:
            fits = [p for p in range(2, img_size // 2 + 1) if img_size % p == 0][:8]
            raise ConfigError(
                f"patch size {patch_size} does not divide image size {img_size}"
                + (f"; patch sizes that do: {', '.join(map(str, fits))}" if fits else "")
            )
        if in_chans < 1:
            raise ConfigError(f"in_chans must be at least 1, got {in_chans}")
        self.img_size, self.patch_size, self.in_chans = img_size, patch_size, in_chans
        self.grid_size = img_size // patch_size

    def forward(self, x_BCSS: Tensor, place: Place | None = None) -> Tensor:
        if x_BCSS.ndim != 4 or x_BCSS.shape[-2:] != (self.img_size, self.img_size):
            shape = list(x_BCSS.shape)
            raise ConfigError(f"the model takes images [B, C, {self.img_size}, {self.img_size}], got {shape}")
        return self.embed(x_BCSS, place).flatten(2).transpose(1, 2)

    def embed(self, x_BCSS: Tensor, place: Place | None) -> Tensor:
        """[B, C, S, S] to [B, D, G, G]."""
        return self.proj(x_BCSS)


class LinearPatchEmbed(PatchEmbed):
    """Non-overlapping patches, each projected linearly without bias."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int):
        super().__init__(img_size, patch_size, in_chans)
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size, bias=False)


class WhitenedPatchEmbed(LinearPatchEmbed):
    """A linear projection whose first C p^2 filters (D, where they are fewer) start as the whitening of training patches."""

    data_dependent = True

    @torch.no_grad()
    def initialise_from(self, images_NCSS: Tensor) -> None:
        filters = whitening_filters(images_NCSS, self.patch_size)[: self.proj.out_channels]
        self.proj.weight[: len(filters)] = filters.to(self.proj.weight)


class FrozenWhitenedPatchEmbed(PatchEmbed):
    """As `WhitenedPatchEmbed`, but the whitening filters are not trained; the other filters are."""

    data_dependent = True

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int):
        super().__init__(img_size, patch_size, in_chans)
        count = in_chans * patch_size**2
        if dim <= count:
            raise ConfigError(
                f"frozen whitening takes {count} filters of patches of {patch_size} px and {in_chans} channels, the width "
                f"is {dim}; choose a smaller patch, a larger width, or whitening that is trained on"
            )
        white = nn.Conv2d(in_chans, count, patch_size, patch_size, bias=False)
        self.register_buffer("white", white.weight.detach())
        self.proj = nn.Conv2d(in_chans, dim - count, patch_size, patch_size, bias=False)

    @torch.no_grad()
    def initialise_from(self, images_NCSS: Tensor) -> None:
        self.white.copy_(whitening_filters(images_NCSS, self.patch_size))

    def embed(self, x_BCSS: Tensor, place: Place | None) -> Tensor:
        return torch.cat([F.conv2d(x_BCSS, self.white, stride=self.patch_size), self.proj(x_BCSS)], dim=1)


class ConvStem(PatchEmbed):
    """One to three 3x3 convolutions without bias, each with layer norm over channels and GELU. The first of them halve the
    side until the patch size is reached; the width doubles up to D.

    A window reaches over the edge of a patch, so the pixels of patches that are not kept are zeroed before.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int, layers: int):
        super().__init__(img_size, patch_size, in_chans)
        if not 1 <= layers <= 3:
            raise ConfigError(f"a convolutional stem has 1 to 3 layers, got {layers}")
        halvings = patch_size.bit_length() - 1
        if patch_size != 2**halvings or halvings > layers:
            reached = ", ".join(str(2**n) for n in range(layers + 1))
            raise ConfigError(
                f"a convolutional stem of {layers} layers reaches patch sizes {reached}, not patch size {patch_size}; choose "
                "one of these, more layers (up to 3), or linear patches"
            )
        widths = [in_chans, *(max(dim >> i, 1) for i in reversed(range(layers)))]
        convs = [
            nn.Conv2d(widths[i], widths[i + 1], 3, 2 if i < halvings else 1, padding=1, bias=False)
            for i in range(layers)
        ]
        self.proj, *later = convs
        self.rest = nn.Sequential(LayerNorm2d(widths[1], eps=1e-5), nn.GELU())
        for conv in later:
            self.rest.extend([conv, LayerNorm2d(conv.out_channels, eps=1e-5), nn.GELU()])

    def embed(self, x_BCSS: Tensor, place: Place | None) -> Tensor:
        if place is not None and place.keep_BK is not None:
            kept_BN1 = place.on_grid(x_BCSS.new_ones(*place.keep_BK.shape, 1))
            kept_B1GG = kept_BN1.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
            x_BCSS = x_BCSS * kept_B1GG.repeat_interleave(self.patch_size, 2).repeat_interleave(self.patch_size, 3)
        return self.rest(self.proj(x_BCSS))


def whitening_filters(images_NCSS: Tensor, patch_size: int) -> Tensor:
    """[C p^2, C, p, p]: eigenvectors of the patches' (uncentred) second moment, the largest eigenvalue first, each over
    sqrt(eigenvalue + 5e-4), so that over the patches the filters' outputs are uncorrelated and of equal power.

    Patches are taken at every pixel (PoorViTs, arXiv 2501.06220, after the whitening layer of airbench).
    """
    channels, size = images_NCSS.shape[1], images_NCSS.shape[1] * patch_size**2
    moment, count = torch.zeros(size, size, dtype=torch.float64), 0
    for images in images_NCSS.split(max(1, _VALUES // (size * images_NCSS.shape[-1] ** 2))):
        patches = F.unfold(images.float(), patch_size).transpose(1, 2).flatten(0, 1)
        moment += (patches.T @ patches).double().cpu()
        count += len(patches)
    values, vectors = torch.linalg.eigh(moment / count)
    filters = (vectors / (values + WHITENING_EPS).sqrt()).T.flip(0)
    return filters.unflatten(1, (channels, patch_size, patch_size)).float()


def build_patch_embed(config: Patches, img_size: int, patch_size: int, in_chans: int, dim: int) -> PatchEmbed:
    """The patch embedding that `config` describes. Raises ConfigError where the sizes do not fit it."""
    if isinstance(config, ConvStemConfig):
        return ConvStem(img_size, patch_size, in_chans, dim, config.layers)
    kind = LinearPatchEmbed
    if isinstance(config, WhitenedPatchesConfig):
        kind = FrozenWhitenedPatchEmbed if config.frozen else WhitenedPatchEmbed
    return kind(img_size, patch_size, in_chans, dim)

"""Defines the patch embeddings, from pixels to tokens. Contract: `forward(x_BCSS, place)` returns [B, (S/p)^2, D].

Tokens of patches that `place` keeps do not depend on pixels of other patches. Each class has a `proj`, the convolution that
reads the pixels. If `data_dependent` is set, `initialise_from` computes weights from training images before training.

Legend: B batch, C channels, S image side, N tokens, D width, G grid side, K patches kept, M whitening filters.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d, register_notrace_function, register_notrace_module
from torch import Tensor, nn

from ..config import ConvStemConfig, Patches, PooledStemConfig, ResidualStemConfig, WhitenedPatchesConfig
from ..errors import ConfigError
from .place import Place
from .taken import Taken

WHITENING_EPS = 5e-4  # added to the eigenvalues, as in PoorViTs
_VALUES = 1 << 24  # values to unfold at a time: 64 MiB


@register_notrace_function  # torch.fx calls it instead of tracing it
def check_images(x_BCSS: Tensor, img_size: int) -> None:
    """Raises ConfigError for a batch of images of another size."""
    if x_BCSS.ndim != 4 or x_BCSS.shape[-2:] != (img_size, img_size):
        raise ConfigError(f"the model takes images [B, C, {img_size}, {img_size}], got {list(x_BCSS.shape)}")


class PatchEmbed(nn.Module):
    """Base class of all patch embeddings, with sizes and their checks."""

    data_dependent = False
    any_size = False  # whether the image size need not be a multiple of the patch size

    def __init__(self, img_size: int, patch_size: int, in_chans: int):
        super().__init__()
        if in_chans < 1:
            raise ConfigError(f"in_chans must be at least 1, got {in_chans}")
        self.patch_size, self.in_chans = patch_size, in_chans
        self.set_size(img_size)

    def set_size(self, img_size: int) -> None:
        """Changes the image size. Raises ConfigError if it must be a multiple of the patch size and is not."""
        if self.patch_size < 1 or img_size < 1 or (img_size % self.patch_size and not self.any_size):
            fits = [p for p in range(2, img_size // 2 + 1) if img_size % p == 0][:8]
            raise ConfigError(
                f"patch size {self.patch_size} does not divide image size {img_size}"
                + (f"; patch sizes that do: {', '.join(map(str, fits))}" if fits else "")
            )
        self.img_size, self.grid_size = img_size, -(-img_size // self.patch_size)

    def forward(self, x_BCSS: Tensor, place: Place | None = None, taken: Taken | None = None) -> Tensor:
        check_images(x_BCSS, self.img_size)
        tokens_BND = self.embed(x_BCSS, place, taken).flatten(2).transpose(1, 2)
        return tokens_BND.to(x_BCSS.dtype)  # the residual stream keeps its precision after low-precision convolutions

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The feature maps before the tokens: name of the submodule, channels, and reduction of the resolution."""
        return []

    def embed(self, x_BCSS: Tensor, place: Place | None, taken: Taken | None) -> Tensor:
        """Maps [B, C, S, S] to [B, D, G, G]. Stores the maps of `feature_info` in `taken`, each as "MODULE.output"."""
        return self.proj(x_BCSS)

    def without_hidden(self, x_BCSS: Tensor, place: Place | None) -> Tensor:
        """Sets the pixels of masked patches, which `place` does not keep, to 0."""
        if place is None or place.keep_BK is None:
            return x_BCSS
        return x_BCSS * _enlarged(self.kept_on_grid(x_BCSS, place), self.img_size)

    def kept_on_grid(self, x_BCSS: Tensor, place: Place) -> Tensor:
        """Returns the mask [B, 1, G, G]: 1 if `place` keeps a patch, else 0."""
        kept_BN1 = place.on_grid(x_BCSS.new_ones(*place.keep_BK.shape, 1))
        return kept_BN1.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))


class LinearPatchEmbed(PatchEmbed):
    """Projects non-overlapping patches linearly, without bias."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int):
        super().__init__(img_size, patch_size, in_chans)
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size, bias=False)


class WhitenedPatchEmbed(LinearPatchEmbed):
    """A linear projection whose first C p^2 filters (at most D) are initialised to whiten training patches."""

    data_dependent = True

    @torch.no_grad()
    def initialise_from(self, images_NCSS: Tensor) -> None:
        filters = whitening_filters(images_NCSS, self.patch_size)[: self.proj.out_channels]
        self.proj.weight[: len(filters)] = filters.to(self.proj.weight)


class FrozenWhitenedPatchEmbed(PatchEmbed):
    """A `WhitenedPatchEmbed` with frozen whitening filters. The other filters are trained."""

    data_dependent = True

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int):
        super().__init__(img_size, patch_size, in_chans)
        count = in_chans * patch_size**2
        if dim <= count:
            raise ConfigError(
                f"frozen whitening needs {count} filters for patches of {patch_size} px and {in_chans} channels, but the "
                f"width is {dim}; choose a smaller patch, a larger width, or patches whitened"
            )
        white = nn.Conv2d(in_chans, count, patch_size, patch_size, bias=False)
        self.register_buffer("white", white.weight.detach())
        self.proj = nn.Conv2d(in_chans, dim - count, patch_size, patch_size, bias=False)

    @torch.no_grad()
    def initialise_from(self, images_NCSS: Tensor) -> None:
        self.white.copy_(whitening_filters(images_NCSS, self.patch_size))

    def embed(self, x_BCSS: Tensor, place: Place | None, taken: Taken | None) -> Tensor:
        return torch.cat([F.conv2d(x_BCSS, self.white, stride=self.patch_size), self.proj(x_BCSS)], dim=1)


class ConvStem(PatchEmbed):
    """One to three 3x3 convolutions without bias, each with layer norm over channels and GELU.

    The first convolutions have stride 2, until the reduction equals the patch size. The width doubles up to D. Convolution
    windows cross the borders of patches, so the pixels of masked patches are set to zero first.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int, layers: int):
        super().__init__(img_size, patch_size, in_chans)
        if not 1 <= layers <= 3:
            raise ConfigError(f"a convolutional stem has 1 to 3 layers, got {layers}")
        halvings = patch_size.bit_length() - 1
        if patch_size != 2**halvings or halvings > layers:
            reached = ", ".join(str(2**n) for n in range(layers + 1))
            raise ConfigError(
                f"a convolutional stem of {layers} layers makes patch sizes {reached}, not patch size {patch_size}; choose "
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

    def embed(self, x_BCSS: Tensor, place: Place | None, taken: Taken | None) -> Tensor:
        return self.rest(self.proj(self.without_hidden(x_BCSS, place)))


class PooledStem(PatchEmbed):
    """3x3 convolutions without bias, each with ReLU and a 3x3 max-pool of stride 2 (arXiv 2104.05704).

    Convolution windows cross the borders of patches, so the pixels of masked patches are set to zero first.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int, config: PooledStemConfig):
        super().__init__(img_size, patch_size, in_chans)
        if patch_size != 2**config.layers:
            raise ConfigError(
                f"a pooled stem of {config.layers} layers makes patch size {2**config.layers}, not {patch_size}"
            )
        widths = [in_chans, *[config.width] * (config.layers - 1), dim]
        convs = [nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in itertools.pairwise(widths)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)
        self.proj, *later = convs
        self.rest = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        for conv in later:
            self.rest.extend([conv, nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)])

    def embed(self, x_BCSS: Tensor, place: Place | None, taken: Taken | None) -> Tensor:
        x = self.proj(self.without_hidden(x_BCSS, place))
        for i, layer in enumerate(self.rest):
            x = layer(x)
            if taken is not None and isinstance(layer, nn.MaxPool2d):
                taken[f"rest.{i}.output"] = x
        return x

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The output of each max-pool."""
        convs = [self.proj, *(layer for layer in self.rest if isinstance(layer, nn.Conv2d))]
        return [
            {"module": f"rest.{3 * i + 1}", "num_chs": conv.out_channels, "reduction": 2 ** (i + 1)}
            for i, conv in enumerate(convs)
        ]


@register_notrace_module
class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics use only visible positions. Without a mask, it equals `nn.BatchNorm2d`.

    Masked pre-training sets hidden pixels to zero. This layer keeps the running statistics valid for unmasked images.
    """

    def forward(self, x_BCHW: Tensor, kept_B1HW: Tensor | None = None) -> Tensor:
        if kept_B1HW is None or not self.training:
            return super().forward(x_BCHW)
        x = x_BCHW.float()
        kept = kept_B1HW.to(x.dtype)
        count = kept.sum()
        mean_C11 = (x * kept).sum((0, 2, 3), keepdim=True) / count
        var_C11 = ((x - mean_C11).square() * kept).sum((0, 2, 3), keepdim=True) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            # Update through `data`, because in joint training the backward pass of the unmasked images checks versions.
            self.running_mean.data.lerp_(mean_C11.flatten().to(self.running_mean.dtype), self.momentum)
            unbiased = var_C11.flatten() * (count / (count - 1))
            self.running_var.data.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        y = (x - mean_C11) * (var_C11 + self.eps).rsqrt()
        return (y * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x_BCHW.dtype)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (arXiv 1512.03385): [B, I, H, W] to [B, O, H/s, W/s].

    `projected`: the shortcut has a 1x1 convolution. With stride 2, it averages 2x2 pixels first (ResNet-D, arXiv 1812.01187).
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, projected: bool):
        super().__init__()
        self.stride, self.out_chans = stride, out_chans  # stored, because adapters may wrap the convolutions
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride, padding=1, bias=False)
        self.bn1 = MaskedBatchNorm2d(out_chans)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn2 = MaskedBatchNorm2d(out_chans)
        nn.init.zeros_(self.bn2.weight)  # at initialisation, the block equals its shortcut
        self.pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        self.shortcut = nn.Conv2d(in_chans, out_chans, 1, bias=False) if projected else nn.Identity()
        self.bn3 = MaskedBatchNorm2d(out_chans) if projected else None

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        # In place, because the backward pass does not need the output of batch norm
        y = _normalised(self.bn1, self.conv1(x), kept).relu_()
        y = _normalised(self.bn2, self.conv2(y), kept)
        x = self.shortcut(self.pool(x))
        return y.add_(x if self.bn3 is None else _normalised(self.bn3, x, kept)).relu_()


def _normalised(bn: nn.Module, x: Tensor, kept: Tensor | None) -> Tensor:
    """Calls `bn`, without a mask as other batch norms (SyncBatchNorm) are called, because tools may replace it."""
    return bn(x) if kept is None else bn(x, kept)


class ResidualStem(PatchEmbed):
    """A small residual network whose output pixels are the tokens.

    It accepts any image size. If the size is not a multiple of the patch size, the last tokens see fewer pixels. Under a mask,
    hidden pixels are zero, and batch statistics use only positions of visible patches.
    """

    any_size = True

    def __init__(self, img_size: int, patch_size: int, in_chans: int, dim: int, config: ResidualStemConfig):
        super().__init__(img_size, patch_size, in_chans)
        if not config.stages or any(s.width < 1 or s.blocks < 1 or s.stride not in (1, 2) for s in config.stages):
            raise ConfigError(
                f"a residual stem needs stages of at least one block, a width of at least 1 and stride 1 or 2; got {config}"
            )
        if patch_size not in config.patch_sizes:
            known = ", ".join(map(str, config.patch_sizes))
            raise ConfigError(f"this residual stem makes patches of {known} pixels, not of {patch_size}")
        strides = [s.stride for s in config.stages]
        if patch_size < config.reached:
            strides[-1] = 1
        self.stride = max(1, patch_size // config.reached)  # stride of the first convolution
        self.proj = nn.Conv2d(in_chans, config.width, 3, self.stride, padding=1, bias=False)
        self.bn = MaskedBatchNorm2d(config.width)
        widths = [config.width, *(s.width for s in config.stages)]
        # The configured stride decides on the shortcut, so that the weights fit all patch sizes.
        self.residual = nn.ModuleList(
            ResidualBlock(before, stage.width, stride, stage.stride > 1 or before != stage.width)
            if i == 0
            else ResidualBlock(stage.width, stage.width, 1, False)
            for before, stage, stride in zip(widths, config.stages, strides, strict=False)
            for i in range(stage.blocks)
        )
        # The last block of each stage
        self.ends = [n - 1 for n in itertools.accumulate(stage.blocks for stage in config.stages)]
        self.out = nn.Conv2d(widths[-1], dim, 1) if widths[-1] != dim else nn.Identity()

    def embed(self, x_BCSS: Tensor, place: Place | None, taken: Taken | None) -> Tensor:
        x = x_BCSS.contiguous(memory_format=torch.channels_last)
        kept_B1GG = None if place is None or place.keep_BK is None else self.kept_on_grid(x, place)
        if kept_B1GG is not None:
            x = x * _enlarged(kept_B1GG, x.shape[-1])
        x = self.proj(x)
        x = _normalised(self.bn, x, _enlarged(kept_B1GG, x.shape[-1])).relu_()
        for i, block in enumerate(self.residual):
            x = block(x, _enlarged(kept_B1GG, -(-x.shape[-1] // block.stride)))
            if taken is not None and i in self.ends:
                taken[f"residual.{i}.output"] = x
        return self.out(x)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The output of each stage."""
        stages, reduction = [], self.stride
        for i, block in enumerate(self.residual):
            reduction *= block.stride
            if i in self.ends:
                stages.append({"module": f"residual.{i}", "num_chs": block.out_chans, "reduction": reduction})
        return stages


def _enlarged(kept_B1GG: Tensor | None, side: int) -> Tensor | None:
    """Enlarges a mask of patches to a mask of `side` x `side` pixels."""
    if kept_B1GG is None:
        return None
    scale = side // kept_B1GG.shape[-1]
    return kept_B1GG.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def whitening_filters(images_NCSS: Tensor, patch_size: int) -> Tensor:
    """Computes whitening filters [C p^2, C, p, p]: their outputs over the patches are uncorrelated and have equal power.

    The filters are the eigenvectors of the (uncentred) second moment of the patches, largest eigenvalue first, divided by
    sqrt(eigenvalue + 5e-4). Patches overlap, with a stride of one pixel (PoorViTs, arXiv 2501.06220, after airbench).
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
    """Builds the patch embedding of `config`. Raises ConfigError if the sizes are incompatible."""
    if isinstance(config, ResidualStemConfig):
        return ResidualStem(img_size, patch_size, in_chans, dim, config)
    if isinstance(config, PooledStemConfig):
        return PooledStem(img_size, patch_size, in_chans, dim, config)
    if isinstance(config, ConvStemConfig):
        return ConvStem(img_size, patch_size, in_chans, dim, config.layers)
    kind = LinearPatchEmbed
    if isinstance(config, WhitenedPatchesConfig):
        kind = FrozenWhitenedPatchEmbed if config.frozen else WhitenedPatchEmbed
    return kind(img_size, patch_size, in_chans, dim)

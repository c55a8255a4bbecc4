"""Draws and applies crops, erasures and resampling to a batch, with different parameters for each image.

A random resized crop with flip is computed as two small matrix products: image b becomes Wy_b @ image @ Wx_b^T. A row of W
holds the weights of the stored pixels for one output pixel. This is the antialiased filter of
torch.nn.functional.interpolate, applied to a different crop of each image. Boxes are drawn on the CPU with the distributions
of torchvision's RandomResizedCrop and RandomErasing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

_CHUNK = 1 << 18  # values per matrix product on the CPU, so that they fit into its cache
_TRIES = 10  # number of drawn boxes before the fallback, as in torchvision


def _draw_sides(
    batch: int, size: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws two sides [batch, tries] in whole pixels: area uniform in `scale` x size^2, ratio log-uniform in `ratio`.

    The ratio is first : second.
    """
    area, aspect = torch.rand(2, batch, _TRIES, generator=generator, dtype=torch.float64)
    area = (scale[0] + (scale[1] - scale[0]) * area) * size**2
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * aspect).exp()
    return (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()


def _first(valid: Tensor, values: Tensor, fallback: int) -> Tensor:
    """Returns values[b, t] for the first valid try t of each row, or `fallback` if no try is valid."""
    chosen = values.gather(1, valid.int().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(valid.any(1), chosen, fallback)


def _place(height: Tensor, width: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draws the positions of boxes uniformly inside the image: (top, left, height, width) [B, 4]."""
    top, left = torch.rand(2, len(height), generator=generator, dtype=torch.float64)
    top, left = (top * (size - height + 1)).long(), (left * (size - width + 1)).long()
    return torch.stack((top, left, height, width), 1)


def draw_crops(
    batch: int, size: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draws crop boxes (top, left, height, width), int64 [batch, 4], of square images `size` pixels wide.

    The distribution is that of torchvision's RandomResizedCrop. `scale` bounds the share of the area, and `ratio` the aspect
    width : height (log-uniform). If none of ten draws fits, the result is the largest centred box with an aspect within
    `ratio`.
    """
    width, height = _draw_sides(batch, size, scale, ratio, generator)
    valid = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    last_width = round(size * min(1.0, ratio[1]))
    last_height = round(size / max(1.0, ratio[0]))
    boxes = _place(_first(valid, height, last_height), _first(valid, width, last_width), size, generator)
    last = torch.tensor([(size - last_height) // 2, (size - last_width) // 2, last_height, last_width])
    return torch.where(valid.any(1, keepdim=True), boxes, last)


def draw_erasures(
    batch: int, size: int, probability: float, scale: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draws boxes to erase, int64 [batch, 4] as in `draw_crops`. Height and width are 0 if an image is not erased.

    As in torchvision's RandomErasing, height : width is log-uniform in 0.3-3.3, and both sides are shorter than the image's.
    """
    height, width = _draw_sides(batch, size, scale, (0.3, 3.3), generator)
    valid = (height < size) & (width < size)
    valid &= torch.rand(batch, 1, generator=generator) < probability
    return _place(_first(valid, height, 0), _first(valid, width, 0), size, generator)


def clip_boxes(centre_B2: Tensor, sides_B2: Tensor, size: int) -> Tensor:
    """Returns boxes (top, left, height, width) around centre pixels, clipped to the image: int64 [B, 4].

    `sides` (y, x) are the lengths. The centre pixel is the middle of a box of odd length.
    """
    low = centre_B2 - sides_B2 // 2
    high = (low + sides_B2).clamp_(0, size)
    low = low.clamp_(0, size)
    return torch.cat((low, high - low), 1)


def inside(boxes_B4: Tensor, size: int) -> Tensor:
    """Returns a mask of the pixels inside the box of each image, bool [B, 1, size, size]."""
    at = torch.arange(size, device=boxes_B4.device)
    low_B21, sides_B21 = boxes_B4[..., None].split(2, 1)
    within_B2S = (at >= low_B21) & (at < low_B21 + sides_B21)
    return within_B2S[:, :1, :, None] & within_B2S[:, 1:, None]


def _weights(
    boxes_B4: Tensor, flip_B: Tensor | None, offset_B2: Tensor | None, stored: int, size: int, cubic: bool
) -> Tensor:
    """Returns the filters of both axes (y, x), float32 [B, 2, size, stored]; see `resample`."""
    device = boxes_B4.device
    out = torch.arange(size, device=device, dtype=torch.float32).expand(len(boxes_B4), 2, size)
    within = None
    if offset_B2 is not None:
        out = out + offset_B2[..., None]
        within = ((out >= 0) & (out < size)).float()
    if flip_B is not None:
        turned = torch.stack((torch.zeros_like(flip_B), flip_B), 1)
        out = torch.where(turned[..., None], size - 1 - out, out)
    at = torch.arange(stored, device=device, dtype=torch.float32)
    start, length = boxes_B4[..., None].float().split(2, 1)
    scale = length / size
    narrow = 1 / scale.clamp(min=1)  # in downscaling, the filter covers all averaged pixels
    centre = (start + scale * (out + 0.5) - 0.5) * narrow
    distance = ((at * narrow)[:, :, None] - centre[..., None]).abs_()
    if cubic:  # Keys 1981 with a = -1/2, as in PIL's resize
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weight = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    else:
        weight = distance.neg_().add_(1).clamp_(min=0)
    weight.mul_(((at >= start) & (at < start + length)).float()[:, :, None])
    weight.div_(weight.sum(-1, keepdim=True))
    return weight if within is None else weight.mul_(within[..., None])


def resample(
    images_BCRR: Tensor,
    boxes_B4: Tensor,
    flip_B: Tensor | None,
    size: int,
    *,
    offset_B2: Tensor | None = None,
    cubic: bool = False,
) -> Tensor:
    """Resizes each image's box to `size` pixels with antialiasing, mirrored where `flip`: uint8 [B, C, size, size].

    `offset` (y, x): shifts the resized image, with zeros outside. The filter is bilinear, or `cubic` (a = -1/2).

    The result equals torch.nn.functional.interpolate(crop.float(), antialias=True), rounded. A value half-way between two
    levels may differ by one level, because of float32 rounding. With reduced-precision matrix products, the difference is
    also at most one level.
    """
    b, c, stored, _ = images_BCRR.shape
    weights = _weights(boxes_B4, flip_B, offset_B2, stored, size, cubic)
    out = images_BCRR.new_empty(b, c, size, size)
    chunk = max(1, _CHUNK // (c * stored * size)) if out.device.type == "cpu" else b
    for x, weight, to in zip(*(t.split(chunk) for t in (images_BCRR, weights, out)), strict=True):
        y = (weight[:, :1] @ x.float()).view(len(x), c * size, stored) @ weight[:, 1].mT
        y = y.add_(0.5)
        to.copy_((y.clamp_(0, 255) if cubic else y).to(torch.int16).view_as(to))
    return out


def to_uint8(x: Tensor) -> Tensor:
    """Truncates float values in 0-255 to uint8. Casts through int16, because a cast from float to uint8 is not vectorised."""
    return x.to(torch.int16).to(torch.uint8)


def shift(images_BCSS: Tensor, padding: int, offset_B2: Tensor | None, flip_B: Tensor | None) -> Tensor:
    """Flips each image where `flip`, and shifts it by `offset` (y, x): uint8.

    Offsets are at most `padding` pixels; pixels outside are zero. One gather processes the full batch, as in airbench.
    """
    b, c, size, _ = images_BCSS.shape
    at = torch.arange(size, device=images_BCSS.device).expand(b, size)
    y, x = (at, at) if offset_B2 is None else (at + offset_B2[:, :1], at + offset_B2[:, 1:])
    if flip_B is not None:
        x = torch.where(flip_B[:, None], size - 1 - x, x)
    padded = pad(images_BCSS, (padding,) * 4) if padding else images_BCSS
    width = size + 2 * padding
    source = ((y + padding)[:, :, None] * width + (x + padding)[:, None, :]).view(b, 1, -1)
    return padded.reshape(b, c, -1).gather(2, source.expand(b, c, -1)).view(b, c, size, size)

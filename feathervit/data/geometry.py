"""Boxes and samplings of a batch, one for each picture.

A random resized crop, its resize and its flip are two small matrix products: picture b becomes Wy_b @ picture @ Wx_b^T,
where a row of W holds the weights with which one output pixel averages the stored ones. That is exactly the antialiased
bilinear filter of torch.nn.functional.interpolate on the crop, with a crop of its own for every picture of the batch.
Boxes are drawn on the CPU with the distributions of torchvision's RandomResizedCrop and RandomErasing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHUNK = 1 << 18  # values that a product works on at a time on the CPU, so that they stay in its cache
_TRIES = 10  # as torchvision: so many boxes are drawn before the fallback is taken


def _draw_sides(
    batch: int, size: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two sides [batch, tries] in whole pixels: area uniform in `scale` x size^2, first : second log-uniform in `ratio`."""
    area, aspect = torch.rand(2, batch, _TRIES, generator=generator, dtype=torch.float64)
    area = (scale[0] + (scale[1] - scale[0]) * area) * size**2
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * aspect).exp()
    return (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()


def _first(valid: Tensor, values: Tensor, fallback: int) -> Tensor:
    """values[b, t] of the first valid try t of each row, else `fallback`."""
    chosen = values.gather(1, valid.int().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(valid.any(1), chosen, fallback)


def _place(height: Tensor, width: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Boxes (top, left, height, width) [B, 4], uniform over the places where each fits into the picture."""
    top, left = torch.rand(2, len(height), generator=generator, dtype=torch.float64)
    top, left = (top * (size - height + 1)).long(), (left * (size - width + 1)).long()
    return torch.stack((top, left, height, width), 1)


def draw_crops(
    batch: int, size: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Crop boxes (top, left, height, width), int64 [batch, 4], of square pictures `size` pixels wide.

    torchvision's RandomResizedCrop: `scale` bounds the share of the area, `ratio` width : height (log-uniform); where ten
    draws do not fit, the largest centred box whose aspect is within `ratio`.
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
    """Boxes to erase, int64 [batch, 4] as in `draw_crops`; height and width are 0 where nothing is erased.

    torchvision's RandomErasing: height : width log-uniform in 0.3-3.3; both sides shorter than the picture's.
    """
    height, width = _draw_sides(batch, size, scale, (0.3, 3.3), generator)
    valid = (height < size) & (width < size)
    valid &= torch.rand(batch, 1, generator=generator) < probability
    return _place(_first(valid, height, 0), _first(valid, width, 0), size, generator)


def draw_squares(batch: int, size: int, side: int, generator: torch.Generator) -> Tensor:
    """Cutout's boxes, int64 [batch, 4]: the centre uniform over the pixels, what lies outside the picture cut off."""
    low = torch.randint(size, (batch, 2), generator=generator) - side // 2
    high = (low + side).clamp_(0, size)
    low = low.clamp_(0, size)
    return torch.cat((low, high - low), 1)


def clip_boxes(centre_B2: Tensor, sides_B2: Tensor, size: int) -> Tensor:
    """(top, left, height, width) of centres and sides (y, x): side // 2 to both sides, cut at the picture's borders."""
    low = (centre_B2 - sides_B2 // 2).clamp_(0, size)
    high = (centre_B2 + sides_B2 // 2).clamp_(0, size)
    return torch.cat((low, high - low), 1)


def inside(boxes_B4: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """1 inside each picture's box, 0 outside: `dtype` [B, 1, size, size]."""
    at = torch.arange(size, device=boxes_B4.device)
    low, sides = boxes_B4[:, :2, None], boxes_B4[:, 2:, None]
    within = ((at >= low) & (at < low + sides)).to(dtype)
    return within[:, None, 0, :, None] * within[:, None, 1, None, :]


def _weights(start_B: Tensor, length_B: Tensor, flip_B: Tensor | None, stored: int, size: int) -> Tensor:
    """The filter of one axis, float32 [B, size, stored]: `length` pixels from `start` on become `size`, mirrored by `flip`."""
    out = torch.arange(size, device=start_B.device, dtype=torch.float32).expand(len(start_B), size)
    if flip_B is not None:
        out = torch.where(flip_B[:, None], size - 1 - out, out)
    at = torch.arange(stored, device=start_B.device, dtype=torch.float32)
    start, length = start_B[:, None].float(), length_B[:, None].float()
    scale = length / size
    narrow = 1 / scale.clamp(min=1)  # where a picture shrinks, the triangle is as wide as the pixels it stands for
    centre = (start + scale * (out + 0.5) - 0.5) * narrow
    weight = ((at * narrow)[:, None, :] - centre[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)
    weight.mul_(((at >= start) & (at < start + length)).float()[:, None, :])
    return weight.div_(weight.sum(-1, keepdim=True))


def resample(images_BCRR: Tensor, boxes_B4: Tensor, flip_B: Tensor | None, size: int) -> Tensor:
    """Each picture's box, resized (bilinear, antialiased) to `size` pixels and mirrored where `flip`: uint8 [B, C, S, S].

    Equal to torch.nn.functional.interpolate(crop.float(), antialias=True), rounded, but for float32 rounding: at most one
    grey level, where a value falls between two (under reduced-precision matrix products likewise at most one).
    """
    b, c, stored, _ = images_BCRR.shape
    top, left, height, width = boxes_B4.unbind(1)
    rows, columns = _weights(top, height, None, stored, size), _weights(left, width, flip_B, stored, size)
    out = images_BCRR.new_empty(b, c, size, size)
    chunk = max(1, _CHUNK // (c * stored * size)) if out.device.type == "cpu" else b
    for x, row, column, to in zip(*(t.split(chunk) for t in (images_BCRR, rows, columns, out)), strict=True):
        x = (row[:, None] @ x.float()).view(len(x), c * size, stored) @ column.mT
        to.copy_(x.add_(0.5).to(torch.int16).view_as(to))
    return out


def to_uint8(x: Tensor) -> Tensor:
    """Float values in 0-255, cut to whole numbers. By way of int16: that cast is vectorised, float to uint8 is not."""
    return x.to(torch.int16).to(torch.uint8)


def shift(images_BCSS: Tensor, offset_B2: Tensor | None, flip_B: Tensor | None) -> Tensor:
    """Each picture mirrored where `flip`, and of it the window that begins at `offset` (y, x); zeros outside. uint8."""
    b, c, size, _ = images_BCSS.shape
    at = torch.arange(size, device=images_BCSS.device)
    y_B2 = torch.zeros(b, 2, dtype=torch.long, device=at.device) if offset_B2 is None else offset_B2
    y, x = (y_B2[:, :, None] + at).unbind(1)
    within = None
    if offset_B2 is not None:
        within = ((y >= 0) & (y < size))[:, None, :, None] & ((x >= 0) & (x < size))[:, None, None, :]
        y, x = y.clamp(0, size - 1), x.clamp(0, size - 1)
    if flip_B is not None:
        x = torch.where(flip_B[:, None], size - 1 - x, x)
    source = (y[:, :, None] * size + x[:, None, :]).view(b, 1, size * size).expand(b, c, size * size)
    moved = images_BCSS.reshape(b, c, size * size).gather(2, source).view(b, c, size, size)
    return moved if within is None else moved.mul_(within.to(torch.uint8))

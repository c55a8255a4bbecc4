"""The operations of the augmentation policies on a batch of uint8 pictures, each for the pictures that drew it.

Slot by slot the pictures are sorted by the operation they drew, so that each operation works on one contiguous stretch and
nothing is scattered back; one permutation at the end restores their places. Every operation on single values (invert,
equalise, contrast, ...) is a table of 256 entries for each picture and channel, and one look-up applies them all. The
results are those of torchvision.transforms.functional on uint8 tensors: the float32 arithmetic is the same, step for step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .geometry import to_uint8
from .policies import OPERATIONS, Draws


def apply_draws(images_BCHW: Tensor, draws: Draws) -> Tensor:
    """The square pictures after the operations they drew, uint8 [B, C, S, S]. `draws` are on the CPU."""
    device, x = images_BCHW.device, images_BCHW
    place = torch.arange(len(x))  # which picture lies where
    for op, magnitude, apply in zip(draws.op.mT, draws.magnitude.mT, draws.apply.mT, strict=True):
        op, order = (op * apply)[place].sort(stable=True)
        place = place[order]
        magnitude = magnitude[place]
        x = x.index_select(0, order.to(device, non_blocking=True))
        # Whatever the device needs to know of this slot goes there at once, in float32 as torchvision rounds it.
        values = torch.stack((magnitude, 1 + magnitude, 1 - (1 + magnitude)), 1).float().to(device, non_blocking=True)
        ends = [0, *torch.bincount(op, minlength=len(OPERATIONS)).cumsum(0).tolist()]
        part = {name: slice(*ends[i : i + 2]) for i, name in enumerate(OPERATIONS) if ends[i] < ends[i + 1]}

        tables = {name: rows for name, rows in part.items() if name in _TABLES}
        if tables:
            rows = _span(tables)
            x[rows] = _look_up(x, tables, values, rows)
        if (rows := part.get("Color")) and x.shape[1] == 3:
            x[rows] = _blend(x[rows], _grey(x[rows]), values[rows])
        if (rows := part.get("Sharpness")) and x.shape[-1] > 2:
            x[rows] = _blend(x[rows], _blurred(x[rows]), values[rows])
        affine = {name: rows for name, rows in part.items() if name in _AFFINE}
        if affine:
            rows = _span(affine)
            theta = _inverse_affine(affine, magnitude, x.shape[-1])[rows]
            x[rows] = _affine(x[rows], theta.to(device, non_blocking=True))
    return x.index_select(0, place.argsort().to(device, non_blocking=True))


def _span(part: dict[str, slice]) -> slice:
    """The stretch of neighbouring parts. (Operations of a kind follow one another in OPERATIONS.)"""
    return slice(min(r.start for r in part.values()), max(r.stop for r in part.values()))


# ---------------------------------------------------------------------------------------------------------------------
# Operations on single values: tables float32 [n, C or 1, 256] for the pictures [n, C, H, W], whose `values` [n, 3] are
# (magnitude m, factor 1 + m, its rest 1 - (1 + m)). `ramp` is 0, 1, ... 255.


def _autocontrast(ramp: Tensor, x: Tensor, values: Tensor) -> Tensor:
    low, high = x.amin((2, 3)).float()[..., None], x.amax((2, 3)).float()[..., None]
    flat = low == high
    scale = torch.where(flat, 1.0, 255 / (high - low))
    return ((ramp - torch.where(flat, 0.0, low)) * scale).clamp_(0, 255)


def _equalize(ramp: Tensor, x: Tensor, values: Tensor) -> Tensor:
    n, c, h, w = x.shape
    counts = torch.zeros(n, c, 256, device=x.device)
    counts.scatter_add_(2, x.reshape(n, c, h * w).long(), counts.new_ones(()).expand(n, c, h * w))
    highest = counts.gather(2, x.amax((2, 3))[..., None].long())
    step = ((h * w - highest) / 255).floor_()
    below = counts.cumsum(2).sub_(counts)  # whole numbers below 2^24, so float32 is exact
    table = ((below + step / 2) / step).floor_().clamp_(0, 255)
    return torch.where(step == 0, ramp, table)


def _invert(ramp: Tensor, x: Tensor, values: Tensor) -> Tensor:
    return 255 - ramp


def _solarize(ramp: Tensor, x: Tensor, values: Tensor) -> Tensor:
    return torch.where(ramp >= values[:, :1, None], 255 - ramp, ramp)


def _posterize(ramp: Tensor, x: Tensor, values: Tensor) -> Tensor:
    step = torch.bitwise_left_shift(1, 8 - values[:, :1, None].int())
    return (ramp.int() & -step).float()


def _contrast(ramp: Tensor, x: Tensor, values: Tensor) -> Tensor:
    mean = _grey(x).mean((2, 3))[..., None]
    return (values[:, 1, None, None] * ramp + values[:, 2, None, None] * mean).clamp_(0, 255)


def _brightness(ramp: Tensor, x: Tensor, values: Tensor) -> Tensor:
    return (values[:, 1, None, None] * ramp).clamp_(0, 255)


_TABLES = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Solarize": _solarize,
    "Posterize": _posterize,
    "Contrast": _contrast,
    "Brightness": _brightness,
}


def _look_up(x_BCHW: Tensor, tables: dict[str, slice], values: Tensor, rows: slice) -> Tensor:
    """The pictures in `rows` through their tables; `tables` says which operation's pictures lie where."""
    x = x_BCHW[rows]
    n, c, h, w = x.shape
    ramp = torch.arange(256, device=x.device, dtype=torch.float32)
    table = torch.empty(n, c, 256, device=x.device)
    for name, r in tables.items():
        table[r.start - rows.start : r.stop - rows.start] = _TABLES[name](ramp, x_BCHW[r], values[r])
    return to_uint8(table).gather(2, x.reshape(n, c, h * w).long()).view(n, c, h, w)


# ---------------------------------------------------------------------------------------------------------------------
# Operations on whole pictures


def _blend(x: Tensor, other: Tensor, values: Tensor) -> Tensor:
    """factor * x + (1 - factor) * other, cut to whole numbers 0-255."""
    factor, rest = values[:, 1, None, None, None], values[:, 2, None, None, None]
    return to_uint8((x.float() * factor).add_(other * rest).clamp_(0, 255))


def _grey(x: Tensor) -> Tensor:
    """Luminance in whole numbers, float32 [n, 1, H, W]; the channel itself where there is only one."""
    if x.shape[1] == 1:
        return x.float()
    red, green, blue = x.float().split(1, 1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor_()


def _blurred(x: Tensor) -> Tensor:
    """The mean of each pixel (weight 5) and its neighbours (weight 1), rounded; border pixels as they are. float32."""
    y = x.to(torch.int16)
    rows = y[..., :-2, :] + y[..., 1:-1, :] + y[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * y[..., 1:-1, 1:-1]
    out = x.float()
    out[..., 1:-1, 1:-1] = (total / 13).round_()  # a whole number over 13 is never half-way between two
    return out


_AFFINE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def _inverse_affine(affine: dict[str, slice], magnitude: Tensor, size: int) -> Tensor:
    """From an output pixel (x, y), counted from the centre, to its source: float32 [B, 2, 3], on the CPU.

    Shears leave the upper left corner in its place, translations are by whole pixels, rotations counter-clockwise about
    the centre. Worked out in float64, as torchvision does.
    """
    theta = torch.eye(2, 3, dtype=torch.float64).repeat(len(magnitude), 1, 1)
    for name, rows in affine.items():
        m, row = magnitude[rows], int(name.endswith("Y"))
        if name == "Rotate":
            theta[rows, 0, 0] = theta[rows, 1, 1] = m.deg2rad().cos()
            theta[rows, 1, 0] = m.deg2rad().sin()
            theta[rows, 0, 1] = -theta[rows, 1, 0]
        elif name.startswith("Shear"):
            theta[rows, row, 1 - row] = m
            theta[rows, row, 2] = m * (size / 2)
        else:
            theta[rows, row, 2] = -m.trunc()
    return theta.float()


def _affine(x: Tensor, theta_n23: Tensor) -> Tensor:
    """Each picture sampled at the nearest pixel where `theta` points; zeros outside. uint8."""
    size = x.shape[-1]
    at = torch.arange(size, device=x.device) - (size - 1) / 2
    # Written out, since a batched product with 3 terms is slow; added up in this order, as such a product does.
    tx, ty, t1 = (theta_n23 / (0.5 * size))[..., None, None].unbind(2)
    grid_n2SS = (tx * at + ty * at[:, None]).add_(t1)
    return to_uint8(grid_sample(x.float(), grid_n2SS.permute(0, 2, 3, 1), mode="nearest", align_corners=False))

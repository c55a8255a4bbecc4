"""Applies the operations of the augmentation policies to a batch of uint8 images.

In each slot, the images are sorted by their drawn operation, so that each operation processes one contiguous range. One
permutation at the end restores the order. `plan_policy` computes the order and parameters on the CPU. `apply_policy` needs only
this plan from the host. Operations on single values (invert, equalise, contrast, ...) are a table of 256 entries per image, or
per image and channel. One look-up applies all of them. The results equal those of torchvision.transforms.functional on uint8
tensors: the float32 arithmetic is the same in every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .geometry import to_uint8
from .policies import AFFINE, OPERATIONS, Draws

_FIXED = OPERATIONS[1:6]  # operations whose tables depend only on the magnitude
_TABLES = OPERATIONS[1:9]
_BLENDS = OPERATIONS[9:11]
_RAMP = torch.arange(256.0)


@dataclass(frozen=True)
class Slot:
    """Holds one slot of a plan. `order` int64 [B] sorts the images by operation; `parts` are the ranges of the operations.

    `tables` uint8 [images of _FIXED, 256]. `factors` float32 [B, 2]: the factor of an enhancement, and 1 minus the factor.
    `theta` float32 [images of AFFINE, 2, 3].
    """

    order: Tensor
    parts: dict[str, slice]
    tables: Tensor
    factors: Tensor
    theta: Tensor


@dataclass(frozen=True)
class Plan:
    """Holds the operations of a batch for `apply_policy`. `place` int64 [B] restores the order. `bicubic`: see `Draws`."""

    slots: tuple[Slot, ...]
    place: Tensor
    bicubic: bool


def plan_policy(draws: Draws, size: int) -> Plan:
    """Plans the operations on square images `size` pixels wide, on the CPU."""
    slots, place = [], torch.arange(len(draws.op))  # the image at each position
    for op, magnitude, apply in zip(draws.op.mT, draws.magnitude.mT, draws.apply.mT, strict=True):
        op, order = (op * apply)[place].sort(stable=True)
        place = place[order]
        magnitude = magnitude[place]
        ends = [0, *torch.bincount(op, minlength=len(OPERATIONS)).cumsum(0).tolist()]
        parts = {name: slice(*ends[i : i + 2]) for i, name in enumerate(OPERATIONS) if ends[i] < ends[i + 1]}
        values = magnitude.float()  # rounded as in torchvision
        slots.append(
            Slot(
                order,
                parts,
                _fixed_tables({name: values[rows] for name, rows in parts.items() if name in _FIXED}),
                torch.stack((1 + magnitude, 1 - (1 + magnitude)), 1).float(),
                _inverse_affine(parts, magnitude, size, draws.bicubic),
            )
        )
    return Plan(tuple(slots), place.argsort(), draws.bicubic)


def apply_policy(images_BCSS: Tensor, plan: Plan, fill_C: Tensor | None = None) -> Tensor:
    """Applies a plan to a batch of images: uint8 [B, C, S, S]. The tensors of the plan are on the device of the images.

    `fill` float32 [C]: grey levels that affine operations use outside the image (None: zero).
    """
    x, c = images_BCSS, images_BCSS.shape[1]
    for slot in plan.slots:
        x = x.index_select(0, slot.order)
        if rows := _span(slot.parts, _TABLES):
            x[rows] = _look_up(x[rows], _tables(x, slot, rows))
        blends = [
            name for name in _BLENDS if not ((name == "Color" and c != 3) or (name == "Sharpness" and x.shape[-1] < 3))
        ]
        if rows := _span(slot.parts, blends):
            others = [_OTHERS[name](x[slot.parts[name]]) for name in blends if name in slot.parts]
            x[rows] = _blend(x[rows], torch.cat(others), slot.factors[rows])
        if rows := _span(slot.parts, AFFINE):
            x[rows] = _affine(x[rows], slot.theta, plan.bicubic, fill_C)
    return x.index_select(0, plan.place)


def _span(parts: dict[str, slice], names: tuple[str, ...] | list[str]) -> slice | None:
    """Returns the range of the images with the named operations, which are adjacent in OPERATIONS."""
    present = [parts[name] for name in names if name in parts]
    return slice(present[0].start, present[-1].stop) if present else None


# ---------------------------------------------------------------------------------------------------------------------
# Operations on single values


def _fixed_tables(magnitudes: dict[str, Tensor]) -> Tensor:
    """Returns the tables, uint8 [n, 256], of operations that depend only on the value and the magnitude.

    `magnitudes` are float32.
    """
    ramp, tables = _RAMP, [torch.empty(0, 256)]
    for name, m in magnitudes.items():
        m = m[:, None]
        if name == "Invert":
            tables.append((255 - ramp).expand(len(m), 256))
        elif name == "Solarize":
            tables.append(torch.where(ramp >= m, 255 - ramp, ramp))
        elif name == "SolarizeAdd":
            tables.append(torch.where(ramp < 128, (ramp + m).clamp_(max=255), ramp))
        elif name == "Posterize":
            tables.append((ramp.int() & -torch.bitwise_left_shift(1, 8 - m.int())).float())
        else:
            tables.append(((1 + m) * ramp).clamp_(0, 255))
    return to_uint8(torch.cat(tables))


def _tables(x: Tensor, slot: Slot, rows: slice) -> Tensor:
    """Returns the tables of the images in `rows`, uint8 [n, C, 256]."""
    table = x.new_empty(rows.stop - rows.start, x.shape[1], 256)
    table[: len(slot.tables)] = slot.tables[:, None]
    ramp = torch.arange(256, device=x.device, dtype=torch.float32)
    for name, make in (("AutoContrast", _autocontrast), ("Equalize", _equalize), ("Contrast", _contrast)):
        if part := slot.parts.get(name):
            table[part.start - rows.start : part.stop - rows.start] = to_uint8(make(ramp, x[part], slot.factors[part]))
    return table


def _autocontrast(ramp: Tensor, x: Tensor, factors: Tensor) -> Tensor:
    low, high = x.amin((2, 3)).float()[..., None], x.amax((2, 3)).float()[..., None]
    flat = low == high
    scale = torch.where(flat, 1.0, 255 / (high - low))
    return ((ramp - torch.where(flat, 0.0, low)) * scale).clamp_(0, 255)


def _equalize(ramp: Tensor, x: Tensor, factors: Tensor) -> Tensor:
    n, c, h, w = x.shape
    counts = torch.zeros(n, c, 256, device=x.device)
    counts.scatter_add_(2, x.reshape(n, c, h * w).long(), counts.new_ones(()).expand(n, c, h * w))
    highest = counts.gather(2, x.amax((2, 3))[..., None].long())
    step = ((h * w - highest) / 255).floor_()
    below = counts.cumsum(2).sub_(counts)  # whole numbers below 2^24, so float32 is exact
    table = ((below + step / 2) / step).floor_().clamp_(0, 255)
    return torch.where(step == 0, ramp, table)


def _contrast(ramp: Tensor, x: Tensor, factors: Tensor) -> Tensor:
    mean = _grey(x).mean((2, 3))[..., None]
    return (factors[:, :1, None] * ramp + factors[:, 1:, None] * mean).clamp_(0, 255)


def _look_up(x: Tensor, table: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return table.gather(2, x.reshape(n, c, h * w).long()).view(n, c, h, w)


# ---------------------------------------------------------------------------------------------------------------------
# Operations on images


def _blend(x: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    """Returns factor * x + (1 - factor) * other, clipped to 0-255 and truncated."""
    factor, rest = factors[..., None, None, None].unbind(1)
    return to_uint8((x.float() * factor).add_(other * rest).clamp_(0, 255))


def _grey(x: Tensor) -> Tensor:
    """Returns the luminance, truncated to integers, float32 [n, 1, H, W]. Returns a single channel unchanged."""
    if x.shape[1] == 1:
        return x.float()
    red, green, blue = x.float().split(1, 1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor_()


def _blurred(x: Tensor) -> Tensor:
    """Returns the mean of each pixel (weight 5) and its neighbours (weight 1), rounded: float32. Keeps border pixels."""
    y = x.to(torch.int16)
    rows = y[..., :-2, :] + y[..., 1:-1, :] + y[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * y[..., 1:-1, 1:-1]
    out = x.float()
    out[..., 1:-1, 1:-1] = (total / 13).round_()  # an integer divided by 13 is never half-way between two integers
    return out


_OTHERS = {"Color": lambda x: _grey(x).expand_as(x), "Sharpness": _blurred}


def _inverse_affine(parts: dict[str, slice], magnitude: Tensor, size: int, fractions: bool) -> Tensor:
    """Returns the map from an output pixel (x, y), relative to the centre, to its source: float32 [images of AFFINE, 2, 3].

    Shears fix the upper left corner. Rotations are counter-clockwise about the centre. Translations are by whole pixels
    unless `fractions`. The computation is in float64, as in torchvision.
    """
    rows = _span(parts, AFFINE) or slice(0)
    theta = torch.eye(2, 3, dtype=torch.float64).repeat(rows.stop - (rows.start or 0), 1, 1)
    for name in AFFINE:
        if name not in parts:
            continue
        m, part, row = magnitude[parts[name]], theta[parts[name].start - rows.start :], int(name.endswith("Y"))
        part = part[: len(m)]
        if name == "Rotate":
            part[:, 0, 0] = part[:, 1, 1] = m.deg2rad().cos()
            part[:, 1, 0] = m.deg2rad().sin()
            part[:, 0, 1] = -part[:, 1, 0]
        elif name.startswith("Shear"):
            part[:, row, 1 - row] = m
            part[:, row, 2] = m * (size / 2)
        else:
            part[:, row, 2] = -m if fractions else -m.trunc()
    return theta.float()


def _affine(x: Tensor, theta_n23: Tensor, bicubic: bool, fill_C: Tensor | None) -> Tensor:
    """Transforms each image by `theta`, with nearest or `bicubic` sampling, and `fill` outside: uint8."""
    size, x = x.shape[-1], x.float()
    at = torch.arange(size, device=x.device) - (size - 1) / 2
    # Explicit sum, because a batched product with 3 terms is slow. The order of summation is the same.
    tx, ty, t1 = (theta_n23 / (0.5 * size))[..., None, None].unbind(2)
    grid_n2SS = (tx * at + ty * at[:, None]).add_(t1)
    grid_nSS2 = grid_n2SS.permute(0, 2, 3, 1)
    fill = None if fill_C is None else fill_C[:, None, None]
    if bicubic:
        inside = ((grid_n2SS >= -1) & (grid_n2SS < 1)).all(1, keepdim=True)
        x = grid_sample(x, grid_nSS2, mode="bicubic", padding_mode="border", align_corners=False)
        return to_uint8(torch.where(inside, x.clamp_(0, 255).round_(), 0.0 if fill is None else fill))
    if fill is not None:
        x -= fill  # so that the zeros outside become `fill`
    x = grid_sample(x, grid_nSS2, mode="nearest", align_corners=False)
    return to_uint8(x if fill is None else x.add_(fill))

"""The operations of the augmentation policies on a batch of uint8 pictures, each for the pictures that drew it.

Slot by slot the pictures are sorted by the operation they drew, so that each operation works on one contiguous stretch and
nothing is scattered back; one permutation at the end restores their places. Every operation on single values (invert,
equalise, contrast, ...) is a table of 256 entries for each picture and channel, and one look-up applies them all. The
results are those of torchvision.transforms.functional on uint8 tensors: the float32 arithmetic is the same, step for step.
"""

from __future__ import annotations

import math

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
        factor = 1 + magnitude
        values = torch.stack((magnitude, factor, 1 - factor), 1).float().to(device, non_blocking=True)
        ends = [0, *torch.bincount(op, minlength=len(OPERATIONS)).cumsum(0).tolist()]
        part = {name: slice(*ends[i : i + 2]) for i, name in enumerate(OPERATIONS) if ends[i] < ends[i + 1]}

        _look_up(x, {name: rows for name, rows in part.items() if name in _TABLES}, values)
        if (rows := part.get("Color")) and x.shape[1] == 3:
            x[rows] = _blend(x[rows].float(), _grey(x[rows]), values[rows])
        if (rows := part.get("Sharpness")) and x.shape[-1] > 2:
            x[rows] = _blend(x[rows].float(), _blurred(x[rows]), values[rows])
        rows = slice(ends[OPERATIONS.index("ShearX")], ends[-1])
        if rows.start < rows.stop:
            theta = _inverse_affine(op[rows], magnitude[rows], x.shape[-1])
            x[rows] = _affine(x[rows], theta.to(device, non_blocking=True))
    return x.index_select(0, place.argsort().to(device, non_blocking=True))


# ---------------------------------------------------------------------------------------------------------------------
# Operations on single values: a table float32 [n, C or 1, 256] from the pictures [n, C, H, W] and (m, 1 + m, -m) [n, 3]


def _ramp(x: Tensor) -> Tensor:
    return torch.arange(256, device=x.device, dtype=torch.float32)


def _autocontrast(x: Tensor, values: Tensor) -> Tensor:
    low, high = x.amin((2, 3)).float()[..., None], x.amax((2, 3)).float()[..., None]
    flat = low == high
    scale = torch.where(flat, 1.0, 255 / (high - low))
    return ((_ramp(x) - torch.where(flat, 0.0, low)) * scale).clamp_(0, 255)


def _equalize(x: Tensor, values: Tensor) -> Tensor:
    n, c, h, w = x.shape
    counts = torch.zeros(n, c, 256, device=x.device)
    counts.scatter_add_(2, x.reshape(n, c, h * w).long(), torch.ones((), device=x.device).expand(n, c, h * w))
    highest = counts.gather(2, x.amax((2, 3))[..., None].long())
    step = ((h * w - highest) / 255).floor_()
    below = counts.cumsum(2).sub_(counts)  # whole numbers, so that float32 is exact
    table = ((below + (step / 2).floor_()) / step).floor_().clamp_(0, 255)
    return torch.where(step == 0, _ramp(x), table)


def _invert(x: Tensor, values: Tensor) -> Tensor:
    return (255 - _ramp(x)).expand(len(x), 1, 256)


def _solarize(x: Tensor, values: Tensor) -> Tensor:
    ramp = _ramp(x)
    return torch.where(ramp >= values[:, None, :1], 255 - ramp, ramp)


def _posterize(x: Tensor, values: Tensor) -> Tensor:
    step = torch.bitwise_left_shift(1, 8 - values[:, None, :1].int())
    return (_ramp(x).int() & -step).float()


def _contrast(x: Tensor, values: Tensor) -> Tensor:
    grey = _grey(x) if x.shape[1] == 3 else x.float()
    return _blend_values(_ramp(x), grey.mean((2, 3)).mean(1)[:, None, None], values[:, :, None, None])


def _brightness(x: Tensor, values: Tensor) -> Tensor:
    return (_ramp(x) * values[:, None, 1:2]).clamp_(0, 255)


_TABLES = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Solarize": _solarize,
    "Posterize": _posterize,
    "Contrast": _contrast,
    "Brightness": _brightness,
}

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
        factor = 1 + magnitude
        values = torch.stack((magnitude, factor, 1 - factor), 1).float().to(device, non_blocking=True)
        ends = [0, *torch.bincount(op, minlength=len(OPERATIONS)).cumsum(0).tolist()]
        part = {name: slice(*ends[i : i + 2]) for i, name in enumerate(OPERATIONS) if ends[i] < ends[i + 1]}

        _look_up(x, {name: rows for name, rows in part.items() if name in _TABLES}, values)
        if (rows := part.get("Color")) and x.shape[1] == 3:
            x[rows] = _blend(x[rows], _grey(x[rows]), values[rows])
        if (rows := part.get("Sharpness")) and x.shape[-1] > 2:
            x[rows] = _blend(x[rows], _blurred(x[rows]), values[rows])
        rows = slice(ends[OPERATIONS.index("ShearX")], ends[-1])
        if rows.start < rows.stop:
            theta = _inverse_affine(op[rows], magnitude[rows], x.shape[-1])
            x[rows] = _affine(x[rows], theta.to(device, non_blocking=True))
    return x.index_select(0, place.argsort().to(device, non_blocking=True))


# ---------------------------------------------------------------------------------------------------------------------
# Operations on single values: a table float32 [n, C or 1, 256] for the pictures [n, C, H, W], whose `values` [n, 3] are
# (magnitude m, factor 1 + m, its rest 1 - (1 + m))


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
    counts.scatter_add_(2, x.reshape(n, c, h * w).long(), counts.new_ones(()).expand(n, c, h * w))
    highest = counts.gather(2, x.amax((2, 3))[..., None].long())
    step = ((h * w - highest) / 255).floor_()
    below = counts.cumsum(2).sub_(counts)  # whole numbers below 2^24, so float32 is exact
    table = ((below + (step / 2).floor_()) / step).floor_().clamp_(0, 255)
    return torch.where(step == 0, _ramp(x), table)


def _invert(x: Tensor, values: Tensor) -> Tensor:
    return 255 - _ramp(x)


def _solarize(x: Tensor, values: Tensor) -> Tensor:
    ramp = _ramp(x)
    return torch.where(ramp >= values[:, :1, None], 255 - ramp, ramp)


def _posterize(x: Tensor, values: Tensor) -> Tensor:
    step = torch.bitwise_left_shift(1, 8 - values[:, :1, None].int())
    return (_ramp(x).int() & -step).float()


def _contrast(x: Tensor, values: Tensor) -> Tensor:
    mean = _grey(x).mean((2, 3))[..., None]
    return (values[:, 1, None, None] * _ramp(x) + values[:, 2, None, None] * mean).clamp_(0, 255)


def _brightness(x: Tensor, values: Tensor) -> Tensor:
    return (values[:, 1, None, None] * _ramp(x)).clamp_(0, 255)


_TABLES = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Solarize": _solarize,
    "Posterize": _posterize,
    "Contrast": _contrast,
    "Brightness": _brightness,
}


def _look_up(x_BCHW: Tensor, part: dict[str, slice], values: Tensor) -> None:
    """Applies, in place, the table operations drawn: `part` says which operation's pictures lie where."""
    if not part:
        return
    # The operations with tables come one after another, so the pictures that drew one are one stretch.
    rows = slice(min(r.start for r in part.values()), max(r.stop for r in part.values()))
    x = x_BCHW[rows]
    n, c, h, w = x.shape
    table = torch.empty(n, c, 256, dtype=torch.uint8, device=x.device)
    for name, r in part.items():
        table[r.start - rows.start : r.stop - rows.start] = to_uint8(_TABLES[name](x_BCHW[r], values[r]))
    x_BCHW[rows] = table.gather(2, x.view(n, c, h * w).long()).view(n, c, h, w)


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


def _inverse_affine(op: Tensor, magnitude: Tensor, size: int) -> Tensor:
    """From each output pixel to its source, (x, y, 1) counted from the centre in pixels: float32 [n, 3, 2] on the CPU.

    Shears keep the upper left corner in its place, translations are by whole pixels, rotations counter-clockwise and
    about the centre. Worked out in float64, as torchvision does.
    """
    is_op = {name: op == OPERATIONS.index(name) for name in OPERATIONS[OPERATIONS.index("ShearX") :]}
    angle = torch.where(is_op["Rotate"], magnitude, 0.0).deg2rad()
    theta = torch.stack((angle.cos(), -angle.sin(), angle * 0, angle.sin(), angle.cos(), angle * 0), 1).view(-1, 2, 3)
    for row, other, axis in ((0, 1, "X"), (1, 0, "Y")):
        shear = torch.where(is_op[f"Shear{axis}"], magnitude, 0.0)
        theta[:, row, other] += shear
        theta[:, row, 2] += shear * (size / 2) - torch.where(is_op[f"Translate{axis}"], magnitude, 0.0).trunc()
    return theta.float().mT.contiguous()


def _affine(x: Tensor, theta_n32: Tensor) -> Tensor:
    """Each picture sampled at the nearest pixel where `theta` points; zeros outside. uint8."""
    size = x.shape[-1]
    at = torch.arange(size, device=x.device) - (size - 1) / 2
    # Written out, since a batched product with 3 terms is slow; added up in this order, as such a product does.
    tx, ty, t1 = (theta_n32 / (0.5 * size))[..., None, None].unbind(1)
    grid_n2SS = (tx * at + ty * at[:, None]).add_(t1)
    return to_uint8(grid_sample(x.float(), grid_n2SS.permute(0, 2, 3, 1), mode="nearest", align_corners=False))

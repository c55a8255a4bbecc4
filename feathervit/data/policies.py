"""Draws the operations of AutoAugment, RandAugment and TrivialAugmentWide for each image of a batch.

A policy is drawn for a full batch at once, on the CPU. The result is `Draws`: per image and slot, the operation, its signed
magnitude, and whether it is applied. operations.py applies them. AutoAugment and TrivialAugmentWide match torchvision: the
sub-policies come from its public `policies`, and the ranges are defined here and tested against it. RandAugment is timm's
`rand-m9-mstd0.5-inc1`, as in the training code of DeiT, MAE and SSAT.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

# Operations of one kind are adjacent: fixed tables, tables that depend on the image, enhancements, affine operations.
OPERATIONS = (
    "Identity",
    "Invert",
    "Solarize",
    "SolarizeAdd",
    "Posterize",
    "Brightness",
    "AutoContrast",
    "Equalize",
    "Contrast",
    "Color",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)
ENHANCEMENTS = ("Brightness", "Contrast", "Color", "Sharpness")
AFFINE = OPERATIONS[11:]
_SIGNED = torch.tensor([name in ENHANCEMENTS + AFFINE for name in OPERATIONS])
_TRIVIAL = torch.tensor([i for i, name in enumerate(OPERATIONS) if name not in ("Invert", "SolarizeAdd")])
_RAND_PROBABILITY = 0.5  # probability of applying a drawn operation, as in timm


@dataclass(frozen=True)
class Draws:
    """Holds the draws of a policy for each image of a batch: all [B, slots], in the order of application.

    `op`: int64, index in OPERATIONS. `magnitude`: signed float64 (pixels for translations, degrees for rotation, bits for
    posterise, threshold for solarise, increment for solarise-add, factor - 1 for enhancements). `apply`: bool. `bicubic`:
    affine operations interpolate, and translations are by fractions of a pixel, as in timm's RandAugment. Otherwise affine
    operations take the nearest pixel, and translations are by whole pixels, as in torchvision.
    """

    op: Tensor
    magnitude: Tensor
    apply: Tensor
    bicubic: bool = False

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(self.op[rows], self.magnitude[rows], self.apply[rows], self.bicubic)


@functools.cache
def magnitudes(name: str, size: int) -> Tensor:
    """Returns torchvision's magnitudes of an AutoAugment policy or "trivial" for square images `size` pixels wide.

    The result is float64 [operations, bins], without sign.
    """
    wide = name == "trivial"
    bins = 31 if wide else 10
    enhance = 0.99 if wide else 0.9
    shift = 32.0 if wide else 150.0 / 331.0 * size
    tops = {
        "ShearX": 0.99 if wide else 0.3,
        "ShearY": 0.99 if wide else 0.3,
        "TranslateX": shift,
        "TranslateY": shift,
        "Rotate": 135.0 if wide else 30.0,
        **dict.fromkeys(ENHANCEMENTS, enhance),
    }
    table = torch.stack([torch.linspace(0.0, tops.get(op, 0.0), bins) for op in OPERATIONS])
    table[OPERATIONS.index("Solarize")] = torch.linspace(255.0, 0.0, bins)
    bits = 6 if wide else 4
    table[OPERATIONS.index("Posterize")] = 8 - (torch.arange(bins) / ((bins - 1) / bits)).round()
    return table.double()


def rand_magnitudes(op: Tensor, level: Tensor, size: int) -> Tensor:
    """Returns timm's magnitudes of operations `op` (indices in OPERATIONS) at `level` 0 to 10, for images `size` wide.

    Magnitudes increase with the level (timm's `inc1`). The result is float64 of the same shape, without sign.
    """
    top = _rand_tops(size)[op]
    values = level / 10 * top
    posterize, solarize, add = (op == OPERATIONS.index(name) for name in ("Posterize", "Solarize", "SolarizeAdd"))
    values = torch.where(posterize | solarize | add, values.floor(), values)
    return torch.where(posterize | solarize, top - values, values)  # the number of kept bits and the threshold decrease


@functools.cache
def _rand_tops(size: int) -> Tensor:
    """Returns the magnitudes at level 10, float64 [operations]. For posterise and solarise this is the decrease."""
    tops = {
        "Rotate": 30.0,
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 0.45 * size,
        "TranslateY": 0.45 * size,
        "Solarize": 256.0,
        "SolarizeAdd": 110.0,
        "Posterize": 4.0,
        **dict.fromkeys(ENHANCEMENTS, 0.9),
    }
    return torch.tensor([tops.get(name, 0.0) for name in OPERATIONS], dtype=torch.float64)


def sub_policies_raw(name: str) -> list[tuple]:
    """Returns the rows of AutoAugment's table "cifar10", "svhn" or "imagenet", from torchvision.

    Each row is two triples (operation, probability, bin).
    """
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return AutoAugment(AutoAugmentPolicy(name)).policies


@functools.cache
def sub_policies(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns these rows as tensors: operation, probability and bin, each [sub-policies, 2]."""
    rows = sub_policies_raw(name)
    op = torch.tensor([[OPERATIONS.index(o) for o, _, _ in row] for row in rows])
    probability = torch.tensor([[p for _, p, _ in row] for row in rows])
    return op, probability, torch.tensor([[0 if m is None else m for _, _, m in row] for row in rows])


def draw_policy(
    name: str,
    batch: int,
    size: int,
    generator: torch.Generator,
    rand_ops: int = 2,
    rand_magnitude: float = 9.0,
    rand_std: float = 0.5,
) -> Draws:
    """Draws a policy for `batch` images `size` pixels wide.

    - "cifar10", "svhn", "imagenet": one sub-policy per image. Each of its two operations is applied or not.
    - "trivial": one operation, with a uniform bin of 31.
    - "rand": `rand_ops` operations with replacement, each applied with probability 0.5. Each has a separate level from
      N(`rand_magnitude`, `rand_std`), clipped to 0-10.

    Signs are fair coins.
    """
    if name == "rand":
        # Any operation except the identity
        op = torch.randint(1, len(OPERATIONS), (batch, rand_ops), generator=generator)
        apply = torch.rand(op.shape, generator=generator) < _RAND_PROBABILITY
        level = torch.randn(op.shape, generator=generator, dtype=torch.float64)
        magnitude = rand_magnitudes(op, (rand_magnitude + rand_std * level).clamp_(0, 10), size)
    elif name == "trivial":
        op = _TRIVIAL[torch.randint(len(_TRIVIAL), (batch, 1), generator=generator)]
        apply = torch.ones(op.shape, dtype=torch.bool)
        magnitude = magnitudes(name, size)[op, torch.randint(31, op.shape, generator=generator)]
    else:
        ops, probability, bins = sub_policies(name)
        row = torch.randint(len(ops), (batch,), generator=generator)
        op = ops[row]
        apply = torch.rand(op.shape, generator=generator) <= probability[row]
        magnitude = magnitudes(name, size)[op, bins[row]]
    negative = torch.randint(2, op.shape, generator=generator, dtype=torch.bool) & _SIGNED[op]
    return Draws(op, torch.where(negative, -magnitude, magnitude), apply, bicubic=name == "rand")

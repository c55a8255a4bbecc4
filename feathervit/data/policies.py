"""AutoAugment, RandAugment and TrivialAugmentWide: which operations each picture of a batch drew, as data.

A policy is drawn for the whole batch at once, on the CPU, and yields `Draws`: for every picture and slot the operation, its
signed magnitude and whether it is applied. `operations.apply_draws` carries them out. The numbers are torchvision's:
AutoAugment's sub-policies come from its public `policies`, the ranges of magnitudes are written here and tested against it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

# In this order operations of one kind lie side by side: table look-ups, then the rest, then the affine ones.
OPERATIONS = (
    "Identity",
    "AutoContrast",
    "Equalize",
    "Invert",
    "Solarize",
    "Posterize",
    "Contrast",
    "Brightness",
    "Color",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)
_SIGNED = torch.tensor([name in OPERATIONS[6:] for name in OPERATIONS])
_RANDOM = torch.tensor(
    [i for i, name in enumerate(OPERATIONS) if name != "Invert"]
)  # of RandAugment and TrivialAugment


@dataclass(frozen=True)
class Draws:
    """What each picture of a batch drew: all [B, slots], in the order in which they are applied.

    `op`: int64, place in OPERATIONS. `magnitude`: float64 with its sign, as torchvision hands it to the operation (pixels for
    translations, degrees for rotation, bits for posterise, threshold for solarise, factor - 1 for the enhancements).
    `apply`: bool.
    """

    op: Tensor
    magnitude: Tensor
    apply: Tensor

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(self.op[rows], self.magnitude[rows], self.apply[rows])


def magnitudes(name: str, size: int) -> Tensor:
    """The table of magnitudes of a policy for square pictures `size` wide: float64 [operations, bins], without sign."""
    wide = name == "trivial"
    bins = 31 if name in ("rand", "trivial") else 10
    enhance = 0.99 if wide else 0.9
    shift = 32.0 if wide else 150.0 / 331.0 * size
    tops = {
        "ShearX": 0.99 if wide else 0.3,
        "ShearY": 0.99 if wide else 0.3,
        "TranslateX": shift,
        "TranslateY": shift,
        "Rotate": 135.0 if wide else 30.0,
        "Brightness": enhance,
        "Color": enhance,
        "Contrast": enhance,
        "Sharpness": enhance,
    }
    table = torch.stack([torch.linspace(0.0, tops.get(op, 0.0), bins) for op in OPERATIONS])
    table[OPERATIONS.index("Solarize")] = torch.linspace(255.0, 0.0, bins)
    bits = 6 if wide else 4
    table[OPERATIONS.index("Posterize")] = 8 - (torch.arange(bins) / ((bins - 1) / bits)).round()
    return table.double()


def sub_policies_raw(name: str) -> list[tuple]:
    """torchvision's rows of AutoAugment's table "cifar10", "svhn" or "imagenet": two (operation, probability, bin) each."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return AutoAugment(AutoAugmentPolicy(name)).policies


@functools.cache
def sub_policies(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The same as tensors: operation, probability and bin, each [sub-policies, 2]."""
    rows = sub_policies_raw(name)
    op = torch.tensor([[OPERATIONS.index(o) for o, _, _ in row] for row in rows])
    probability = torch.tensor([[p for _, p, _ in row] for row in rows])
    return op, probability, torch.tensor([[0 if m is None else m for _, _, m in row] for row in rows])


def draw_policy(
    name: str, batch: int, size: int, generator: torch.Generator, rand_ops: int = 2, rand_magnitude: int = 9
) -> Draws:
    """Draws of `batch` pictures `size` pixels wide.

    "cifar10", "svhn", "imagenet": a sub-policy each, its two operations each on or off. "rand": `rand_ops` operations of
    magnitude bin `rand_magnitude` of 31. "trivial": one operation, its bin uniform over 31. Signs are fair coins.
    """
    if name in ("rand", "trivial"):
        slots = rand_ops if name == "rand" else 1
        op = _RANDOM[torch.randint(len(_RANDOM), (batch, slots), generator=generator)]
        apply = torch.ones(batch, slots, dtype=torch.bool)
        bins = torch.full((batch, slots), rand_magnitude)
        if name == "trivial":
            bins = torch.randint(31, (batch, slots), generator=generator)
    else:
        ops, probability, levels = sub_policies(name)
        row = torch.randint(len(ops), (batch,), generator=generator)
        op, bins = ops[row], levels[row]
        apply = torch.rand(op.shape, generator=generator) <= probability[row]
    negative = torch.randint(2, op.shape, generator=generator, dtype=torch.bool) & _SIGNED[op]
    magnitude = magnitudes(name, size)[op, bins]
    return Draws(op, torch.where(negative, -magnitude, magnitude), apply)

"""Every operation, and whole policies, against torchvision's per-image functions on the same draws.

Operations on values and neighbourhoods must be equal bit for bit. Affine ones pick the nearest pixel; where a point falls
half-way between two, float32 rounding decides, and torchvision's own rounding depends on the matrix product of the
machine: there 0.2 % of the pixels may differ.
"""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.functional as F
from sklearn.datasets import load_digits

from feathervit.benchmark.augment import pictures
from feathervit.data.operations import apply_draws
from feathervit.data.policies import OPERATIONS, Draws, draw_policy, magnitudes

AFFINE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TIES = 0.002


def reference(x: torch.Tensor, op: str, m: float) -> torch.Tensor:
    """torchvision's operation on one uint8 picture [C, H, W]; its AutoAugment classes call them with these arguments."""
    degrees = math.degrees(math.atan(m))
    match op:
        case "Identity":
            return x
        case "AutoContrast" | "Equalize" | "Invert":
            return getattr(F, op.lower())(x)
        case "Solarize":
            return F.solarize(x, m)
        case "Posterize":
            return F.posterize(x, int(m))
        case "Contrast" | "Brightness" | "Sharpness":
            return getattr(F, f"adjust_{op.lower()}")(x, 1 + m)
        case "Color":
            return F.adjust_saturation(x, 1 + m)
        case "ShearX":
            return F.affine(x, 0.0, [0, 0], 1.0, [degrees, 0.0], center=[0, 0])
        case "ShearY":
            return F.affine(x, 0.0, [0, 0], 1.0, [0.0, degrees], center=[0, 0])
        case "TranslateX":
            return F.affine(x, 0.0, [int(m), 0], 1.0, [0.0, 0.0])
        case "TranslateY":
            return F.affine(x, 0.0, [0, int(m)], 1.0, [0.0, 0.0])
        case "Rotate":
            return F.rotate(x, m)
    raise AssertionError(op)


def extremes(size: int) -> torch.Tensor:
    """All black, all white, one value, one odd pixel, two halves, a ramp, one channel black: uint8 [7, 3, size, size]."""
    x = torch.zeros(7, 3, size, size, dtype=torch.uint8)
    x[1] = 255
    x[2] = 77
    x[3] = 128
    x[3, :, 0, 0] = 129
    x[4, :, :, size // 2 :] = 255
    x[5] = torch.arange(size * size).view(size, size) % 256
    x[6] = x[5]
    x[6, 1] = 0
    return x


def digits() -> torch.Tensor:
    return (torch.from_numpy(load_digits().images[:40])[:, None] * (255 / 16)).to(torch.uint8)


SETS = {
    "photos": lambda: pictures(40, 32),
    "odd size": lambda: pictures(20, 17),
    "grey photos": lambda: pictures(40, 32)[:, :1].contiguous(),
    "digits": digits,
    "extremes": lambda: extremes(24),
    "grey extremes": lambda: extremes(24)[:, :1].contiguous(),
    "two pixels wide": lambda: pictures(8, 2),
}


def one_operation(op: str, values: torch.Tensor, n: int) -> Draws:
    index = torch.full((n, 1), OPERATIONS.index(op))
    return Draws(index, values[torch.arange(n) % len(values)][:, None], torch.ones(n, 1, dtype=torch.bool))


@pytest.mark.parametrize("source", SETS)
@pytest.mark.parametrize("op", OPERATIONS)
def test_each_operation_is_torchvisions(op, source):
    x = SETS[source]()
    table = torch.cat([magnitudes(name, x.shape[-1])[OPERATIONS.index(op)] for name in ("cifar10", "trivial")])
    values = table.unique()
    if op in OPERATIONS[6:]:
        values = torch.cat((values, -values))
    for start in range(0, len(values), len(x)):
        draws = one_operation(op, values[start : start + len(x)], len(x))
        got = apply_draws(x, draws)
        want = torch.stack([reference(p, op, float(m)) for p, m in zip(x, draws.magnitude, strict=True)])
        assert got.dtype == torch.uint8
        if op in AFFINE:
            assert (got != want).float().mean() <= TIES
        else:
            assert torch.equal(got, want)


@pytest.mark.parametrize("op", OPERATIONS[1:])
def test_each_operation_does_something(op):
    x = pictures(8, 32) // 2 + 20
    m = {"Solarize": 30.0, "Posterize": 4.0, "Rotate": 20.0, "TranslateX": 5.0, "TranslateY": -5.0}.get(op, 0.3)
    y = apply_draws(x, one_operation(op, torch.tensor([m], dtype=torch.float64), 8))
    assert (x != y).flatten(1).any(1).all()


@pytest.mark.parametrize("size", [32, 36])
@pytest.mark.parametrize("name", ["cifar10", "svhn", "imagenet", "rand", "trivial"])
def test_a_policy_is_torchvisions_sequence_of_operations(name, size):
    n = 300
    x = pictures(n, size)
    draws = draw_policy(name, n, size, torch.Generator().manual_seed(1))
    got = apply_draws(x, draws)
    for i in range(n):
        want, affine = x[i], False
        for op, m, apply in zip(draws.op[i], draws.magnitude[i], draws.apply[i], strict=True):
            if apply:
                want = reference(want, OPERATIONS[op], float(m))
                affine |= OPERATIONS[op] in AFFINE
        # What follows an affine operation (an equalisation, say) may spread one pixel's tie.
        assert torch.equal(got[i], want) or (affine and (got[i] != want).float().mean() < 0.02), (i, draws.op[i])
    assert (got != x).flatten(1).any(1).float().mean() > 0.5


def test_translation_is_by_whole_pixels_and_leaves_black():
    x = pictures(1, 32)
    y = apply_draws(x, one_operation("TranslateX", torch.tensor([5.9], dtype=torch.float64), 1))
    assert torch.equal(y[..., 5:], x[..., :-5])
    assert (y[..., :5] == 0).all()


def test_pictures_are_worked_on_alone_and_left_as_they_were():
    x = pictures(60, 24)
    before = x.clone()
    draws = draw_policy("imagenet", 60, 24, torch.Generator().manual_seed(2))
    together = apply_draws(x, draws)
    assert torch.equal(x, before)
    alone = torch.cat([apply_draws(x[i : i + 1], draws[i : i + 1]) for i in range(60)])
    assert torch.equal(together, alone)


def test_what_is_not_applied_changes_nothing():
    x = pictures(30, 16)
    draws = draw_policy("cifar10", 30, 16, torch.Generator().manual_seed(3))
    assert torch.equal(apply_draws(x, Draws(draws.op, draws.magnitude, draws.apply & False)), x)

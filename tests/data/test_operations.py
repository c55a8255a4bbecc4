"""Every operation, and whole policies, against torchvision's and timm's per-image functions on the same draws.

Operations on values and neighbourhoods must be equal bit for bit. Affine ones pick the nearest pixel.
If a point falls half-way between two pixels, float32 rounding decides. torchvision's rounding depends on the matrix
product of the machine, so 0.2 % of the pixels may differ there.
"""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from timm.data.auto_augment import NAME_TO_OP

from feathervit.benchmark.augment import random_images as images
from feathervit.data.operations import apply_policy, plan_policy
from feathervit.data.policies import AFFINE, ENHANCEMENTS, OPERATIONS, Draws, draw_policy, magnitudes, rand_magnitudes

TIES = 0.002


def apply_draws(x: torch.Tensor, draws: Draws, fill: torch.Tensor | None = None) -> torch.Tensor:
    return apply_policy(x, plan_policy(draws, x.shape[-1]), fill)


def reference(x: torch.Tensor, op: str, m: float) -> torch.Tensor:
    """torchvision's operation on one uint8 image [C, H, W]; its AutoAugment classes call them with these arguments."""
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
    "photos": lambda: images(40, 32),
    "odd size": lambda: images(20, 17),
    "grey photos": lambda: images(40, 32)[:, :1].contiguous(),
    "digits": digits,
    "extremes": lambda: extremes(24),
    "grey extremes": lambda: extremes(24)[:, :1].contiguous(),
    "two pixels wide": lambda: images(8, 2),
}


def one_operation(op: str, values: torch.Tensor, n: int, bicubic: bool = False) -> Draws:
    index = torch.full((n, 1), OPERATIONS.index(op))
    return Draws(index, values[torch.arange(n) % len(values)][:, None], torch.ones(n, 1, dtype=torch.bool), bicubic)


@pytest.mark.parametrize("source", SETS)
@pytest.mark.parametrize("op", [op for op in OPERATIONS if op != "SolarizeAdd"])
def test_each_operation_equals_torchvision(op, source):
    x = SETS[source]()
    table = torch.cat([magnitudes(name, x.shape[-1])[OPERATIONS.index(op)] for name in ("cifar10", "trivial")])
    values = table.unique()
    if op in (*ENHANCEMENTS, *AFFINE):
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
def test_each_operation_changes_the_image(op):
    x = images(8, 32) // 2 + 20
    m = {
        "Solarize": 30.0,
        "Posterize": 4.0,
        "SolarizeAdd": 40.0,
        "Rotate": 20.0,
        "TranslateX": 5.0,
        "TranslateY": -5.0,
    }.get(op, 0.3)
    y = apply_draws(x, one_operation(op, torch.tensor([m], dtype=torch.float64), 8))
    assert (x != y).flatten(1).any(1).all()


@pytest.mark.parametrize("size", [32, 36])
@pytest.mark.parametrize("name", ["cifar10", "svhn", "imagenet", "trivial"])
def test_a_policy_equals_torchvisions_sequence_of_operations(name, size):
    n = 300
    x = images(n, size)
    draws = draw_policy(name, n, size, torch.Generator().manual_seed(1))
    got = apply_draws(x, draws)
    for i in range(n):
        want, affine = x[i], False
        for op, m, apply in zip(draws.op[i], draws.magnitude[i], draws.apply[i], strict=True):
            if apply:
                want = reference(want, OPERATIONS[op], float(m))
                affine |= OPERATIONS[op] in AFFINE
        # Operations after an affine one, such as equalisation, may spread one pixel's tie.
        assert torch.equal(got[i], want) or (affine and (got[i] != want).float().mean() < 0.02), (i, draws.op[i])
    assert (got != x).flatten(1).any(1).float().mean() > 0.5


def test_translation_uses_whole_pixels_and_fills_black():
    x = images(1, 32)
    y = apply_draws(x, one_operation("TranslateX", torch.tensor([5.9], dtype=torch.float64), 1))
    assert torch.equal(y[..., 5:], x[..., :-5])
    assert (y[..., :5] == 0).all()


def test_images_are_independent_and_not_modified():
    x = images(60, 24)
    before = x.clone()
    draws = draw_policy("imagenet", 60, 24, torch.Generator().manual_seed(2))
    together = apply_draws(x, draws)
    assert torch.equal(x, before)
    alone = torch.cat([apply_draws(x[i : i + 1], draws[i : i + 1]) for i in range(60)])
    assert torch.equal(together, alone)


def test_operations_not_applied_change_nothing():
    x = images(30, 16)
    draws = draw_policy("cifar10", 30, 16, torch.Generator().manual_seed(3))
    assert torch.equal(apply_draws(x, Draws(draws.op, draws.magnitude, draws.apply & False)), x)


# ---------------------------------------------------------------------------------------------------------------------
# Against timm's RandAugment, on PIL images

GREY = (124, 116, 104)


def timm_operation(x: torch.Tensor, op: str, m: float) -> torch.Tensor:
    """timm's operation of the increasing set on one uint8 image, bicubic and filled with GREY."""
    name = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}.get(op, op)
    value = {"TranslateX": -m / x.shape[-1], "TranslateY": -m / x.shape[-1]}.get(op, 1 + m if op in ENHANCEMENTS else m)
    value = int(value) if op in ("Posterize", "Solarize", "SolarizeAdd") else value
    if op == "Posterize" and value == 0:  # new versions of PIL refuse it
        return torch.zeros_like(x)
    arguments = () if op in ("AutoContrast", "Equalize", "Invert") else (value,)
    image = NAME_TO_OP[name](F.to_pil_image(x), *arguments, fillcolor=GREY, resample=Image.Resampling.BICUBIC)
    return F.pil_to_tensor(image)


def levels_of(op: str, size: int) -> torch.Tensor:
    level = torch.tensor([0.0, 4.3, 8.2, 9.0, 9.7, 10.0], dtype=torch.float64)
    m = rand_magnitudes(torch.full((6,), OPERATIONS.index(op)), level, size)
    return torch.cat((m, -m)) if op in (*ENHANCEMENTS, *AFFINE) else m


@pytest.mark.parametrize("op", [op for op in OPERATIONS[1:] if op not in AFFINE])
def test_value_operations_agree_with_timm(op):
    x = images(24, 32)
    draws = one_operation(op, levels_of(op, 32), 24)
    want = torch.stack([timm_operation(p, op, float(m)) for p, m in zip(x, draws.magnitude, strict=True)])
    difference = (apply_draws(x, draws).int() - want.int()).abs()
    assert difference.max() <= 3  # PIL rounds luminance, means and look-up tables differently
    assert difference.float().mean() < 0.6


@pytest.mark.parametrize("size", [32, 17])
@pytest.mark.parametrize("op", AFFINE)
def test_affine_operations_fill_the_same_area_as_timm(op, size):
    """With one colour nothing depends on the filter, only on where the image ends."""
    x = torch.full((12, 3, size, size), 200, dtype=torch.uint8)
    draws = one_operation(op, levels_of(op, size), 12, bicubic=True)
    want = torch.stack([timm_operation(p, op, float(m)) for p, m in zip(x, draws.magnitude, strict=True)])
    got = apply_draws(x, draws, torch.tensor(GREY).float())
    assert (got == want).float().mean() >= 1 - TIES
    assert set(got[:, 0].unique().tolist()) == {GREY[0], 200}


@pytest.mark.parametrize("op", AFFINE)
def test_affine_operations_interpolate_like_timm(op):
    """PIL's cubic is a little sharper (-1 against torch's -0.75), so photos differ by a grey level or two."""
    x = images(24, 36)
    draws = one_operation(op, levels_of(op, 36), 24, bicubic=True)
    want = torch.stack([timm_operation(p, op, float(m)) for p, m in zip(x, draws.magnitude, strict=True)]).float()
    got = apply_draws(x, draws, torch.tensor(GREY).float()).float()
    assert (got - want).abs().mean() < 2
    nearest = apply_draws(x, one_operation(op, levels_of(op, 36), 24), torch.tensor(GREY).float()).float()
    assert (got - want).abs().mean() < 0.4 * (nearest - want).abs().mean()


def test_randaugment_agrees_with_timm():
    x = images(200, 32)
    draws = draw_policy("rand", 200, 32, torch.Generator().manual_seed(1))
    got = apply_draws(x, draws, torch.tensor(GREY).float())
    differences = []
    for i in range(200):
        want = x[i]
        for op, m, apply in zip(draws.op[i], draws.magnitude[i], draws.apply[i], strict=True):
            want = timm_operation(want, OPERATIONS[op], float(m)) if apply else want
        differences.append((got[i].float() - want.float()).abs().mean())
        assert draws.apply[i].any() or torch.equal(got[i], x[i])
    assert torch.stack(differences).quantile(0.9) < 3
    assert (got != x).flatten(1).any(1).float().mean() == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("op", AFFINE)
def test_fill_changes_only_the_empty_area(op):
    x = images(8, 24)
    m = {"Rotate": 25.0, "TranslateX": 7.0, "TranslateY": -6.0}.get(op, 0.3)
    got = apply_draws(x, one_operation(op, torch.tensor([m], dtype=torch.float64), 8), torch.tensor([128.0]))
    black = apply_draws(x // 2 + 60, one_operation(op, torch.tensor([m], dtype=torch.float64), 8))
    assert (got[black == 0] == 128).all() and (black == 0).float().mean() > 0.05
    whole = apply_draws(x, one_operation(op, torch.tensor([m], dtype=torch.float64), 8))
    assert torch.equal(got[black != 0], whole[black != 0])

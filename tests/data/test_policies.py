"""The draws: their tables against torchvision's, their frequencies against the policies'."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision import transforms as tv

from feathervit.data.policies import OPERATIONS, draw_policy, magnitudes, sub_policies

AUTO = ("cifar10", "svhn", "imagenet")
N = 20_000
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}


def draw(name, n=N, seed=0, **kwargs):
    return draw_policy(name, n, 32, torch.Generator().manual_seed(seed), **kwargs)


def torchvision_space(name: str, size: int) -> dict:
    if name == "trivial":
        return tv.TrivialAugmentWide()._augmentation_space(31)
    if name == "rand":
        return tv.RandAugment()._augmentation_space(31, (size, size))
    return tv.AutoAugment(tv.AutoAugmentPolicy(name))._augmentation_space(10, (size, size))


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("name", [*AUTO, "rand", "trivial"])
def test_magnitudes_are_torchvisions(name, size):
    ours = magnitudes(name, size)
    for op, (want, signed) in torchvision_space(name, size).items():
        assert torch.equal(ours[OPERATIONS.index(op)], want.double().expand(ours.shape[1])), op
        assert signed == (op in SIGNED)


@pytest.mark.parametrize("name", AUTO)
def test_sub_policies_are_drawn_alike_and_their_operations_as_often_as_the_table_says(name):
    draws = draw(name)
    ops, probability, bins = sub_policies(name)
    table = magnitudes(name, 32)
    # A drawn pair of operations and magnitudes tells the sub-policy, up to ones that are written down twice.
    keys = [
        tuple((int(o), float(table[o, b]), round(float(p), 3)) for o, b, p in zip(*row, strict=True))
        for row in zip(ops, bins, probability, strict=True)
    ]
    pairs = [tuple(k[:2] for k in key) for key in keys]
    drawn = [
        tuple((int(o), abs(float(m))) for o, m in zip(*row, strict=True))
        for row in zip(draws.op, draws.magnitude, strict=True)
    ]
    counts = {pair: drawn.count(pair) for pair in set(pairs)}
    assert sum(counts.values()) == N
    expected = {pair: N * pairs.count(pair) / len(pairs) for pair in counts}
    assert stats.chisquare([counts[p] for p in counts], [expected[p] for p in counts]).pvalue > 1e-4
    for pair in set(pairs):
        mine = torch.tensor([d == pair for d in drawn])
        for slot in range(2):
            ps = [keys[i][slot][2] for i, p in enumerate(pairs) if p == pair]
            p, n = sum(ps) / len(ps), int(mine.sum())
            share = draws.apply[mine, slot].float().mean()
            assert abs(share - p) <= 4.5 * (p * (1 - p) / n) ** 0.5 + 1e-9, (pair, slot)
        rows = [keys[i] for i, q in enumerate(pairs) if q == pair]
        p = sum(first[2] * second[2] for first, second in rows) / len(rows)  # two coins, independent
        share = draws.apply[mine].all(1).float().mean()
        assert abs(share - p) <= 4.5 * (p * (1 - p) / n) ** 0.5 + 1e-9, pair


@pytest.mark.parametrize("name", [*AUTO, "rand", "trivial"])
def test_signs_are_fair_and_only_where_they_mean_something(name):
    draws = draw(name)
    signed = torch.tensor([op in SIGNED for op in OPERATIONS])[draws.op]
    assert (draws.magnitude[~signed] >= 0).all()
    m = draws.magnitude[signed & (draws.magnitude != 0)]
    assert stats.binomtest(int((m < 0).sum()), len(m)).pvalue > 1e-4


def test_randaugment_draws_each_operation_alike_at_its_magnitude():
    draws = draw("rand", rand_ops=3, rand_magnitude=12)
    assert draws.op.shape == (N, 3)
    assert draws.apply.all()
    counts = torch.bincount(draws.op.flatten(), minlength=len(OPERATIONS))
    assert counts[OPERATIONS.index("Invert")] == 0
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-4
    assert (counts > 0).sum() == 14
    assert torch.equal(draws.magnitude.abs(), magnitudes("rand", 32)[draws.op, 12])
    # slots are drawn one by one
    joint = torch.bincount(draws.op[:, 0] * 15 + draws.op[:, 1], minlength=225)
    assert stats.chisquare(joint[joint > 0].numpy()).pvalue > 1e-4


def test_trivialaugment_draws_one_operation_and_every_magnitude_alike():
    draws = draw("trivial")
    assert draws.op.shape == (N, 1)
    counts = torch.bincount(draws.op[:, 0], minlength=len(OPERATIONS))
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-4
    rotations = draws.magnitude[draws.op == OPERATIONS.index("Rotate")].abs()
    levels = (rotations / 135 * 30).round().long()
    assert stats.chisquare(torch.bincount(levels, minlength=31).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", ["cifar10", "rand", "trivial"])
def test_draws_are_a_function_of_the_generator_and_differ_between_pictures(name):
    a, b, c = draw(name, 64, seed=5), draw(name, 64, seed=5), draw(name, 64, seed=6)
    assert torch.equal(a.op, b.op) and torch.equal(a.magnitude, b.magnitude) and torch.equal(a.apply, b.apply)
    assert not torch.equal(a.op, c.op)
    assert len({tuple(row.tolist()) for row in a.op}) > 10

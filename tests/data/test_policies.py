"""The draws: their tables against torchvision's, their frequencies against the policies'."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from timm.data.auto_augment import rand_augment_transform
from torchvision import transforms as tv

from feathervit.data.policies import OPERATIONS, draw_policy, magnitudes, rand_magnitudes, sub_policies

AUTO = ("cifar10", "svhn", "imagenet")
N = 20_000
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}


def draw(name, n=N, seed=0, **kwargs):
    return draw_policy(name, n, 32, torch.Generator().manual_seed(seed), **kwargs)


def torchvision_space(name: str, size: int) -> dict:
    if name == "trivial":
        return tv.TrivialAugmentWide()._augmentation_space(31)
    return tv.AutoAugment(tv.AutoAugmentPolicy(name))._augmentation_space(10, (size, size))


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("name", [*AUTO, "trivial"])
def test_magnitudes_equal_torchvisions(name, size):
    ours = magnitudes(name, size)
    for op, (want, signed) in torchvision_space(name, size).items():
        assert torch.equal(ours[OPERATIONS.index(op)], want.double().expand(ours.shape[1])), op
        assert signed == (op in SIGNED)


@pytest.mark.parametrize("name", AUTO)
def test_sub_policies_are_drawn_with_their_probabilities(name):
    draws = draw(name)
    ops, probability, bins = sub_policies(name)
    table = magnitudes(name, 32)
    # A drawn pair of operations and magnitudes identifies the sub-policy, except for duplicates in the table.
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
def test_signs_are_fair_and_only_for_signed_operations(name):
    draws = draw(name)
    signed = torch.tensor([op in SIGNED for op in OPERATIONS])[draws.op]
    assert (draws.magnitude[~signed] >= 0).all()
    m = draws.magnitude[signed & (draws.magnitude != 0)]
    assert stats.binomtest(int((m < 0).sum()), len(m)).pvalue > 1e-4


def timm_ops() -> dict:
    """timm's operations of the SSAT code's RandAugment by our names."""
    found = rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 14}).ops
    return {op.name.removesuffix("Increasing").removesuffix("Rel"): op for op in found}


@pytest.mark.parametrize("size", [32, 36])
def test_randaugment_magnitudes_equal_timms(size):
    level = torch.linspace(0, 10, 81, dtype=torch.float64)
    ops = timm_ops()
    assert set(ops) == set(OPERATIONS[1:])
    for name, op in ops.items():
        got = rand_magnitudes(torch.full((81,), OPERATIONS.index(name)), level, size)
        for value, m in zip(got.tolist(), level.tolist(), strict=True):
            want = op.level_fn(m, op.hparams) if op.level_fn else (0,)
            if name in ("Brightness", "Contrast", "Color", "Sharpness"):
                assert value == pytest.approx(abs(want[0] - 1))
            else:
                assert value == pytest.approx(abs(want[0]) * (size if name.startswith("Translate") else 1))
    at_9 = dict(zip(OPERATIONS, rand_magnitudes(torch.arange(16), torch.full((16,), 9.0), 100).tolist(), strict=True))
    assert at_9["Rotate"] == pytest.approx(27) and at_9["Posterize"] == 1 and at_9["TranslateX"] == pytest.approx(40.5)


def test_randaugment_draws_like_timm():
    """Operations are equally likely, with replacement. Half are applied, each at its own level from N(9, 0.5) clipped to 10."""
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in timm_ops().values()} == {(0.5, 9, 0.5)}
    draws = draw("rand", rand_ops=3)
    assert draws.op.shape == (N, 3)
    counts = torch.bincount(draws.op.flatten(), minlength=len(OPERATIONS))
    assert counts[0] == 0  # no identity
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-4
    joint = torch.bincount(draws.op[:, 0] * 16 + draws.op[:, 1], minlength=256)  # slots are drawn one by one
    assert stats.chisquare(joint[joint > 0].numpy()).pvalue > 1e-4 and (joint > 0).sum() == 225
    assert stats.binomtest(int(draws.apply.sum()), 3 * N).pvalue > 1e-4
    levels = [
        draws.magnitude[draws.op == OPERATIONS.index(op)].abs() / top for op, top in (("Rotate", 3), ("Color", 0.09))
    ]
    for level in levels:
        assert stats.ks_2samp(level.numpy(), stats.norm(9, 0.5).rvs(N, random_state=0).clip(0, 10)).pvalue > 1e-4
        assert (level == level.max()).float().mean() == pytest.approx(stats.norm.sf(2), abs=0.008)
    both = draws.op[:, 0] == draws.op[:, 1]
    assert (draws.magnitude[both, 0].abs() != draws.magnitude[both, 1].abs()).float().mean() > 0.3  # a level for each


def test_magnitude_and_spread_of_randaugment_are_settings():
    rotations = [
        draws.magnitude[draws.op == OPERATIONS.index("Rotate")].abs()
        for draws in (draw("rand", rand_magnitude=5, rand_std=0.0), draw("rand", rand_magnitude=2, rand_std=2.0))
    ]
    torch.testing.assert_close(rotations[0], torch.full_like(rotations[0], 15))
    assert rotations[1].std() > 3 and (rotations[1] == 0).float().mean() == pytest.approx(stats.norm.cdf(-1), abs=0.03)


def test_trivialaugment_draws_operations_and_magnitudes_uniformly():
    draws = draw("trivial")
    assert draws.op.shape == (N, 1)
    counts = torch.bincount(draws.op[:, 0], minlength=len(OPERATIONS))
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-4
    rotations = draws.magnitude[draws.op == OPERATIONS.index("Rotate")].abs()
    levels = (rotations / 135 * 30).round().long()
    assert stats.chisquare(torch.bincount(levels, minlength=31).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", ["cifar10", "rand", "trivial"])
def test_draws_depend_on_the_generator_and_differ_between_images(name):
    a, b, c = draw(name, 64, seed=5), draw(name, 64, seed=5), draw(name, 64, seed=6)
    assert torch.equal(a.op, b.op) and torch.equal(a.magnitude, b.magnitude) and torch.equal(a.apply, b.apply)
    assert not torch.equal(a.op, c.op)
    assert len({tuple(row.tolist()) for row in a.op}) > 10

"""Mixup and CutMix against their formulas, written out image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import mixup_target, rand_bbox

from feathervit.data.geometry import clip_boxes
from feathervit.data.mixing import Mix, apply_mix, draw_mix, soft_targets

B, S = 4000, 24


def draw(n=B, mixup=0.0, cutmix=0.0, probability=1.0, switch=0.5, seed=0):
    return draw_mix(n, S, mixup, cutmix, probability, switch, torch.Generator().manual_seed(seed))


def is_cut(mix: Mix) -> torch.Tensor:
    return (mix.boxes[:, 2:] > 0).all(1)


def test_mixup_equals_its_formula():
    x = torch.randn(6, 3, S, S, generator=torch.Generator().manual_seed(0))
    mix = draw(6, mixup=0.8)
    y = apply_mix(x, mix)
    for i in range(6):
        lam = mix.share[i]
        torch.testing.assert_close(y[i], lam * x[i] + (1 - lam) * x[5 - i])


def test_cutmix_equals_its_formula():
    x = torch.randn(40, 3, S, S, generator=torch.Generator().manual_seed(0))
    mix = draw(40, cutmix=1.0)
    y = apply_mix(x, mix)
    assert is_cut(mix).sum() > 20
    for i in range(40):
        top, left, height, width = mix.boxes[i].tolist()
        want = x[i].clone()
        if height and width:
            want[:, top : top + height, left : left + width] = x[39 - i][:, top : top + height, left : left + width]
        assert torch.equal(y[i], want)
        assert mix.share[i] == pytest.approx(1 - height * width / S**2)


def test_boxes_are_drawn_as_in_timm():
    """Drawn by timm's `rand_bbox` with lambda uniform; odd sides lose no pixel."""
    mix = draw(cutmix=1.0)
    top, left, height, width = mix.boxes.T
    assert (mix.boxes >= 0).all()
    assert (top + height <= S).all() and (left + width <= S).all()
    whole = (top > 0) & (left > 0) & (top + height < S) & (left + width < S)
    assert torch.equal(height[whole], width[whole])  # sides sqrt(1 - lambda) of a square image
    assert (height[whole] % 2 == 1).float().mean() > 0.3
    np.random.seed(9)
    theirs = torch.tensor([rand_bbox((1, 3, S, S), lam) for lam in np.random.rand(B)])
    low, high = theirs[:, 0::2], theirs[:, 1::2]
    assert stats.ks_2samp((height * width).numpy(), (high - low).prod(1).numpy()).pvalue > 1e-4
    for ours, want in ((height, high[:, 0] - low[:, 0]), (left, low[:, 1])):
        assert stats.ks_2samp(ours.numpy(), want.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("lam", [0.3, 0.5, 0.77])
def test_a_box_equals_timms_for_the_same_centre(lam, monkeypatch):
    side = int(S * np.sqrt(1 - lam))
    centres = torch.cartesian_prod(torch.arange(S), torch.arange(S))
    ours = clip_boxes(centres, torch.full_like(centres, side), S)
    for centre, (top, left, height, width) in zip(centres.tolist(), ours.tolist(), strict=True):
        numbers = iter(centre)
        monkeypatch.setattr(np.random, "randint", lambda *_, numbers=numbers, **__: next(numbers))
        assert rand_bbox((1, 3, S, S), lam) == (top, top + height, left, left + width)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_each_image_has_its_own_beta_distributed_lambda(alpha):
    share = draw(mixup=alpha).share
    assert stats.kstest(share.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    assert len(share.unique()) > B / 2


def test_shares_of_mixed_images_and_of_each_kind():
    mix = draw(mixup=1.0, cutmix=1.0, probability=0.6, switch=0.25)
    mixed = mix.share < 1
    assert stats.binomtest(int(mixed.sum()), B, 0.6).pvalue > 1e-3  # a box of no area is rare: lambda near 1
    n = int(mixed.sum())
    assert abs(is_cut(mix).sum() / n - 0.25) < 0.03
    assert not is_cut(draw(mixup=1.0)).any()
    x = torch.randn(B, 1, S, S)
    y = apply_mix(x, mix)
    assert torch.equal(y[~mixed], x[~mixed])


def test_batches_mixed_together_stay_separate():
    x, labels = torch.randn(12, 1, S, S), torch.arange(12)
    mix = draw(12, mixup=0.5, cutmix=1.0)
    halves = [Mix(mix.share[rows], mix.boxes[rows]) for rows in (slice(6), slice(6, 12))]
    want = torch.cat([apply_mix(x[:6], halves[0]), apply_mix(x[6:], halves[1])])
    assert torch.equal(apply_mix(x, mix, batches=2), want)
    targets = torch.cat([soft_targets(labels[:6], mix.share[:6], 12), soft_targets(labels[6:], mix.share[6:], 12)])
    assert torch.equal(soft_targets(labels, mix.share, 12, batches=2), targets)


def test_mixing_affects_only_the_partner():
    x = torch.randn(10, 1, S, S)
    mix = draw(10, mixup=0.5, cutmix=1.0)
    before = apply_mix(x, mix)
    x[2] += 1
    changed = (apply_mix(x, mix) != before).flatten(1).any(1)
    assert set(changed.nonzero().flatten().tolist()) <= {2, 7}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_equal_timms_and_sum_to_one(smoothing):
    labels = torch.tensor([3, 0, 4, 4, 1, 2])
    got = soft_targets(labels, torch.full((6,), 0.3), 5, smoothing)
    torch.testing.assert_close(got, mixup_target(labels, 5, 0.3, smoothing))
    each = soft_targets(labels, torch.rand(6), 5, smoothing)
    torch.testing.assert_close(each.sum(1), torch.ones(6))


def test_smoothed_targets_give_torchs_smoothed_loss():
    labels, logits = torch.tensor([1, 0, 2]), torch.randn(3, 4)
    got = torch.nn.functional.cross_entropy(logits, soft_targets(labels, None, 4, 0.2))
    want = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(got, want)


def test_draws_depend_only_on_the_generator():
    a, b, c = (draw(50, mixup=0.2, cutmix=1.0, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.share, b.share) and torch.equal(a.boxes, b.boxes)
    assert not torch.equal(a.share, c.share)

"""Crops and flips agree with torchvision and PIL."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision import transforms as v1
from torchvision.transforms import v2

from feathervit.benchmark.augment import random_images as images
from feathervit.chance import Chance
from feathervit.data import geometry
from feathervit.data.augment import first_flip
from tests.data.test_augment import apply, augmenter, generator, pixels


@pytest.mark.parametrize(("stored", "size"), [(32, 32), (40, 24), (36, 32), (16, 32), (96, 24)])
def test_crops_equal_torchvisions_resized_crop(stored, size):
    x = images(60, stored)
    boxes = geometry.draw_crops(60, stored, (0.08, 1.0), (3 / 4, 4 / 3), generator())
    flip = torch.arange(60) % 2 == 1
    got = geometry.resample(x, boxes, flip, size)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        want = v2.functional.resized_crop(x[i].float(), top, left, height, width, [size, size], antialias=True)
        want = want.flip(-1) if flip[i] else want
        # Values are rounded to a grey level, and float32 may fall on either side of a half.
        assert (got[i] - want).abs().max() <= 0.5 + 1e-3
        eight_bit = v2.functional.resized_crop(x[i], top, left, height, width, [size, size], antialias=True)
        assert (got[i].int() - (eight_bit.flip(-1) if flip[i] else eight_bit).int()).abs().max() <= 1


@pytest.mark.parametrize(("stored", "size"), [(32, 32), (40, 24), (16, 32)])
def test_bicubic_crops_agree_with_torchvision_and_pil(stored, size):
    x = images(40, stored)
    boxes = geometry.draw_crops(40, stored, (0.08, 1.0), (3 / 4, 4 / 3), generator())
    got = geometry.resample(x, boxes, None, size, cubic=True)
    bicubic = {"interpolation": v1.InterpolationMode.BICUBIC}
    differences = []
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        want = v2.functional.resized_crop(
            x[i].float(), top, left, height, width, [size, size], **bicubic, antialias=True
        )
        assert (got[i] - want.clamp(0, 255)).abs().max() <= 0.5 + 1e-3
        pil = v1.functional.resized_crop(
            v1.functional.to_pil_image(x[i]), top, left, height, width, [size, size], **bicubic
        )
        differences.append((got[i].int() - v1.functional.pil_to_tensor(pil).int()).abs().float())
    found = torch.stack(differences)
    assert found.mean() < 0.2  # PIL rounds, and clips to 0-255, between the two axes
    assert (found > 1).float().mean() < 0.01


def test_bicubic_crops_are_a_setting():
    fields = {"crop": "resized", "crop_scale": (0.3, 1.0)}
    x = images(20, 32)
    sharp = apply(augmenter(32, **fields, crop_filter="bicubic"), x)
    a = augmenter(32, **fields)
    boxes = geometry.draw_crops(20, 32, (0.3, 1.0), (3 / 4, 4 / 3), Chance(1, 0).generator("augment"))
    assert torch.equal(pixels(sharp), geometry.resample(x, boxes, None, 32, cubic=True))
    assert not torch.equal(sharp, apply(a, x))


def test_pad_and_crop_with_resizing():
    """One sampling that resizes, mirrors and shifts equals the three steps one after another."""
    x = images(64, 20)
    got = pixels(apply(augmenter(24, crop="pad", crop_padding=3, flip="random"), x))
    g = Chance(1, 0).generator("augment")
    offset = torch.randint(-3, 4, (64, 2), generator=g)
    flip = torch.rand(64, generator=g) < 0.5
    whole = torch.tensor([[0, 0, 20, 20]]).expand(64, 4)
    assert torch.equal(got, geometry.shift(geometry.resample(x, whole, None, 24), 3, offset, flip))


def test_a_box_of_the_whole_image_changes_nothing():
    x = images(4, 20)
    assert torch.equal(geometry.resample(x, torch.tensor([[0, 0, 20, 20]]).expand(4, 4), None, 20), x)


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.8, 1.0), (3 / 4, 4 / 3)), ((1.0, 1.0), (2.0, 3.0))]
)
def test_crop_boxes_are_drawn_as_in_torchvision(scale, ratio):
    n, size = 3000, 36
    ours = geometry.draw_crops(n, size, scale, ratio, generator())
    torch.manual_seed(0)
    blank = torch.empty(3, size, size)
    theirs = torch.tensor([v1.RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(n)])
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= size).all()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy()).pvalue > 1e-4
    areas = [(b[:, 2] * b[:, 3]).numpy() for b in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-4


def test_pad_and_crop_equals_torchvision():
    x = images(50, 24)
    y = pixels(apply(augmenter(crop="pad", crop_padding=3), x))
    offsets = set()
    for image, got in zip(x, y, strict=True):
        padded = v1.functional.pad(image, [3])
        match = [
            (i, j) for i in range(7) for j in range(7) if torch.equal(v1.functional.crop(padded, i, j, 24, 24), got)
        ]
        assert len(match) == 1
        offsets.add(match[0])
    assert len(offsets) > 20
    assert {i for i, _ in offsets} == {j for _, j in offsets} == set(range(7))


def test_larger_stored_images_are_resized_as_in_evaluation():
    from feathervit.data.image import resize

    x = images(8, 40)
    assert (pixels(apply(augmenter(), x)).int() - resize(x, 24).int()).abs().max() <= 1


def test_random_flip_mirrors_half_of_the_images():
    x = images(600, 24)
    y = pixels(apply(augmenter(flip="random"), x))
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert ((y == x).flatten(1).all(1) ^ mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 600).pvalue > 1e-4


@pytest.mark.parametrize("crop", ["none", "resized", "pad"])
def test_alternating_flip_changes_each_epoch(crop):
    a = augmenter(flip="alternating", crop=crop, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), crop_padding=0)
    x = images(40, 24)
    indices = torch.randperm(1000, generator=generator())[:40]
    chosen = first_flip(indices, 7)
    assert 8 < chosen.sum() < 32
    for epoch, step, rank in ((0, 0, 0), (1, 50, 1), (2, 99, 0), (7, 3, 3)):
        order = torch.randperm(40, generator=generator(step))
        y, _ = a(x[order], order % 10, indices[order], Chance(7, step, rank), epoch)
        flip = (chosen ^ bool(epoch % 2))[order]
        assert torch.equal(pixels(y), torch.where(flip[:, None, None, None], x[order].flip(-1), x[order]))


def test_alternating_flip_is_a_fair_coin():
    indices = torch.arange(20_000)
    first, other = first_flip(indices, 0), first_flip(indices, 1)
    assert stats.binomtest(int(first.sum()), 20_000).pvalue > 1e-4
    assert stats.binomtest(int((first ^ other).sum()), 20_000).pvalue > 1e-4
    assert stats.binomtest(int((first[1:] ^ first[:-1]).sum()), 19_999).pvalue > 1e-4

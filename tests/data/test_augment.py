"""The complete augmentation: holes against torchvision, timm and literal forms; draws, order, memory."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from timm.data.random_erasing import RandomErasing
from torchvision import transforms as v1

from feathervit.benchmark.augment import random_images as images
from feathervit.chance import Chance
from feathervit.config import Augmentation
from feathervit.data import geometry
from feathervit.data.augment import Augmenter, Drawn
from feathervit.data.image import normalise
from feathervit.data.operations import apply_policy, plan_policy
from feathervit.data.policies import draw_policy

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
EVERYTHING = Augmentation(
    flip="random", crop="resized", policy="rand", erasing=0.5, cutout=6, mixup=0.2, cutmix=1.0, mix_prob=0.7
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmenter(size: int = 24, **fields) -> Augmenter:
    return Augmenter(Augmentation(**fields), size, 10, MEAN, STD)


def apply(a: Augmenter, x: torch.Tensor, step: int = 0, epoch: int = 0) -> torch.Tensor:
    labels = torch.arange(len(x)) % 10
    return a(x, labels, torch.arange(len(x)), Chance(1, step), epoch)[0]


def pixels(x: torch.Tensor) -> torch.Tensor:
    """Converts normalised values back to grey levels."""
    return ((x * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255).round().to(torch.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Holes


def test_cutout_is_a_grey_square_around_a_pixel():
    x = torch.full((500, 3, 24, 24), 10, dtype=torch.uint8)
    y = pixels(apply(augmenter(cutout=8), x))
    assert set(y.unique().tolist()) == {10, 128}
    hole = y[:, 0] == 128
    assert (y == torch.where(hole, 128, 10)[:, None]).all()
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == 8 and rows.min() >= 4 and columns.max() == 8 and columns.min() >= 4
    odd = pixels(apply(augmenter(cutout=7), x))[:, 0] == 128
    assert odd.any(2).sum(1).max() == 7 and odd.any(1).sum(1).max() == 7
    # all centres are equally likely: the middle rows are covered 8 times in 24, the first 4 times
    share = hole.any(2).float().mean(0)
    assert share[8:16].mean() == pytest.approx(8 / 24, abs=0.05)
    assert share[0] == pytest.approx(4 / 24, abs=0.07)


@pytest.mark.parametrize("scale", [(0.02, 0.4), (0.7, 1.0)])
def test_erased_boxes_are_drawn_as_in_torchvision(scale):
    n, size = 3000, 16
    ours = geometry.draw_erasures(n, size, 1.0, scale, generator())
    torch.manual_seed(0)
    blank = torch.empty(3, size, size)
    theirs = torch.tensor([v1.RandomErasing.get_params(blank, scale, (0.3, 3.3), [0.0])[:4] for _ in range(n)])
    theirs[(theirs[:, 2:] == size).all(1)] = 0  # none of ten draws fitted, so nothing is erased
    ours[(ours[:, 2:] == 0).all(1)] = 0
    assert (ours[:, 2:] < size).all()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy()).pvalue > 1e-4


def test_a_share_of_the_images_is_erased():
    boxes = geometry.draw_erasures(3000, 32, 0.25, (0.02, 0.4), generator())
    assert stats.binomtest(int((boxes[:, 2:] > 0).all(1).sum()), 3000, 0.25).pvalue > 1e-4


def test_erasing_changes_only_its_box_to_the_mean():
    x = images(200, 24)
    plain, y = apply(augmenter(), x), apply(augmenter(erasing=0.5), x)
    hole = (y == 0).all(1)
    assert torch.equal(y, torch.where(hole[:, None], 0.0, plain))
    assert 70 < hole.flatten(1).any(1).sum() < 130


@pytest.mark.parametrize("channels", [1, 3])
def test_erasing_with_noise_is_timms_pixel_mode(channels):
    """Each value of an erased box is drawn from a standard normal distribution, in normalised units, as in `RandomErasing`."""
    x = images(400, 24)[:, :channels]
    mean, std = (0.401,) * channels, STD[:channels]  # with this mean, no grey level becomes 0
    plain, y, constant = (
        Augmenter(Augmentation(erasing=erasing, erasing_fill=fill), 24, 10, mean, std)(
            x, torch.zeros(400).long(), torch.arange(400), Chance(1, 0), 0
        )[0]
        for erasing, fill in ((0.0, "mean"), (0.5, "noise"), (0.5, "mean"))
    )
    hole = (constant == 0).all(1, keepdim=True).expand_as(x)
    assert 0.03 < hole.float().mean() < 0.2
    assert torch.equal(y[~hole], plain[~hole])
    random.seed(0)
    torch.manual_seed(0)
    timm = RandomErasing(1.0, mode="pixel", device="cpu")
    erased = torch.stack([timm(torch.full((channels, 24, 24), 9.0)) for _ in range(300)])
    assert stats.ks_2samp(y[hole].numpy(), erased[erased != 9].numpy()).pvalue > 1e-4
    assert stats.kstest(y[hole].numpy(), "norm").pvalue > 1e-4
    assert len(y[hole].unique()) > 0.99 * hole.sum()


# ---------------------------------------------------------------------------------------------------------------------
# The complete augmentation


def test_without_augmentation_a_batch_is_normalised_as_in_evaluation():
    x, labels = images(5, 24), torch.arange(5)
    y, targets = augmenter()(x, labels, torch.arange(5), Chance(0), 0)
    torch.testing.assert_close(y, normalise(x, MEAN, STD))
    assert targets is labels


def test_the_policy_works_on_the_cropped_image():
    x = images(300, 32)
    a = augmenter(32, crop="resized", flip="random", policy="cifar10")
    g = Chance(1, 0).generator("augment")
    boxes = geometry.draw_crops(300, 32, a.augment.crop_scale, a.augment.crop_ratio, g)
    flip = torch.rand(300, generator=g) < 0.5
    plan = plan_policy(draw_policy("cifar10", 300, 32, g), 32)
    want = apply_policy(geometry.resample(x, boxes, flip, 32), plan)
    assert torch.equal(pixels(apply(a, x)), want)


@pytest.mark.parametrize(("fill", "level"), [("black", (0, 0, 0)), ("grey", (128,) * 3), ("mean", (102, 128, 153))])
def test_the_area_outside_a_rotated_image_is_filled(fill, level):
    x = torch.full((200, 3, 32, 32), 200, dtype=torch.uint8)
    y = pixels(apply(augmenter(32, policy="svhn", fill=fill), x)).permute(0, 2, 3, 1)
    corner = y[:, 0, 0]
    assert (corner == torch.tensor(level)).all(
        1
    ).float().mean() > 0.1  # for images that were sheared, shifted or rotated last


def test_joined_batches_equal_single_batches():
    """As on a GPU: the draws of several steps are joined, with one pass over all their images."""
    x, labels, indices = images(60, 40), torch.arange(60) % 10, torch.arange(60)
    a = Augmenter(replace(EVERYTHING, erasing_fill="noise"), 24, 10, MEAN, STD, label_smoothing=0.1)
    parts = [slice(i, i + 20) for i in (0, 20, 40)]
    one_by_one = [a(x[p], labels[p], indices[p], Chance(5, step), step) for step, p in enumerate(parts)]
    drawn = Drawn.join([a.draw(indices[p], 40, 3, Chance(5, step), step) for step, p in enumerate(parts)])
    joined, targets = a.apply(x, labels, drawn, batches=3)
    assert torch.equal(joined, torch.cat([image for image, _ in one_by_one]))
    assert torch.equal(targets, torch.cat([target for _, target in one_by_one]))


def test_targets_are_floats_with_mixing_or_smoothing():
    x, labels = images(6, 24), torch.tensor([1, 2, 3, 4, 5, 6])
    smooth = Augmenter(Augmentation(), 24, 10, MEAN, STD, label_smoothing=0.1)
    _, targets = smooth(x, labels, labels, Chance(0), 0)
    assert targets.shape == (6, 10) and targets[0, 1] == pytest.approx(0.91)
    _, targets = Augmenter(EVERYTHING, 24, 10, MEAN, STD)(x, labels, labels, Chance(0), 0)
    assert targets.shape == (6, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_a_step_determines_its_batch():
    x = images(1, 24).expand(64, -1, -1, -1)
    a = Augmenter(EVERYTHING, 24, 10, MEAN, STD)
    assert torch.equal(apply(a, x, step=3), apply(a, x, step=3))
    assert not torch.equal(apply(a, x, step=3), apply(a, x, step=4))
    assert len({y.numpy().tobytes() for y in apply(augmenter(crop="resized", flip="random", policy="cifar10"), x)}) > 60


def test_the_global_generator_is_neither_used_nor_changed():
    x, a = images(16, 24), Augmenter(EVERYTHING, 24, 10, MEAN, STD)
    torch.manual_seed(0)
    first, state = apply(a, x), torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(apply(a, x), first)


def test_no_image_leaks_into_another():
    fields = {"flip": "random", "crop": "resized", "policy": "cifar10", "erasing": 0.5, "cutout": 6}
    x = images(80, 24)
    before = apply(augmenter(**fields), x)
    x[13] = 255 - x[13]
    changed = (apply(augmenter(**fields), x) != before).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [13]


def test_any_number_of_threads_gives_the_same_bits():
    x, a = images(700, 32), Augmenter(EVERYTHING, 32, 10, MEAN, STD)
    first = apply(a, x)
    torch.set_num_threads(2)
    try:
        assert torch.equal(apply(a, x), first)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_images(channels):
    x = images(32, 24)[:, :channels]
    y = Augmenter(EVERYTHING, 24, 10, (0.5,), (0.5,))(x, torch.zeros(32).long(), torch.arange(32), Chance(0), 0)[0]
    assert y.shape == (32, channels, 24, 24) and y.dtype == torch.float32
    assert -1 <= y.min() < y.max() <= 1


@pytest.mark.gpu
def test_gpu_images_equal_cpu_images_without_synchronising():
    x, labels = images(300, 36), torch.arange(300) % 10
    a = Augmenter(EVERYTHING, 32, 10, MEAN, STD)
    want, want_targets = a(x, labels, labels, Chance(0), 0)
    on_gpu = x.cuda(), labels.cuda()
    a(*on_gpu, labels, Chance(0), 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got, targets = a(*on_gpu, labels, Chance(0), 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(targets.cpu(), want_targets)
    # A crop's value between two grey levels may be rounded to the other one, and the policy may amplify this.
    assert ((got.cpu() - want).abs() > 0.05).float().mean() < 0.02


MEMORY = """
import torch
from feathervit.benchmark.augment import random_images as images
from feathervit.chance import Chance
from feathervit.config import Augmentation
from feathervit.data.augment import Augmenter

def megabytes(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) / 1e3

config = Augmentation(flip="random", crop="resized", policy="imagenet", erasing=0.5, cutout=8, mixup=0.2, cutmix=1.0)
augment = Augmenter(config, 36, 10, (0.5,), (0.5,))
x, labels = images(1024, 36), torch.zeros(1024, dtype=torch.long)
augment(x[:8], labels[:8], labels[:8], Chance(0), 0)
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # resets the peak so far
before = megabytes("VmRSS")
for step in range(4):
    augment(x, labels, labels, Chance(0, step), 0)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux reports the highest memory of an interval"
)
def test_a_batch_of_1024_needs_less_than_300_megabytes():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert 16 < float(done.stdout) < 300, done.stdout  # the resulting batch alone is 16 MB

"""Batches that are prepared in groups equal single batches, from any step on."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from feathervit.benchmark.augment import random_images as images
from feathervit.chance import Chance
from feathervit.config import Augmentation
from feathervit.data import feed as feeds
from feathervit.data.augment import Augmenter
from feathervit.data.feed import Feed, fits
from feathervit.data.loader import Sampler
from feathervit.errors import ConfigError

CPU = torch.device("cpu")
EVERYTHING = Augmentation(
    flip="alternating",
    crop="resized",
    policy="rand",
    cutout=4,
    erasing=0.5,
    erasing_fill="noise",
    mixup=0.2,
    cutmix=1.0,
    mix_prob=0.7,
)
IMAGES, LABELS = images(50, 20), torch.arange(50) % 10


def augmenter(augment: Augmentation = EVERYTHING) -> Augmenter:
    return Augmenter(augment, 16, 10, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), label_smoothing=0.1)


def samplers(micro: int = 1, rank: int = 0, world: int = 1) -> list[Sampler]:
    return [Sampler(50, 8, 3, rank * micro + m, world * micro) for m in range(micro)]


def feed(ahead: int | None = None, device: torch.device = CPU, micro: int = 1, **options) -> Feed:
    return Feed(IMAGES, LABELS, samplers(micro, **options), augmenter(), 3, device, ahead)


@pytest.fixture
def threaded(monkeypatch):
    """A feed on the CPU that works as on a GPU: in groups, with a thread for the draws."""

    def made(ahead: int, **options) -> Feed:
        found = feed(ahead, **options)
        found._thread = feeds.ThreadPoolExecutor(1)
        return found

    return made


def test_a_batch_equals_the_sampled_and_augmented_images():
    one, sampler, augment = feed(), samplers()[0], augmenter()
    assert one.ahead == 1
    for step in (0, 1, 7, 12, 3):  # epochs of 6 steps
        indices = sampler.batch(step)
        want = augment(IMAGES[indices], LABELS[indices], indices, Chance(3, step), step // 6)
        got = one.batch(step)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("begin", [0, 5, 8])
def test_groups_give_the_same_batches_from_any_step(threaded, micro, begin):
    straight, ahead = feed(micro=micro), threaded(4, micro=micro)
    for step in range(begin, 17):
        for m in range(micro):
            x, targets = ahead.batch(step, m)
            want, want_targets = straight.batch(step, m)
            assert torch.equal(x, want) and torch.equal(targets, want_targets), step
    assert torch.equal(ahead.batch(0)[0], straight.batch(0)[0])  # also backwards


def test_processes_have_their_own_images_and_draws(threaded):
    first, second = (threaded(3, rank=rank, world=2) for rank in (0, 1))
    assert not torch.equal(first.batch(0)[0], second.batch(0)[0])
    assert torch.equal(second.batch(2)[0], feed(rank=1, world=2).batch(2)[0])


def test_a_thread_draws_groups_in_advance(threaded, monkeypatch):
    drawn, thread = [], []

    def draw(self, number, whole=Feed._draw):
        drawn.append(number)
        thread.append(threading.current_thread())
        return whole(self, number)

    monkeypatch.setattr(Feed, "_draw", draw)
    ahead = threaded(4)
    ahead.batch(0)
    ahead._drawing[2].result()
    assert drawn == [0, 1, 2]
    for step in range(1, 4):
        ahead.batch(step)
    assert drawn == [0, 1, 2]
    ahead.batch(4)
    ahead._drawing[3].result()
    assert drawn == [0, 1, 2, 3]
    assert threading.main_thread() not in thread and len(set(thread)) == 1


def test_a_large_dataset_stays_on_the_host(threaded, monkeypatch):
    monkeypatch.setattr(feeds, "fits", lambda *_: False)
    ahead = threaded(4)
    assert not ahead.resident and ahead.images is IMAGES
    assert torch.equal(ahead.batch(6)[0], feed().batch(6)[0])


def test_datasets_move_to_a_gpu_with_enough_memory(monkeypatch):
    free = 2 * IMAGES.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 100 * free))
    assert fits(IMAGES, torch.device("cuda", 0))
    free -= 2
    assert not fits(IMAGES, torch.device("cuda", 0))
    assert fits(IMAGES, CPU)


def test_a_group_needs_one_copy_and_few_kernels(threaded):
    """Counts the operations for a GPU on the "meta" device, which needs no GPU."""
    meta = torch.device("meta")
    several = Feed(IMAGES.repeat(4, 1, 1, 1), LABELS.repeat(4), [Sampler(200, 8, 3)], augmenter(), 3, meta, ahead=16)
    several.batch(0)
    with Operations() as counted:
        several._make(several._draw(1))
    assert counted.copies == 1
    assert counted.kernels / 16 < 25  # per batch; single batches needed 324 kernels and 12 copies


@pytest.mark.parametrize(("batch", "size", "ahead"), [(128, 36, 33), (1280, 36, 3), (64, 224, 1), (4096, 36, 1)])
def test_groups_hold_sixteen_million_values(batch, size, ahead):
    images = torch.empty(4096, 3, size, size, dtype=torch.uint8, device="meta")
    made = Augmenter(Augmentation(), size, 10, (0.5,), (0.5,))
    labels = torch.zeros(4096, dtype=torch.long)
    assert Feed(images, labels, [Sampler(4096, batch, 0)], made, 0, torch.device("meta")).ahead == ahead


def test_errors_in_the_thread_are_raised_by_batch():
    two = torch.zeros(20, 2, 16, 16, dtype=torch.uint8)
    made = Feed(two, LABELS[:20], [Sampler(20, 4, 0)], augmenter(replace(EVERYTHING)), 0, torch.device("meta"), 2)
    with pytest.raises(ConfigError, match="2"):
        made.batch(0)


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts kernels and copies to the "meta" device; views are neither."""

    kernels = copies = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        made = "empty" not in str(function) and not function.is_view
        if made and any(t.is_meta for t in tensors):
            self.kernels += 1
            self.copies += any(not t.is_meta and t.ndim for t in tensors)
        return out


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [True, False])
def test_gpu_batches_equal_cpu_batches(monkeypatch, resident):
    """They differ by a grey level or two of rounding, which a policy may amplify. A resumed run gets the same bits."""
    monkeypatch.setattr(feeds, "fits", lambda *_: resident)
    device = torch.device("cuda")
    straight, ahead, late = feed(), feed(4, device), feed(4, device)
    late.batch(9)
    for step in range(14):
        x, targets = ahead.batch(step)
        want, want_targets = straight.batch(step)
        torch.testing.assert_close(targets.cpu(), want_targets)
        assert ((x.cpu() - want).abs() > 0.05).float().mean() < 0.02
        if step == 10:
            assert torch.equal(x, late.batch(10)[0])


@pytest.mark.gpu
def test_a_feed_never_waits_for_the_gpu():
    made = feed(4, torch.device("cuda"))
    for step in range(8):
        made.batch(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(8, 24):
            made.batch(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")

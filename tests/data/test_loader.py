"""The order of the images: permutations, shares of processes, views."""

from __future__ import annotations

import pytest
import torch

from feathervit.data.loader import Sampler
from feathervit.errors import ConfigError, DataError

from .commands import TINY, paint


def epoch_of(sampler: Sampler, epoch: int = 0) -> torch.Tensor:
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    return torch.cat([sampler.batch(s) for s in steps])


def test_an_epoch_shows_every_image_once():
    sampler = Sampler(96, 8, seed=0)
    assert sampler.steps_per_epoch == 12
    first, second = epoch_of(sampler), epoch_of(sampler, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(96))
    assert not torch.equal(first, second)
    assert first.tolist() != list(range(96))
    assert first.dtype == torch.int64


def test_a_batch_depends_only_on_seed_and_step():
    straight = Sampler(100, 7, seed=3)
    batches = [straight.batch(s) for s in range(40)]
    fresh = Sampler(100, 7, seed=3)
    for s in (39, 0, 17, 14, 13):  # in any order, across epochs
        assert torch.equal(fresh.batch(s), batches[s])
    assert not torch.equal(Sampler(100, 7, seed=4).batch(0), batches[0])


def test_dropped_images_differ_between_epochs():
    sampler = Sampler(10, 4, seed=0)
    assert sampler.steps_per_epoch == 2
    dropped = [set(range(10)) - set(epoch_of(sampler, e).tolist()) for e in range(6)]
    assert all(len(d) == 2 for d in dropped)
    assert len({frozenset(d) for d in dropped}) > 1


def test_a_dataset_smaller_than_a_batch_is_one_batch():
    sampler = Sampler(5, 64, seed=0)
    assert sampler.steps_per_epoch == 1
    assert sorted(sampler.batch(0).tolist()) == list(range(5))


def test_processes_share_a_permutation():
    shares = [Sampler(60, 5, seed=1, rank=r, world=4) for r in range(4)]
    assert {s.steps_per_epoch for s in shares} == {3}
    for step in range(3):
        batches = [s.batch(step) for s in shares]
        assert len(set(torch.cat(batches).tolist())) == 20
    assert sorted(torch.cat([epoch_of(s) for s in shares]).tolist()) == list(range(60))


@pytest.mark.parametrize("n", [1, 3, 10, 11])
def test_processes_share_a_partial_batch_evenly(n):
    batches = [Sampler(n, 8, seed=0, rank=r, world=4).batch(0) for r in range(4)]
    assert {len(b) for b in batches} == {-(-n // 4)}
    assert set(torch.cat(batches).tolist()) == set(range(n))


def test_views_of_an_image_are_in_one_batch():
    shares = [Sampler(24, 6, seed=0, rank=r, world=2, repeats=3) for r in range(2)]
    assert shares[0].steps_per_epoch == 6
    assert shares[0].batch_size == 6
    seen = []
    for step in range(6):
        for share in shares:
            images, views = share.batch(step).unique(return_counts=True)
            assert len(images) == 2 and (views == 3).all()
            seen += images.tolist()
    assert sorted(seen) == list(range(24))


def test_invalid_settings_are_refused():
    with pytest.raises(ConfigError, match=r"batch size 8 .*repeats 3"):
        Sampler(10, 8, seed=0, repeats=3)
    with pytest.raises(DataError, match="no images"):
        Sampler(0, 8, seed=0)


def test_balanced_sampling_shows_each_class_equally():
    labels = torch.tensor([0] * 80 + [1] * 15 + [3] * 6)  # none of class 2
    sampler = Sampler(101, 10, seed=3, labels=labels)
    for epoch in range(3):
        order = sampler.permutation(epoch)
        assert sorted(labels[order].bincount()[[0, 1, 3]].tolist()) == [33, 34, 34]
        for k, count in ((0, 80), (1, 15), (3, 6)):  # images of a class are shown equally often, to within one
            times = order[labels[order] == k].bincount(minlength=101)[labels == k]
            assert len(times) == count and times.max() - times.min() <= 1
    assert not torch.equal(
        sampler.permutation(0).sort()[0], sampler.permutation(1).sort()[0]
    )  # different images of the large class
    again = Sampler(101, 10, seed=3, labels=labels)
    assert torch.equal(again.batch(23), sampler.batch(23))
    assert torch.equal(
        torch.cat([Sampler(101, 5, 3, rank, 2, labels=labels).batch(4) for rank in (0, 1)]), sampler.batch(4)
    )
    few = Sampler(2, 2, seed=0, labels=torch.tensor([0, 1]))
    assert sorted(few.batch(0).tolist()) == [0, 1]
    assert len(Sampler(3, 3, seed=0, labels=torch.arange(3)).batch(0)) == 3


@pytest.mark.parametrize(("flags", "status"), [([], 0), (["--loss.class-weights", "balanced"], 2)])
def test_balanced_sampling_on_the_command_line(command, tmp_path, flags, status):
    names = (
        [f"train/a/{i}.png" for i in range(12)] + ["train/b/x.png"] + [f"test/{k}/{i}.png" for k in "ab" for i in "12"]
    )
    argv = ["train", "--data", paint(tmp_path / "set", names), "--out", tmp_path / "run"]
    ended, _, error = command(*argv, "--augment.sampling", "balanced", *TINY, *flags)
    assert ended == status, error
    assert ("leave one out" in error) == (status == 2)

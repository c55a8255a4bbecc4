"""The benchmark runs, and its loops do the same work as ours."""

from __future__ import annotations

import json

import pytest
import torch

from feathervit.benchmark import augment


def test_the_benchmark_reports_every_contender():
    found = augment.run(sizes=(16,), threads=(1, 2), batch=8, repeats=1)
    assert torch.get_num_threads() == 1
    json.dumps(found)
    assert len(found["rows"]) == 2 * 5
    assert all(row["images_per_second"] > 0 for row in found["rows"])
    speeds = {row["name"]: row["images_per_second"] for row in found["rows"] if row["threads"] == 1}
    ours = speeds.pop(augment.OURS)
    assert found["summary"][0]["ratio"] == pytest.approx(ours / max(speeds.values()))
    text = augment.table(found)
    assert "timm" in text and "1 thread" in text


def test_accelerators_are_measured_with_whole_groups():
    work, count = augment._fed(augment.random_images(256, 24), torch.device("meta"))
    assert count == 128 * ((1 << 24) // (128 * 3 * 24 * 24))
    work()


def test_every_loop_gives_a_normalised_batch():
    torch.manual_seed(0)
    images = augment.random_images(64, 24)
    ours = augment._ours(images)()
    for name, loop in augment.loops(images).items():
        batch = loop()
        assert batch.shape == ours.shape and batch.dtype == torch.float32, name
        assert -1 <= batch.min() < batch.max() <= 1
        assert batch.mean() == pytest.approx(float(ours.mean()), abs=0.15)

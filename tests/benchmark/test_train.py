"""The cost of a training step is measured for ours and timm's models."""

from __future__ import annotations

import json

import pytest

from feathervit.benchmark.train import PARTS, run, table
from feathervit.config import Augmentation, RunConfig


@pytest.mark.parametrize("model", ["mlit_nano", "timm:resnet10t"])
def test_figures(model):
    augment = Augmentation(flip="random", crop="resized", policy="cifar10", mixup=0.2)
    config = RunConfig(
        model=model,
        img_size=32,
        patch_size=None if ":" in model else 8,
        batch_size=8,
        augment=augment,
    )
    found = run(config, steps=1, rounds=2)
    assert found["images_per_s"] > 0
    assert set(found["ms"]) == set(PARTS)
    assert all(ms > 0 for ms in found["ms"].values())
    assert found["peak_mb"] > 10
    json.dumps(found)
    assert "images/s" in table(found)


def test_parts_add_up_to_a_step():
    found = run(RunConfig(model="mlit_nano", img_size=32, patch_size=4, batch_size=32), steps=2, rounds=3)
    step = 32 / found["images_per_s"]
    assert sum(found["ms"].values()) / 1e3 == pytest.approx(step, rel=1.0)  # machines are shared

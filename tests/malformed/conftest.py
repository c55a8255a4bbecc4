"""Intact inputs that the cases copy and damage: a dataset, runs, exports and a study, each small and made once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from feathervit.cli import main

from ..conftest import write_images

SMALL = [
    *("--img-size", "16", "--patch-size", "8", "--batch-size", "12", "--lr", "3e-3", "--model", "mlit_nano"),
    *("--arch.depth", "1", "--arch.dim", "16", "--augment.policy", "none", "--device", "cpu"),
]
STUDY = {
    "recipe": "folder",
    "fields": {
        **{"img_size": 16, "patch_size": 8, "batch_size": 12, "model": "mlit_nano", "arch.depth": 1, "arch.dim": 16},
        "augment.policy": "none",
    },
    "arms": {"plain": {}, "slow": {"lr": 1e-4}},
    "epochs": 1,
    "seeds": [0],
}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """set/, run/ (a finished run), stopped/ (one that can be resumed), pretrained/, hub/, onnx/, study/ and good.png."""
    root = tmp_path_factory.mktemp("world")
    write_images(root / "set" / "train", 8)
    write_images(root / "set" / "test", 4, seed=1)
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(root / "good.png")
    study = {**STUDY, "data": str(root / "set")}
    (root / "study.json").write_text(json.dumps(study))
    train = ["train", "--data", str(root / "set"), *SMALL]
    calls = [
        [*train, "--out", str(root / "run"), "--epochs", "1"],
        [*train, "--out", str(root / "stopped"), "--epochs", "3", "--max-minutes", "1e-9"],
        ["pretrain", "--data", str(root / "set"), "--out", str(root / "pretrained"), "--epochs", "1", *SMALL],
        ["export", str(root / "run"), "--to", "huggingface", "--out", str(root / "hub")],
        ["export", str(root / "run"), "--to", "onnx", "--out", str(root / "onnx"), "--input", "tensor"],
        ["study", str(root / "study.json"), "--out", str(root / "study")],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATHERVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        for argv in calls:
            assert main(argv) in (0, 1), argv  # after one epoch an export need not agree
    return root

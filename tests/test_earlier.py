"""Files of version 0.1.0, at commit 185005e, can still be read: a stopped run, its weights, a result.

tests/earlier/stopped is `feathervit train --recipe digits` with a small model, stopped after the first of three epochs.
That version's `feathervit.load` gave probabilities.json for four test images. result.json is from the end of the run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import feathervit
from feathervit.data import load_data
from feathervit.errors import CheckpointError
from feathervit.results import read_result

EARLIER = Path(__file__).parent / "earlier"


def test_weights_give_the_same_probabilities() -> None:
    images = load_data("digits", img_size=8).test.images[:4]
    found = feathervit.load(EARLIER / "stopped").probabilities(images)
    expected = torch.tensor(json.loads((EARLIER / "probabilities.json").read_text()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_an_earlier_muon_state_suggests_from(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "stopped", tmp_path / "run")
    with pytest.raises(CheckpointError, match="--from"):
        feathervit.train(out=tmp_path / "run", resume=True)


def test_a_run_can_start_from_earlier_weights(tmp_path: Path) -> None:
    outcome = feathervit.train(
        "digits",
        out=tmp_path,
        start_from=EARLIER / "stopped",
        epochs=1,
        **{"split.train_per_class": 8, "batch_size": 80},
    )
    assert outcome.finished


def test_an_earlier_result_can_be_read() -> None:
    result = read_result(EARLIER / "result.json")
    assert result.commit.startswith("185005e")
    assert result.test["top1"] == pytest.approx(40 / 360)

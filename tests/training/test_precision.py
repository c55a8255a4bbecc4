"""The precision of a run on the CPU."""

from __future__ import annotations

import json

import pytest
import torch

import feathervit
from feathervit.training.precision import has_bfloat16


def test_bfloat16_is_off_without_cpu_capabilities(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as in PyTorch 2.9
    assert not has_bfloat16()


@pytest.mark.parametrize("gain", [0.0, 1e9])
def test_auto_times_steps_and_the_run_keeps_the_choice(gain, arrays, tmp_path, small, monkeypatch):
    monkeypatch.setattr("feathervit.training.precision.has_bfloat16", lambda: True)
    monkeypatch.setattr("feathervit.training.precision.GAIN", gain)
    feathervit.train(data=arrays, out=tmp_path / "run", epochs=1, **small)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["precision"] == (
        "bfloat16" if gain == 0 else "float32"
    )

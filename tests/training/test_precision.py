"""The precision of a run on the CPU."""

from __future__ import annotations

import torch

from feathervit.training.precision import has_bfloat16


def test_bfloat16_is_off_without_cpu_capabilities(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as in PyTorch 2.9
    assert not has_bfloat16()

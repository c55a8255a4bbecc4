"""The precision of a run on the CPU."""

from __future__ import annotations

import torch

from feathervit.training.precision import has_bfloat16


def test_a_pytorch_that_cannot_name_the_processors_features_has_no_bfloat16(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as in PyTorch 2.9
    assert not has_bfloat16()

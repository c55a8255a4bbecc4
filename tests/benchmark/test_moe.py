"""Both sides of benchmarks/moe.py compute the same function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import MoEConfig
from feathervit.models.moe import SharedVW2

from ..conftest import load_script


@pytest.fixture(scope="module")
def script():
    return load_script(Path(__file__).parents[2] / "benchmarks" / "moe.py")


@pytest.mark.parametrize("training", [True, False])
def test_dispatch_equals_ours(script, training):
    torch.manual_seed(0)
    ours = SharedVW2(12, 9, 4, MoEConfig(dropout=0.0)).train(training)
    x = torch.randn(2, 50, 12, requires_grad=True)
    probe = torch.randn(2, 50, 12)
    found = []
    for form in (ours, *(kind(ours) for kind in script.LAYERS.values())):
        torch.manual_seed(1)  # the same noise
        y, balance = form(x)
        loss = (y * probe).sum() + balance
        found.append([y, balance, *torch.autograd.grad(loss, [x, ours.w.weight, ours.w2.weight])])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_training_step_runs_with_each_form(script):
    for form in ("ours", "literal"):
        script.step_work(form, "mlit_xxs", 2, "cpu")[f"step_{form}"]()

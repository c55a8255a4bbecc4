"""Training counts the tokens of each expert, and a run warns about experts with hardly any."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

import feathervit
from feathervit.config import MoEConfig
from feathervit.models.moe import NoisyTopKGate, starving
from tests.models.test_encoder import build


@pytest.mark.parametrize("noise", [True, False])
def test_counts_match_the_gates(noise):
    gate = NoisyTopKGate(6, 4, MoEConfig(top_k=2, noise=noise)).train()
    found = [gate(torch.randn(3, 5, 6))[0] for _ in range(3)]
    expected = [sum(int((g[..., e] > 0).sum()) for g in found) for e in range(4)]
    assert gate.taken.tolist() == expected
    assert sum(expected) == 3 * 3 * 5 * 2
    gate.eval()(torch.randn(3, 5, 6))
    assert gate.taken.tolist() == expected
    assert starving(gate, 2.0) == {("", e): pytest.approx(n / 45) for e, n in enumerate(expected)}
    assert gate.taken.tolist() == [0] * 4
    assert "taken" not in gate.state_dict()


@torch.no_grad()
def test_unused_experts_are_named():
    model = build().train()
    gate = model.blocks[1].ffn.gate  # takes 2 of 3 experts
    gate.w_noise.weight.fill_(0)
    gate.w_gate.register_forward_hook(lambda _, __, y_BNE: torch.tensor([2.0, -99.0, 2.0]).expand_as(y_BNE))
    model(torch.randn(4, 3, 8, 8))
    found = starving(model, 0.01)
    assert found == {("blocks.1.ffn.gate", 1): 0.0}


def test_a_run_warns_once_per_expert(folder, small, tmp_path, monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(
        "feathervit.training.loop.STARVED", 0.5
    )  # one of five experts is taken, so four get less than half
    fields = small | {"arch.feedforward.experts": (5,), "arch.feedforward.top_k": 1, "arch.depth": 1}
    feathervit.train(data=folder, out=tmp_path / "run", epochs=3, console=Console(file=output, width=500), **fields)
    lines = [line for line in output.getvalue().splitlines() if line.startswith("warning: ")]
    assert 4 <= len(lines) <= 5
    assert len({line.partition(" got ")[0] for line in lines}) == len(lines)
    assert "warning: blocks.0.ffn.gate: expert" in lines[0]
    assert "of epoch 1" in lines[0]
    assert "--loss.moe" in lines[0]

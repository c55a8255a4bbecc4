"""Tokens are counted by expert in training, and a run says so when hardly any take one."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

import feathervit
from feathervit.config import MoE
from feathervit.models.moe import NoisyTopKGate, starving
from tests.models.test_encoder import build


@pytest.mark.parametrize("noise", [True, False])
def test_counts_are_those_of_the_gates(noise):
    gate = NoisyTopKGate(6, 4, MoE(top_k=2, noise=noise)).train()
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
def test_experts_that_no_token_takes_are_named():
    model = build().train()
    gate = model.blocks[1].ffn.gate  # of 3 experts, 2 of which are taken
    gate.w_noise.weight.fill_(0)
    gate.w_gate.register_forward_hook(lambda _, __, y_BNE: torch.tensor([2.0, -99.0, 2.0]).expand_as(y_BNE))
    model(torch.randn(4, 3, 8, 8))
    found = starving(model, 0.01)
    assert found == {("blocks.1.ffn.gate", 1): 0.0}


def test_a_run_warns_once_of_each(folder, small, tmp_path, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("feathervit.training.loop.STARVED", 0.5)  # of 5 experts 1 is taken: four have less than half
    fields = small | {"arch.feedforward.experts": (5,), "arch.feedforward.top_k": 1, "arch.depth": 1}
    feathervit.train(data=folder, out=tmp_path / "run", epochs=3, console=Console(file=said, width=500), **fields)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("warning: ")]
    assert 4 <= len(lines) <= 5
    assert len({line.partition(" got ")[0] for line in lines}) == len(lines)
    assert "warning: blocks.0.ffn.gate: expert" in lines[0]
    assert "of epoch 1" in lines[0]
    assert "--loss.moe" in lines[0]

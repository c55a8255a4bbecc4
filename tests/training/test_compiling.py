"""The choice of a mode, a compiled run against an eager one, and runs where compiling fails."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from rich.console import Console
from torch import nn

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.errors import ConfigError
from feathervit.results import read_result
from feathervit.training.compiling import FEWEST_STEPS, Compiled, choose_compile

NO_RANDOMNESS = {"arch.feedforward.noise": False, "arch.feedforward.dropout": 0.0}


@pytest.mark.parametrize(
    ("asked", "device", "fields", "mode", "message"),
    [
        ("auto", "cpu", {}, "off", "cpu"),
        ("auto", "mps", {}, "off", "mps"),
        ("auto", "cuda", {}, "reduce-overhead", "CUDA graphs"),
        ("auto", "cuda", {"steps": FEWEST_STEPS - 1}, "off", "steps"),
        ("auto", "cuda", {"parameters": 90_000_000}, "default", "large"),
        ("auto", "cuda", {"world": 2}, "default", "one process"),
        ("auto", "cuda", {"accumulate": 2}, "default", "accumulation"),
        ("off", "cuda", {}, "off", "asked"),
        ("default", "cpu", {"steps": 1}, "default", "asked"),
        ("reduce-overhead", "cuda", {"steps": 1}, "reduce-overhead", "asked"),
    ],
)
def test_choice_of_mode(asked, device, fields, mode, message):
    found, why = choose_compile(asked, torch.device(device), **{"parameters": 700_000, "steps": FEWEST_STEPS, **fields})
    assert found == mode
    assert message in why


def test_graphs_and_accumulation_exclude_each_other():
    with pytest.raises(ConfigError, match="accumulate"):
        choose_compile("reduce-overhead", torch.device("cuda"), parameters=1, steps=1, accumulate=2)


class Toy(nn.Module):
    """A loss with a buffer that each training step changes, and noise."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, x, targets):
        loss = nn.functional.cross_entropy(self.net(x), targets)
        return loss, {"loss": loss.detach()}


def broken(*_, **__):
    def call(*_):
        raise RuntimeError("no compiler here\nand much more")

    return call


def broken_backward(objective, **_):
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, d):
            raise RuntimeError("cannot capture")

    return lambda x, targets: (Bad.apply(objective(x, targets)[0]), {})


@pytest.mark.parametrize("how", [broken, broken_backward])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compile_failure_is_one_line_and_changes_nothing(monkeypatch, mode, how):
    monkeypatch.setattr(torch, "compile", how)
    x, targets, lines = torch.randn(8, 3), torch.arange(8) % 2, []
    losses = []
    for asked in ("off", mode):
        torch.manual_seed(0)
        toy = Toy()
        call = Compiled(toy, asked, lines.append)
        torch.manual_seed(1)
        for _ in range(2):
            call.prepare(x, targets)
            loss, _ = call(x, targets)
        losses.append((loss.item(), toy.net[1].running_mean.clone(), toy.net[1].num_batches_tracked.item()))
        assert all(p.grad is None for p in toy.parameters())
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])
    assert losses[0][2] == losses[1][2] == 2
    assert len(lines) == 1
    assert "eagerly" in lines[0]
    assert "\n" not in lines[0]
    assert call.mode == "off"


def test_a_failure_in_another_process_disables_compiling(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda objective, **_: objective)
    lines = []
    call = Compiled(Toy(), "default", lines.append, anywhere=lambda _: True)
    call.prepare(torch.randn(8, 3), torch.arange(8) % 2)
    assert call.mode == "off"
    assert "another process" in lines[0]


def test_a_run_continues_if_compiling_fails(monkeypatch, arrays, tmp_path, small):
    monkeypatch.setattr(torch, "compile", broken)
    text = io.StringIO()
    console = Console(file=text, width=200)
    arguments = {"data": arrays, "epochs": 1, **small}
    feathervit.train(out=tmp_path / "tried", compile="default", console=console, **arguments)
    feathervit.train(out=tmp_path / "eager", compile="off", **arguments)
    assert text.getvalue().count("eagerly (RuntimeError: no compiler here)") == 1
    assert "compile    default (asked for)" in text.getvalue()
    tried, eager = (load_weights(tmp_path / name / "last.safetensors").weights for name in ("tried", "eager"))
    assert all(torch.equal(tried[name], eager[name]) for name in eager)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs a C++ compiler")
def test_a_compiled_run_equals_the_eager_one(arrays, tmp_path, small):
    """Without noise and dropout they are equal up to rounding. With them, a resumed compiled run is equal bit for bit."""
    arguments = {"data": arrays, "epochs": 3, **small, "lr": 1e-3}
    text = io.StringIO()
    for mode in ("off", "default"):
        console = Console(file=text, width=200)
        feathervit.train(out=tmp_path / mode, compile=mode, console=console, **arguments, **NO_RANDOMNESS)
    assert "eagerly" not in text.getvalue()
    curves = [
        [row["train_loss"] for row in read_result(tmp_path / m / "result.json").epochs] for m in ("off", "default")
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert curves[0][-1] < curves[0][0]
    off, compiled = (load_weights(tmp_path / m / "last.safetensors").weights for m in ("off", "default"))
    assert list(off) == list(compiled)

    arguments["compile"] = "default"
    feathervit.train(out=tmp_path / "whole", **arguments)
    outcome = feathervit.train(out=tmp_path / "parts", max_minutes=1e-6, **arguments)
    assert not outcome.finished
    while not outcome.finished:
        outcome = feathervit.train(out=tmp_path / "parts", data=arrays, resume=True, max_minutes=0.05)
    whole, parts = (load_weights(tmp_path / n / "last.safetensors").weights for n in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

"""On a CUDA device: make test-gpu."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

import feathervit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_learns_and_resumes(arrays, tmp_path, small, precision):
    arguments = {"data": arrays, "epochs": 30, "device": "cuda", "precision": precision, **small}
    outcome = feathervit.train(out=tmp_path / "run", max_minutes=1e-3, **arguments)
    while not outcome.finished:
        outcome = feathervit.train(out=tmp_path / "run", data=arrays, resume=True)
    assert outcome.result.val["top1"] >= 0.8
    assert outcome.result.device == "cuda"


def test_the_model_agrees_on_cpu_and_gpu():
    model = feathervit.create_model("mlit_xxs").eval()
    x = torch.randn(4, 3, 36, 36)
    torch.testing.assert_close(model.cuda()(x.cuda()).cpu(), model.cpu()(x), rtol=1e-3, atol=1e-3)


def test_cuda_graphs_give_the_eager_losses(arrays, tmp_path, small):
    """The run is resumed. It warms up, records and replays CUDA graphs, and does not fall back to eager mode."""
    still = {"arch.feedforward.noise": False, "arch.feedforward.dropout": 0.0}
    arguments = {"data": arrays, "epochs": 80, "device": "cuda", "precision": "float32", **small, **still, "lr": 1e-3}
    text, losses = io.StringIO(), []
    for mode in ("off", "reduce-overhead"):
        console = Console(file=text, width=200)
        out = tmp_path / mode
        outcome = feathervit.train(out=out, compile=mode, console=console, max_minutes=1e-3, **arguments)
        while not outcome.finished:
            outcome = feathervit.train(out=out, data=arrays, resume=True, console=console)
        losses.append([row["train_loss"] for row in outcome.result.epochs])
    assert "compile    reduce-overhead" in text.getvalue()
    assert "eagerly" not in text.getvalue()
    assert len(losses[1]) == 80
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=1e-2)  # later, rounding errors have grown
    assert losses[1][-1] < 0.5 * losses[1][0]

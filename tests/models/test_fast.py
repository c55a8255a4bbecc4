"""Complete encoders in their fast forms for the CPU, against float64 with plain modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import (
    ConvMLPConfig,
    ConvStemConfig,
    EncoderConfig,
    GQAConfig,
    LatentConfig,
    MLPConfig,
    MoEConfig,
    ResidualStemConfig,
    StageConfig,
    SwiGLUConfig,
)
from feathervit.models.encoder import Encoder
from feathervit.models.fast import accelerate

PARTS = {
    "GQA, MoE": {"attention": GQAConfig(4, 2), "feedforward": MoEConfig(12, 6, noise=False, dropout=0.0)},
    "latent, SwiGLU": {"attention": LatentConfig(4, 6, "qkv"), "feedforward": SwiGLUConfig(12, 6)},
    "partly latent, MLP": {"attention": LatentConfig(4, 6, "k"), "feedforward": MLPConfig(1.5)},
    "conv stem, ConvMLP": {
        "patches": ConvStemConfig(2),
        "feedforward": ConvMLPConfig(1.5),
        "attention": GQAConfig(2, 2),
    },
    "residual stem, MLP": {
        "patches": ResidualStemConfig(4, (StageConfig(8, 1, 2), StageConfig(16, 1, 1))),
        "attention": GQAConfig(2, 2),
        "feedforward": MLPConfig(1.5),
    },
    "mean, ConvMLP": {"readout": "mean", "feedforward": ConvMLPConfig(1.5, 0), "attention": GQAConfig(2, 2)},
}


def _results(model: Encoder, x: torch.Tensor, probe: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the logits and the gradients of a loss, by name."""
    kind = model.head.weight.dtype
    logits, balance = model.forward_balanced(x.to(kind))
    loss = (logits * probe.to(kind)).sum() + balance
    names, wanted = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, wanted, materialize_grads=True, allow_unused=True)
    return {"logits": logits.detach(), **dict(zip(names, grads, strict=True))}


@pytest.mark.parametrize("parts", PARTS.values(), ids=list(PARTS))
def test_values_and_gradients_equal_plain_modules(parts):
    torch.manual_seed(0)
    exact = Encoder(EncoderConfig(dim=16, depth=2, **parts), 8, 2, 3, 5).double()
    fast = accelerate(copy.deepcopy(exact).float(), torch.float32)
    x, probe = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    ours, reference = _results(fast, x, probe), _results(exact, x, probe)
    for name, ref in reference.items():
        assert_close(ours[name].double(), ref, atol=1e-4, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("scores", [40, 2**19], ids=["one image per chunk", "one chunk"])
@pytest.mark.parametrize("parts", PARTS.values(), ids=list(PARTS))
def test_bfloat16_differs_by_rounding_only(parts, scores, monkeypatch):
    """The gradients point in the direction of those of plain modules in float64."""
    monkeypatch.setattr("feathervit.models.fast.SCORES", scores)
    torch.manual_seed(0)
    exact = Encoder(EncoderConfig(dim=16, depth=2, **parts), 8, 2, 3, 5).double()
    fast = accelerate(copy.deepcopy(exact).float(), torch.bfloat16)
    x, probe = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    ours, reference = _results(fast, x, probe), _results(exact, x, probe)
    largest = max(ref.norm() for ref in reference.values())
    for name, ref in reference.items():
        assert (ours[name].double() - ref).norm() < 0.05 * ref.norm() + 1e-3 * largest, name

"""Muon against the reference implementation's formula, matrix by matrix."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from feathervit.config import (
    ConvMLPConfig,
    EncoderConfig,
    GQAConfig,
    OptimConfig,
    ResidualStemConfig,
    RunConfig,
    StageConfig,
)
from feathervit.models import Encoder, create_model
from feathervit.training.average import MovingAverage
from feathervit.training.muon import Muon, hidden_matrices, orthogonalise
from feathervit.training.optim import build_optimizer, set_learning_rate
from feathervit.training.state import restore_optimizer


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """The reference's formula for one matrix."""
    a, b, c = (3.4445, -4.7750, 2.0315)
    x = matrix.mT if matrix.size(0) > matrix.size(1) else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.size(0) > matrix.size(1) else x


class Reference:
    """Momentum, Nesterov, orthogonalisation, scale and decay of one parameter."""

    def __init__(self, p: torch.Tensor, weight_decay: float):
        self.p, self.weight_decay, self.buffer = p, weight_decay, torch.zeros_like(p)

    def step(self, lr: float) -> None:
        self.buffer.lerp_(self.p.grad, 1 - 0.95)
        update = self.p.grad.lerp(self.buffer, 0.95).reshape(len(self.p), -1)
        scale = max(1, update.size(0) / update.size(1)) ** 0.5
        self.p.data.mul_(1 - lr * self.weight_decay)
        self.p.data.add_(newton_schulz(update).view_as(self.p), alpha=-lr * scale)


def stemmed() -> Encoder:
    patches = ResidualStemConfig(8, (StageConfig(8, 1, 2), StageConfig(16, 1, 1)))
    config = EncoderConfig(16, 2, GQAConfig(4, 4), ConvMLPConfig(2.0, 0), patches, positions="none", readout="mean")
    return Encoder(config, 8, 2, 3, 5)


@pytest.mark.parametrize("matrix_rate", [1.0, 0.15])
def test_steps_equal_the_reference(matrix_rate):
    torch.manual_seed(0)
    ours = stemmed()
    theirs = copy.deepcopy(ours)
    optim = OptimConfig("muon", betas=(0.9, 0.95), eps=1e-3, weight_decay=0.01, adamw_lr=3e-3, matrix_rate=matrix_rate)
    optimizer = build_optimizer(ours, RunConfig(lr=0.02, optim=optim))
    matrices = hidden_matrices(theirs)
    references = {n: Reference(p, 0.01) for n, p in theirs.named_parameters() if n in matrices}
    rest = {n: p for n, p in theirs.named_parameters() if n not in matrices}
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest.values() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in rest.values() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=3e-3,
        betas=(0.9, 0.95),
        eps=1e-3,  # gradients that are zero except for rounding (those of keys' biases) give no step
    )
    for _ in range(3):
        x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        for model in (ours, theirs):
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
        set_learning_rate(optimizer, 0.02)
        optimizer.step()
        adamw.step()
        for name, reference in references.items():
            reference.step(0.02 * (matrix_rate if name.startswith("blocks.") else 1.0))
    for name, p in theirs.named_parameters():
        assert_close(ours.get_parameter(name), p, atol=2e-5, rtol=2e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8), (24, 40), (128, 1152)])
@pytest.mark.parametrize("rank", [3, 8])
def test_orthogonalisation_equals_the_reference(shape, rank):
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(2, shape[0], rank, generator=generator)
    matrices = left @ torch.randn(2, rank, shape[1], generator=generator)
    expected = torch.stack([newton_schulz(m.double()) for m in matrices])
    assert_close(orthogonalise(matrices).double(), expected, atol=1e-4, rtol=0)


def test_hidden_matrices():
    found = hidden_matrices(stemmed())
    assert {"patch_embed.residual.0.conv1.weight", "blocks.0.attn.qkv.weight", "blocks.1.ffn.fc2.weight"} <= found
    # The first filters, the classifier and depth-wise filters are not.
    assert not {"patch_embed.proj.weight", "head.weight", "blocks.0.ffn.conv.weight"} & found
    resnet = create_model("timm:resnet18_xxs", num_classes=5)
    found = hidden_matrices(resnet)
    assert "layer1.0.conv1.weight" in found
    assert not {"conv1.weight", "fc.weight"} & found


def test_moving_average():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = MovingAverage(model, 0.5)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(8, 3))
        average.update(step)
        decay = min(0.5, 1 - max(step, 1) ** (-2 / 3))
        for name, tensor in model.state_dict().items():
            whole = not tensor.is_floating_point()
            wanted[name] = tensor.clone() if whole else decay * wanted[name] + (1 - decay) * tensor
    for name, tensor in average.module.state_dict().items():
        assert_close(tensor, wanted[name])


def test_a_restored_step_is_on_the_device_of_its_parameter():
    """Fused AdamW requires it. The device `meta` stands for a GPU."""
    bias = nn.Parameter(torch.zeros(4, device="meta"))
    optimizer = Muon([{"params": [bias]}])
    restore_optimizer(optimizer, {"optimizer.0.step": torch.ones(()), "optimizer.0.exp_avg": torch.zeros(4)})
    assert optimizer.state[bias]["step"].device == bias.device

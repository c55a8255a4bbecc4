"""The learning rate of each weight, and the schedule."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from feathervit.config import OptimConfig, RunConfig, resolve, with_fields
from feathervit.models import create_model
from feathervit.training.optim import build_optimizer, learning_rate, peak_learning_rate, set_learning_rate
from feathervit.training.state import flatten_optimizer, restore_optimizer


def test_linear_scaling_rule():
    config = RunConfig(lr=3e-4)
    assert peak_learning_rate(config, 840) == pytest.approx(3e-4 * 840 / 256)  # Eq. 17; 9.84e-4
    assert peak_learning_rate(with_fields(config, **{"optim.lr_batch": 0}), 840) == 3e-4


def test_schedule_is_linear_then_cosine():
    config = RunConfig(epochs=10, optim=OptimConfig(warmup_epochs=2, min_lr=1e-5))
    rates = [learning_rate(step, 5, config, 1e-2) for step in range(50)]
    assert rates[:10] == pytest.approx([1e-2 * (i + 1) / 10 for i in range(10)])
    assert rates[9] == max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-5)
    middle = 1e-5 + (1e-2 - 1e-5) * 0.5 * (1 + math.cos(math.pi * 13 / 39))
    assert rates[23] == pytest.approx(middle)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_layer_decay_scales_the_steps():
    """With equal gradients, Adam's first step is the learning rate itself, so steps compare as 0.9^(L + 1 - i)."""
    model = create_model("mlit_xxs", num_classes=10)
    depth = 9
    config = RunConfig(lr=1e-3, optim=OptimConfig(layer_decay=0.9, weight_decay=0.0))
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 1e-3)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    steps = {n: (before[n] - p.detach()).mean().item() for n, p in model.named_parameters()}
    head = steps["head.weight"]
    assert head == pytest.approx(1e-3, rel=1e-3)
    for i in range(1, depth + 1):
        got = steps[f"blocks.{i - 1}.ffn.w.weight"]
        assert got == pytest.approx(head * 0.9 ** (depth + 1 - i), rel=1e-3)
    assert steps["pos_embed"] == pytest.approx(head * 0.9 ** (depth + 1), rel=1e-3)
    assert steps["patch_embed.proj.weight"] == pytest.approx(head * 0.9 ** (depth + 1), rel=1e-3)


def test_sgd_uses_nesterov_momentum():
    """v = m v + g; step lr (g + m v), as in Sutskever et al. (2013), in PyTorch's form."""
    model = create_model("mlit_nano", num_classes=3)
    config = resolve(
        RunConfig(model="mlit_nano", lr=0.1, optim=OptimConfig(name="sgd", momentum=0.8, weight_decay=0.0))
    )
    optimizer = build_optimizer(model, config)
    weight, velocity = model.head.weight, 0.0
    for gradient in (1.0, -0.5, 2.0):
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        velocity = 0.8 * velocity + gradient
        assert torch.allclose(before - weight, torch.full_like(weight, 0.1 * (gradient + 0.8 * velocity)), atol=1e-6)


@pytest.mark.parametrize("sharing", ["v_w2", "none"])
def test_weight_decay_skips_biases_norms_and_positions(sharing):
    model = create_model("mlit_nano", num_classes=3)
    model = create_model(
        "mlit_nano", num_classes=3, config=with_fields(model.config, **{"feedforward.sharing": sharing})
    )
    optimizer = build_optimizer(model, RunConfig(lr=1e-2, optim=OptimConfig(weight_decay=0.5)))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # so that only decay can move a weight
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p.detach())}
    norms = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    spared = {n for n in before if n.endswith((".bias", ".b2")) or n in norms or n == "pos_embed"}
    assert moved == set(before) - spared


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lion_equals_its_paper(decay):
    """Algorithm 2 of arXiv 2302.06675 with its defaults, 0.9 and 0.99; gradients that change sign distinguish the two."""
    config = resolve(RunConfig(optim=OptimConfig(name="lion", weight_decay=decay)))
    assert config.optim.betas == (0.9, 0.99)
    layer = nn.Linear(3, 2, bias=False)
    optimizer = build_optimizer(layer, config)
    set_learning_rate(optimizer, 1e-2)
    weight, momentum = layer.weight.detach().clone(), torch.zeros(2, 3)
    for step in range(40):
        gradient = torch.full((2, 3), 1.0 if step < 20 else -0.3)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        weight = weight - 1e-2 * ((0.9 * momentum + 0.1 * gradient).sign() + decay * weight)
        momentum = 0.99 * momentum + 0.01 * gradient
        torch.testing.assert_close(layer.weight.detach(), weight)


@pytest.mark.parametrize(("name", "betas"), [("adamw", (0.9, 0.999)), ("muon", (0.9, 0.95))])
def test_betas_default_to_those_of_the_optimiser(name, betas):
    assert resolve(RunConfig(optim=OptimConfig(name=name))).optim.betas == betas
    assert resolve(RunConfig(optim=OptimConfig(name=name, betas=(0.8, 0.9)))).optim.betas == (0.8, 0.9)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_every_optimiser_moves_every_weight(name):
    torch.manual_seed(0)
    model = create_model("mlit_nano", img_size=8, patch_size=4, num_classes=3)
    optimizer = build_optimizer(model, RunConfig(lr=1e-2, optim=OptimConfig(name=name)))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    logits, balance = model.train().forward_balanced(torch.randn(8, 3, 8, 8))
    (logits.square().sum() + balance).backward()
    optimizer.step()
    still = [n for n, p in model.named_parameters() if torch.equal(before[n], p.detach())]
    assert still == []


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_a_restored_optimiser_state_is_equal(name):
    model = create_model("mlit_nano", img_size=8, patch_size=4, num_classes=3)
    made = [build_optimizer(model, RunConfig(optim=OptimConfig(name=name))) for _ in range(2)]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    made[0].step()
    restore_optimizer(made[1], flatten_optimizer(made[0]))
    for p in model.parameters():
        saved, restored = (optimizer.state[p] for optimizer in made)
        assert {k: type(v) for k, v in saved.items()} == {k: type(v) for k, v in restored.items()}
        assert all(
            torch.equal(v, restored[k]) if isinstance(v, torch.Tensor) else v == restored[k] for k, v in saved.items()
        )


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_muon_does_not_decay_positions_and_tokens(layer_decay):
    config = resolve(RunConfig(model="poorvit_tiny", optim=OptimConfig(name="muon", layer_decay=layer_decay)))
    model = create_model("poorvit_tiny", num_classes=5)
    decayed = {id(p) for g in build_optimizer(model, config).param_groups if g["weight_decay"] for p in g["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names and not names & set(model.no_weight_decay())

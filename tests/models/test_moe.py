"""The folded mixtures, the gates and their losses against the literal formulas of tests/reference/moe.py (float64)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from feathervit.config import MoEConfig
from feathervit.errors import ConfigError
from feathervit.models import fast as fast_forms
from feathervit.models.fast import accelerate
from feathervit.models.moe import SHARINGS
from tests.reference import moe as literal

D, F, E = 6, 5, 4
EXACT = {"atol": 1e-9, "rtol": 1e-9}


def build(sharing: str = "v_w2", experts: int = E, **fields) -> nn.Module:
    torch.manual_seed(0)
    config = MoEConfig(**{"dropout": 0.0, "importance_weight": 0.7, "load_weight": 0.4, "sharing": sharing, **fields})
    return SHARINGS[sharing](D, F, experts, config).double()


def image(seed: int = 1) -> Tensor:
    return 2 * torch.randn(2, 7, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def experts_of(layer: nn.Module, sharing: str, experts: int = E) -> list[literal.Expert]:
    """The layer's parameters as per-expert tensors; a shared projection is one tensor in all experts, bias included."""

    def per_expert(t: Tensor, dim: int = 0) -> list[Tensor]:
        assert t.shape[dim] == experts * F
        return list(t.split(F, dim))

    def shared(t: Tensor) -> list[Tensor]:
        return [t] * experts

    w_split = shared if sharing in ("v_w", "w_w2") else per_expert
    v_split = shared if sharing in ("v_w2", "v_w") else per_expert
    w2_own = sharing in ("v_w", "none")
    w, b = w_split(layer.w.weight), w_split(layer.w.bias)
    v, c = v_split(layer.v.weight), v_split(layer.v.bias)
    w2 = per_expert(layer.w2.weight, 1) if w2_own else shared(layer.w2.weight)
    d = list(layer.b2) if w2_own else shared(layer.w2.bias)
    return [literal.Expert(w[e].T, b[e], v[e].T, c[e], w2[e].T, d[e]) for e in range(experts)]


def literal_forward(layer: nn.Module, x: Tensor, noise: Tensor, sharing: str, k: int, squared: bool):
    rows, noise = x.flatten(0, 1), noise.flatten(0, 1)
    w_gate, w_noise = layer.gate.w_gate.weight.T, layer.gate.w_noise.weight.T
    gates = literal.softmax_k(literal.noisy_h(rows, w_gate, w_noise, noise), k)
    y = literal.mixture(rows, gates, experts_of(layer, sharing)).view_as(x)
    probability = literal.load_probability(rows, w_gate, w_noise, noise, k)
    loss = literal.importance_loss(gates, 0.7, squared) + literal.load_loss(probability, 0.4, squared)
    return y, gates.view(*x.shape[:-1], -1), loss


def seeded(call, x: Tensor):
    """The result of `call(x)`, and the gate noise that it drew."""
    torch.manual_seed(5)
    out = call(x)
    torch.manual_seed(5)
    return out, torch.randn(*x.shape[:-1], E, dtype=torch.float64)


@pytest.mark.parametrize("balance", ["cv", "cv_squared"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("sharing", ["v_w2", "v_w", "w_w2", "none"])
def test_equals_the_literal_mixture(sharing, k, balance):
    layer = build(sharing, top_k=k, balance=balance)
    x = image().requires_grad_()
    (y, loss), noise = seeded(layer, x)
    y_ref, _, loss_ref = literal_forward(layer, x, noise, sharing, k, balance == "cv_squared")
    assert_close(y, y_ref, **EXACT)
    assert_close(loss, loss_ref, **EXACT)

    probe = image(seed=2)
    wanted = {"x": x, **dict(layer.named_parameters())}
    grads = torch.autograd.grad((y * probe).sum() + loss, wanted.values(), allow_unused=True)
    grads_ref = torch.autograd.grad((y_ref * probe).sum() + loss_ref, wanted.values(), allow_unused=True)
    for name, got, ref in zip(wanted, grads, grads_ref, strict=True):
        assert_close(got, ref, **EXACT, msg=lambda text, name=name: f"gradient of {name}: {text}")
        assert k == 1 or got.abs().max() > 0, name


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_each_loss_alone(weights):
    layer = build(importance_weight=weights[0], load_weight=weights[1])
    x = image()
    (_, loss), noise = seeded(layer, x)
    rows, noise = x.flatten(0, 1), noise.flatten(0, 1)
    w_gate, w_noise = layer.gate.w_gate.weight.T, layer.gate.w_noise.weight.T
    gates = literal.softmax_k(literal.noisy_h(rows, w_gate, w_noise, noise), 2)
    if weights[0]:
        expected = literal.importance_loss(gates, 1.0)
    else:
        expected = literal.load_loss(literal.load_probability(rows, w_gate, w_noise, noise, 2), 1.0)
    assert expected > 0.01
    assert_close(loss, expected, **EXACT)


@pytest.mark.parametrize("sharing", ["v_w2", "v_w", "w_w2", "none"])
def test_evaluation_has_no_noise_and_no_loss(sharing):
    layer = build(sharing, dropout=0.5).eval()
    x = image()
    chance = torch.get_rng_state()
    y, loss = layer(x)
    assert torch.equal(torch.get_rng_state(), chance)
    assert loss.item() == 0
    rows = x.flatten(0, 1)
    gates = literal.softmax_k(rows @ layer.gate.w_gate.weight.T, 2)
    assert_close(y, literal.mixture(rows, gates, experts_of(layer, sharing)).view_as(x), **EXACT)


def test_choosing_all_experts_gives_no_load_loss():
    _, loss = build(top_k=E, importance_weight=0.0, load_weight=1.0)(image())
    assert loss.item() == 0


@pytest.mark.parametrize("sharing", ["v_w2", "v_w", "w_w2", "none"])
def test_one_expert_has_no_gate(sharing):
    layer = build(sharing, experts=1, top_k=1)
    assert not [name for name, _ in layer.named_parameters() if "gate" in name or "noise" in name]
    x = image()
    y, loss = layer(x)
    (expert,) = experts_of(layer, sharing, 1)
    assert_close(y, expert(x.flatten(0, 1)).view_as(x), **EXACT)
    assert loss.item() == 0


def test_gate_without_noise():
    layer = build(noise=False)
    assert not [name for name, _ in layer.named_parameters() if "noise" in name]
    x = image()
    chance = torch.get_rng_state()
    y, loss = layer(x)
    assert torch.equal(torch.get_rng_state(), chance)
    rows = x.flatten(0, 1)
    gates = literal.softmax_k(rows @ layer.gate.w_gate.weight.T, 2)
    assert_close(y, literal.mixture(rows, gates, experts_of(layer, "v_w2")).view_as(x), **EXACT)
    assert_close(loss, literal.importance_loss(gates, 0.7), **EXACT)


def test_gradient_at_perfect_balance_is_finite():
    layer = build(top_k=E, noise=False)
    nn.init.zeros_(layer.gate.w_gate.weight)
    _, loss = layer(image())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert layer.gate.w_gate.weight.grad.isfinite().all()


def test_vanishing_noise_keeps_gradients_finite():
    """A trained W_noise may drive softplus towards zero; Eq. 5 divides by it."""
    layer = build().float()
    x = torch.rand(2, 7, D) + 0.5
    nn.init.constant_(layer.gate.w_noise.weight, -40.0)
    _, loss = layer(x)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in layer.gate.parameters())


def test_dropout_is_applied_to_the_output():
    layer = build(dropout=0.4, noise=False)
    x = image()
    whole = layer.eval()(x)[0]
    y = layer.train()(x)[0]
    kept = y != 0
    assert 0.4 < kept.double().mean() < 0.8
    assert_close(y[kept], whole[kept] / 0.6, **EXACT)


def test_the_gate_runs_in_float32_under_autocast():
    layer = build(noise=False).float()
    x = image().float()
    gates, loss = layer.gate(x)
    with torch.autocast("cpu", torch.bfloat16):
        gates_cast, loss_cast = layer.gate(x)
        y, _ = layer(x)
    assert torch.equal(gates, gates_cast)
    assert torch.equal(loss, loss_cast)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("sharing", ["v_w2", "v_w", "w_w2", "none"])
def test_experts_are_initialised_as_separate_linear_layers(sharing):
    """PyTorch's default is uniform within 1 / sqrt(fan-in): D into each W and V, F (not E * F) into each W2."""
    torch.manual_seed(0)
    dim, hidden = 64, 100
    layer = SHARINGS[sharing](dim, hidden, E, MoEConfig(sharing=sharing))
    b2 = layer.b2 if sharing in ("v_w", "none") else layer.w2.bias
    for t, fan_in in [(layer.w.weight, dim), (layer.v.weight, dim), (layer.w2.weight, hidden), (b2, hidden)]:
        bound = 1 / math.sqrt(fan_in)
        assert t.abs().max() <= bound
        assert t.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize("k", [E + 1, 0, -1])
def test_invalid_top_k_is_refused(k):
    with pytest.raises(ConfigError, match=f"top_k {k}"):
        build(top_k=k)


class TestFloat32OnTheCPU:
    """The form that processes tokens in chunks, against the plain one in float64."""

    @staticmethod
    def both(x: Tensor, **fields) -> tuple[nn.Module, nn.Module]:
        exact = build(noise=False, **fields)
        return exact, accelerate(copy.deepcopy(exact).float(), torch.float32)

    @pytest.mark.parametrize("tokens", [1, 7, 16, 50])
    @pytest.mark.parametrize(("experts", "k"), [(1, 1), (3, 2), (5, 2), (4, 4)])
    def test_values_and_gradients(self, monkeypatch, experts, k, tokens):
        monkeypatch.setattr(fast_forms, "CHUNK", 16)
        x = torch.randn(1, tokens, D, dtype=torch.float64)
        exact, fast = self.both(x, experts=experts, top_k=k)
        probe = torch.randn_like(x)
        found = []
        for layer, kind in ((exact, torch.float64), (fast, torch.float32)):
            mine = x.to(kind).requires_grad_()
            y, _ = layer(mine)
            wanted = {"x": mine, **dict(layer.named_parameters())}
            grads = torch.autograd.grad((y * probe.to(kind)).sum(), wanted.values())
            found.append({"y": y.detach(), **dict(zip(wanted, grads, strict=True))})
        for name, ref in found[0].items():
            assert_close(found[1][name].double(), ref, atol=2e-5, rtol=2e-5, msg=lambda text, n=name: f"{n}: {text}")

    def test_evaluation(self, monkeypatch):
        monkeypatch.setattr(fast_forms, "CHUNK", 16)
        x = torch.randn(2, 21, D, dtype=torch.float64)
        exact, fast = (layer.eval() for layer in self.both(x))
        with torch.no_grad():
            assert_close(fast(x.float())[0].double(), exact(x)[0], atol=1e-5, rtol=1e-5)

    def test_dropout_scales_kept_values_and_gradients(self):
        x = torch.randn(1, 4000, D, dtype=torch.float64)
        _, fast = self.both(x, dropout=0.3)
        mine = x.float().requires_grad_()
        whole = fast.eval()(mine)[0].detach()
        y = fast.train()(mine)[0]
        kept = y != 0
        assert kept.double().mean().item() == pytest.approx(0.7, abs=0.01)  # 24,000 draws: 0.003 is one deviation
        assert_close(y[kept], whole[kept] / 0.7, atol=1e-5, rtol=1e-5)
        # The gradient has the same mask: it is the scaled gradient of the kept entries.
        probe = torch.randn_like(whole)
        found = torch.autograd.grad((y * probe).sum(), [mine, fast.v.weight, fast.w2.bias])
        y = fast.eval()(mine)[0]
        ref = torch.autograd.grad((y * probe * kept / 0.7).sum(), [mine, fast.v.weight, fast.w2.bias])
        for got, want in zip(found, ref, strict=True):
            assert_close(got, want, atol=2e-3, rtol=1e-4)

    def test_dropout_of_one_gives_zeros(self):
        x = torch.randn(1, 9, D, dtype=torch.float64)
        _, fast = self.both(x, dropout=1.0)
        y, _ = fast(x.float())
        assert y.count_nonzero() == 0

    def test_dropout_is_drawn_from_the_seed(self):
        torch.manual_seed(3)
        first = fast_forms.keep_mask((50, 7), 0.5)
        second = fast_forms.keep_mask((50, 7), 0.5)
        torch.manual_seed(3)
        assert torch.equal(fast_forms.keep_mask((50, 7), 0.5), first)
        assert not torch.equal(first, second)

    def test_exported_graphs_use_plain_operators(self):
        """Exported and compiled graphs contain plain operators."""
        _, fast = self.both(torch.empty(0))
        x = torch.randn(2, 9, D)
        exported = torch.export.export(fast.eval(), (x,))
        assert not [n for n in exported.graph.nodes if "mkldnn" in str(n.target) or "Mixture" in str(n.target)]
        assert_close(exported.module()(x)[0], fast(x)[0], atol=1e-5, rtol=1e-5)

    def test_products_without_onednn(self, monkeypatch):
        x, weight, bias = torch.randn(9, 5), torch.randn(4, 5), torch.randn(4)
        wanted = x.double() @ weight.double().T + bias.double()
        assert_close(fast_forms.linear(x, weight, bias).double(), wanted, atol=1e-5, rtol=1e-5)
        monkeypatch.setattr(fast_forms, "_has_onednn", lambda: False)
        assert_close(fast_forms.linear(x, weight, bias).double(), wanted, atol=1e-5, rtol=1e-5)

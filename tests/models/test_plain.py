"""Our models are plain modules: hooks, adapters, pruning, transforms and counters see every layer, as in timm's ViT."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import prune
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from feathervit.config import ConvMLPConfig, EncoderConfig, GQAConfig, MLPConfig, MoEConfig
from feathervit.models import Encoder, create_model
from feathervit.models.fast import FastLinear, accelerate, plain

KINDS = {"experts": MoEConfig(12, 6, noise=False, dropout=0.0), "MLP": MLPConfig(2.0), "ConvMLP": ConvMLPConfig(2.0, 0)}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def model(request) -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(dim=16, depth=2, attention=GQAConfig(4, 2), feedforward=request.param)
    return Encoder(config, 8, 2, 3, 5).eval()


def test_hooks_fire_on_every_linear_layer(model):
    called = set()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in linear:
        model.get_submodule(name).register_forward_hook(lambda *_, n=name: called.add(n))
    model(torch.randn(2, 3, 8, 8))
    noise = {name for name in linear if name.endswith("w_noise")}  # used in training only
    assert called == set(linear) - noise


class LowRank(nn.Module):
    """The layer with which LoRA (arXiv 2106.09685) replaces a linear one."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_adapters_change_the_output_and_get_gradients(model):
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    wanted = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.endswith("w_noise")]
    for name in wanted:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LowRank(model.get_submodule(name)))
    after = model(x)
    assert not torch.allclose(before, after)
    after.square().sum().backward()
    for name in wanted:
        assert model.get_submodule(name).up.weight.grad.abs().sum() > 0, name


def test_pruning(model):
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            prune.l1_unstructured(module, "weight", amount=0.5)
    assert not torch.allclose(model(x), before)


def test_dynamic_quantisation(model):
    torch.backends.quantized.engine = "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "qnnpack"
    x = torch.randn(2, 3, 8, 8)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    assert_close(quantised(x), model(x), atol=0.1, rtol=0.1)


def test_per_image_gradients(model):
    """vmap(grad) against one backward pass per image."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    x, y = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])

    def loss(params, image, label):
        return nn.functional.cross_entropy(functional_call(model, params, image[None]), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
    for i in range(3):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name in ("head.weight", "blocks.0.attn.qkv.weight"):
            assert_close(found[name][i], model.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


def test_forward_mode_gradients(model):
    model = model.double()
    x, direction = torch.randn(2, 1, 3, 8, 8, dtype=torch.float64)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        _, slope = jvp(model, (x,), (direction,))
        step = 1e-6
        numeric = (model(x + step * direction) - model(x - step * direction)) / (2 * step)
    assert_close(slope, numeric, atol=1e-5, rtol=1e-5)


def test_second_derivatives(model):
    """Compares with differences of first gradients, in float64."""
    model = model.double()
    weight = model.blocks[0].attn.proj.weight
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    direction = torch.randn_like(weight)

    def slope(graph: bool) -> torch.Tensor:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return torch.autograd.grad(model(x).square().sum(), weight, create_graph=graph)[0]

    (found,) = torch.autograd.grad((slope(True) * direction).sum(), weight)
    step = 1e-5
    with torch.no_grad():
        weight.add_(direction, alpha=step)
    ahead = slope(False)
    with torch.no_grad():
        weight.sub_(direction, alpha=2 * step)
    behind = slope(False)
    assert_close(found, (ahead - behind) / (2 * step), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mlit_xxs", "mlit_nano", "feather_nano"])
def test_flops_are_counted(name):
    patch_size = 8 if name.startswith("feather") else 4
    model = create_model(name, img_size=32, patch_size=patch_size, num_classes=10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    tokens = (32 // patch_size) ** 2
    linear = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, nn.Linear)) - sum(
        m.weight.numel() for n, m in model.blocks.named_modules() if n.endswith("w_noise")
    )
    assert counter.get_total_flops() > 2 * tokens * linear


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_models_run_in_half_precision(dtype, training):
    torch.manual_seed(0)
    config = EncoderConfig(dim=16, depth=2, attention=GQAConfig(4, 2), feedforward=MoEConfig(12, 6, dropout=0.0))
    model = Encoder(config, 8, 2, 3, 5).train(training)
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(1)
    wanted = model(x)
    torch.manual_seed(1)
    found = model.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    if not training:  # the noise of the gates differs between dtypes
        assert_close(found.float(), wanted, atol=0.1, rtol=0.1)


class TestFast:
    def test_second_derivatives_are_refused(self, model):
        fast = accelerate(copy.deepcopy(model), torch.float32)
        weight = fast.head.weight
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(fast(torch.randn(2, 3, 8, 8)).sum(), weight, create_graph=True)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_names_and_parameters_are_kept(self, model, dtype):
        fast = accelerate(copy.deepcopy(model), dtype)
        assert fast.state_dict().keys() == model.state_dict().keys()
        assert all(p.dtype == torch.float32 for p in fast.parameters())

    def test_adapters_are_kept(self, model):
        x = torch.randn(2, 3, 8, 8)
        layer = model.blocks[1].ffn
        name = "w" if hasattr(layer, "w") else "fc1"
        setattr(layer, name, LowRank(getattr(layer, name)))
        fast = accelerate(copy.deepcopy(model), torch.float32)
        assert type(fast.head) is FastLinear
        assert_close(fast(x), model(x), atol=1e-4, rtol=1e-4)

    def test_bfloat16_is_close_to_float32(self, model):
        x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 5
        low = accelerate(copy.deepcopy(model), torch.bfloat16)
        grads = []
        for m in (model, low):
            logits = m(x)
            assert logits.dtype == torch.float32
            nn.functional.cross_entropy(logits, y).backward()
            grads.append(torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]))
        assert_close(low(x), model(x), atol=0.05, rtol=0.05)
        assert nn.functional.cosine_similarity(*grads, dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mlit_nano", "feather_nano"])
def test_plain_removes_the_fast_forms(name, dtype):
    model = create_model(name, num_classes=5)
    kinds = [type(module) for module in model.modules()]
    assert [type(module) for module in accelerate(model, dtype).modules()] != kinds
    assert [type(module) for module in plain(model).modules()] == kinds

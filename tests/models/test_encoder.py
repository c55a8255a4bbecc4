"""The encoder: the papers' figures, timm's contract for every registered model, and errors for mismatched sizes."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.testing import assert_close

from feathervit.config import (
    ConvMLPConfig,
    ConvStemConfig,
    EncoderConfig,
    GQAConfig,
    LatentConfig,
    MLPConfig,
    MoEConfig,
    PooledStemConfig,
    ResidualStemConfig,
    StageConfig,
    SwiGLUConfig,
    WhitenedPatchesConfig,
)
from feathervit.errors import ConfigError, UnknownNameError
from feathervit.models import Encoder, create_model, list_models
from feathervit.models.cost import cost
from feathervit.models.place import Place

TINY = EncoderConfig(dim=12, depth=3, attention=GQAConfig(4, 2), feedforward=MoEConfig(10, 4, experts=(2, 3, 4)))
PLACE = Place(prefix=1, grid_size=4)
VARIANTS = {
    "moe": TINY,
    "unshared": replace(TINY, feedforward=MoEConfig(10, 4, experts=(1, 3), top_k=1, sharing="none")),
    "swiglu": replace(TINY, feedforward=SwiGLUConfig(10, 4), readout="class"),
    "mlp": replace(TINY, feedforward=MLPConfig(), readout="mean", drop_path_rate=0.1),
    "latent": replace(TINY, attention=LatentConfig(4, 5, "qk"), readout="class", class_tokens=3, positions="sincos"),
    "rotary": replace(
        TINY, attention=GQAConfig(3, 1), readout="pool", positions="rotary", patches=WhitenedPatchesConfig()
    ),
    "stem": replace(TINY, feedforward=ConvMLPConfig(2.0), positions="none", patches=ConvStemConfig(2)),
    "residual": replace(
        TINY,
        feedforward=ConvMLPConfig(2.0, 0),
        readout="mean",
        positions="none",
        patches=ResidualStemConfig(6, (StageConfig(8, 1, 2), StageConfig(10, 1, 1))),
    ),
    "frozen": replace(
        TINY, dim=16, feedforward=ConvMLPConfig(2.0, 0), readout="mean", patches=WhitenedPatchesConfig(frozen=True)
    ),
    "all": EncoderConfig(12, 2, LatentConfig(3, 4), ConvMLPConfig(1.5, 2), ConvStemConfig(1), "rotary", "class", 2),
}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def build(config: EncoderConfig = TINY, img_size: int = 8, **sizes) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config, **{"img_size": img_size, "patch_size": 2, "num_classes": 5, **sizes})


# ---------------------------------------------------------------------------------------------------------------------
# Figures of the paper


def test_biases_follow_the_paper():
    model = create_model("mlit_xxs")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bias = name.startswith("blocks.") and ".gate." not in name
            assert (module.bias is not None) == bias, name


def test_the_readout_token_is_an_all_zero_patch():
    model = build()
    assert_close(model.patch_embed(torch.zeros(1, 3, 8, 8)), torch.zeros(1, 16, 12))  # its projection
    patches = torch.randn(2, 16, 12)
    tokens = model.readout.prepend(patches)
    assert model.num_prefix_tokens == 1
    assert torch.equal(tokens[:, 0], torch.zeros(2, 12))
    assert torch.equal(tokens[:, 1:], patches)
    assert not list(model.readout.parameters())


def test_layers_do_not_depend_on_the_order_of_tokens():
    """A dummy token at the front is therefore equivalent to the paper's dummy at the end."""
    model = build().double().eval()
    tokens = torch.randn(2, 17, 12, dtype=torch.float64)
    moved = tokens.roll(-1, 1)
    for layer in model.blocks:
        tokens, moved = layer(tokens, PLACE)[0], layer(moved, PLACE)[0]
    assert_close(moved, tokens.roll(-1, 1), atol=1e-12, rtol=1e-12)


def test_layers_are_pre_norm_residuals():
    layer = build().double().eval().blocks[0]
    x = torch.randn(2, 17, 12, dtype=torch.float64)
    middle = x + layer.attn(F.layer_norm(x, (12,)))
    assert_close(layer(x, PLACE)[0], middle + layer.ffn(F.layer_norm(middle, (12,)))[0], atol=1e-12, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Behaviour


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_does_not_depend_on_the_batch(variant):
    model = build(VARIANTS[variant]).double().eval()
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    together = model(images)
    assert_close(together, torch.cat([model(image[None]) for image in images]), atol=1e-12, rtol=1e-12)
    assert_close(together.flip(0), model(images.flip(0)), atol=1e-12, rtol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter(variant):
    model = build(VARIANTS[variant]).train()
    for module in model.modules():  # residual blocks start as their shortcut, which stops gradients
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    logits, balance = model.forward_balanced(torch.randn(16, 3, 8, 8))
    (F.cross_entropy(logits, torch.arange(16) % 5) + balance).backward()
    without = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()
    ]
    assert without == []


def test_balance_loss_sums_layers_and_is_zero_in_evaluation():
    model = build()
    images = torch.randn(4, 3, 8, 8)
    collected = []
    hooks = [layer.ffn.register_forward_hook(lambda m, a, out: collected.append(out[1])) for layer in model.blocks]
    _, balance = model.train().forward_balanced(images)
    assert balance.item() > 0
    assert len(collected) == 3
    assert balance.item() == pytest.approx(sum(c.item() for c in collected))
    logits, balance = model.eval().forward_balanced(images)
    assert balance.item() == 0
    assert torch.equal(logits, model(images))
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("variant", VARIANTS)
def test_deep_copy_and_state_dict_round_trip(variant):
    model = build(VARIANTS[variant])
    twin = copy.deepcopy(model)
    torch.manual_seed(9)
    other = Encoder(VARIANTS[variant], img_size=8, patch_size=2, num_classes=5)
    images = torch.randn(2, 3, 8, 8)
    assert not torch.equal(other.eval()(images), model.eval()(images))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(images), model(images))
    assert torch.equal(twin.eval()(images), model(images))
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(twin(images), model(images))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_input_channels(channels):
    assert build(in_chans=channels)(torch.randn(2, channels, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("readout", ["dummy", "class", "mean", "pool"])
def test_positions_are_resized_for_another_image_size(readout):
    small = build(replace(TINY, readout=readout), img_size=8)
    large = build(replace(TINY, readout=readout), img_size=12)
    prefix = small.num_prefix_tokens
    state = small.state_dict()
    large.load_state_dict(large.adapt(state), strict=True)
    grid = small.pos_embed[:, prefix:].transpose(1, 2).unflatten(2, (4, 4))
    expected = F.interpolate(grid, (6, 6), mode="bicubic", antialias=True, align_corners=False)
    assert_close(large.pos_embed[:, prefix:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(large.pos_embed[:, :prefix], small.pos_embed[:, :prefix])
    assert torch.equal(large.blocks[1].attn.qkv.weight, small.blocks[1].attn.qkv.weight)
    assert torch.equal(state["pos_embed"], small.pos_embed)
    again = build(replace(TINY, readout=readout), img_size=8)
    again.load_state_dict(again.adapt(state))
    assert torch.equal(again.pos_embed, small.pos_embed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_adapt_to_another_image_size(variant):
    small, large = build(VARIANTS[variant]), build(VARIANTS[variant], img_size=12)
    large.load_state_dict(large.adapt(small.state_dict()), strict=True)
    assert large.eval()(torch.randn(2, 3, 12, 12)).shape == (2, 5)
    same = {n: p for n, p in small.named_parameters() if n != "pos_embed"}
    assert all(torch.equal(p, same[n]) for n, p in large.named_parameters() if n != "pos_embed")


@pytest.mark.parametrize(
    "variant", [v if v in ("moe", "residual", "all") else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS]
)
def test_evaluation_exports_with_a_dynamic_batch(variant):
    model = build(VARIANTS[variant]).eval()
    batch = {"x_BCSS": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=batch)
    images = torch.randn(5, 3, 8, 8)
    assert_close(program.module()(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cost_is_counted(variant):
    model = build(VARIANTS[variant])
    found = cost(model, 8)
    assert found.tokens == 16 + model.num_prefix_tokens
    assert found.parameters == count(model)
    assert found.macs > 16 * 144 * len(model.blocks)


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        (TINY, {"patch_size": 0}, "patch size 0"),
        (TINY, {"img_size": 0}, "image size 0"),
        (TINY, {"in_chans": 0}, "in_chans"),
        (replace(TINY, dim=0), {}, "width"),
        (replace(TINY, feedforward=MoEConfig(10, 4, experts=())), {}, "experts"),
        (replace(TINY, feedforward=SwiGLUConfig(0, 0)), {}, "hidden"),
        (replace(TINY, feedforward=ConvMLPConfig(ratio=0)), {}, "ratio"),
        (replace(TINY, attention=LatentConfig(5, 4)), {}, "12.*5"),
        (replace(TINY, attention=LatentConfig(0, 4)), {}, "0 heads"),
        (replace(TINY, positions="sincos", dim=6, attention=GQAConfig(2, 1)), {}, "multiple of 4.*6"),
        (replace(TINY, patches=WhitenedPatchesConfig(frozen=True)), {}, "12 filters.*width is 12"),
        (replace(TINY, patches=ConvStemConfig(0)), {}, "1 to 3 layers, got 0"),
        (replace(TINY, patches=ConvStemConfig(1)), {"patch_size": 4}, "sizes 1, 2, not patch size 4"),
        (replace(TINY, patches=PooledStemConfig(2)), {"patch_size": 8, "img_size": 16}, "makes patch size 4, not 8"),
        (replace(TINY, patches=ConvStemConfig(3)), {"patch_size": 3, "img_size": 9}, "1, 2, 4, 8, not patch size 3"),
    ],
)
def test_mismatched_settings_are_refused(config, sizes, message):
    with pytest.raises(ConfigError, match=message):
        build(config, **sizes)


def test_images_of_another_size_are_refused():
    with pytest.raises(ConfigError, match="8, 8"):
        build()(torch.randn(1, 3, 12, 12))


# ---------------------------------------------------------------------------------------------------------------------
# The timm contract


def test_models_are_registered_in_timm():
    assert {"mlit_s", "mlit_xs", "mlit_xxs", "mlit_nano", "poorvit_tiny", "vit_lite_7", "mae_vit"} <= set(list_models())
    assert set(list_models()) <= set(timm.list_models())
    assert count(timm.create_model("mlit_xxs", num_classes=10)) == 651_373 + 10 * 108
    assert timm.create_model("mlit_nano", drop_path_rate=0.2, drop_rate=0.1).config.drop_path_rate == 0.2


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(UnknownNameError, match="mlit_xxs"):
        create_model("mlit_xxxs")
    with pytest.raises(UnknownNameError, match="timm model"):
        create_model("timm:vit_tinny")
    with pytest.raises(ConfigError, match="widht"):
        create_model("mlit_xxs", widht=3)
    with pytest.raises(ConfigError, match="pretrained"):
        timm.create_model("mlit_xxs", pretrained=True)


@pytest.mark.parametrize("name", list_models())
def test_timm_contract(name):
    patch_size = 8 if name.startswith("feather") else 4
    model = timm.create_model(name, img_size=24, patch_size=patch_size, num_classes=7, in_chans=3).eval()
    check_contract(model, torch.randn(2, 3, 24, 24), (24 // patch_size) ** 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_contract_of_all_parts(variant):
    check_contract(build(VARIANTS[variant], num_classes=7).eval(), torch.randn(2, 3, 8, 8), 16)


def check_contract(model: Encoder, images: torch.Tensor, patches: int) -> None:
    features = model.forward_features(images)
    assert features.shape == (2, patches + model.num_prefix_tokens, model.num_features)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    logits = model(images)
    assert logits.shape == (2, 7)
    assert_close(model.forward_head(features), logits)
    assert_close(model.get_classifier()(pooled), logits)
    assert model.num_classes == 7
    assert model.get_classifier() is not None

    names = [n for n, _ in model.named_parameters()]
    assert model.no_weight_decay() <= set(names)
    assert {n for n in names if n in ("pos_embed", "readout.token")} <= model.no_weight_decay()
    groups = group_parameters(model, model.group_matcher())
    assert Counter(n for members in groups.values() for n in members) == Counter(names)
    stem = len(getattr(model.patch_embed, "residual", ()))
    last = stem + len(model.blocks) + 1
    assert sorted(groups) == list(range(last + 1))
    assert all(groups[int(n.split(".")[2]) + 1].count(n) for n in names if n.startswith("patch_embed.residual."))
    assert all(groups[int(n.split(".")[1]) + 1 + stem].count(n) for n in names if n.startswith("blocks."))
    assert groups[last] == ["head.weight"]

    model.reset_classifier(0)
    assert_close(model(images), pooled)
    model.double().reset_classifier(3)
    assert model(images.double()).shape == (2, 3)
    assert model.num_classes == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_decay_and_weight_decay_groups(variant):
    """0.9 for each layer or residual block further from the head. The final norm counts as part of the last one, as in timm.
    Biases, norms, positions and tokens are not decayed."""
    model = build(VARIANTS[variant])
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.9)
    found = {id(p): group for group in groups for p in group["params"]}
    stem = len(getattr(model.patch_embed, "residual", ()))
    depth = stem + len(model.blocks)
    for name, p in model.named_parameters():
        layer = 0
        if name.startswith("patch_embed.residual."):
            layer = int(name.split(".")[2]) + 1
        elif name.startswith("patch_embed.out."):
            layer = stem
        elif name.startswith("blocks."):
            layer = stem + int(name.split(".")[1]) + 1
        elif name.startswith(("norm", "head", "readout.score")):
            layer = depth + name.startswith("head")
        assert found[id(p)]["lr_scale"] == pytest.approx(0.9 ** (depth + 1 - layer)), name
        decayed = name.endswith(".weight") and p.ndim > 1
        assert found[id(p)]["weight_decay"] == (0.05 if decayed else 0.0), name


def test_layer_groups_equal_those_of_timms_vit():
    ours, timms = build(), timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5)

    def groups_of(model: nn.Module) -> dict[str, int]:
        groups = group_parameters(model, model.group_matcher(), reverse=True)
        return {n.replace("proj.", "", 1) if n.startswith("patch") else n: g for n, g in groups.items()}

    mine, theirs = groups_of(ours), groups_of(timms)
    shared = set(mine) & set(theirs)
    assert {
        "pos_embed",
        "patch_embed.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.2.norm2.bias",
        "norm.weight",
    } <= shared
    assert {n: mine[n] for n in shared} == {n: theirs[n] for n in shared}


@pytest.mark.parametrize("parts", [{"readout": "last"}, {"depth": "three"}, {"feedforward": MoEConfig(sharing="all")}])
def test_invalid_parts_are_refused(parts):
    with pytest.raises(ConfigError):
        create_model("mlit_nano", **parts)

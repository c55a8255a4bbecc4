"""timm's model methods on every registered model, as timm's own test_models.py tests vision transformers."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from feathervit.config import EncoderConfig, GQAConfig, spec
from feathervit.errors import ConfigError
from feathervit.export.lean import lean
from feathervit.models import Encoder, create_model, list_models

EVERY = pytest.mark.parametrize("name", list_models())


@functools.cache
def _made(name: str) -> Encoder:
    torch.manual_seed(0)
    return create_model(name, img_size=16, patch_size=8 if name.startswith("feather") else 4, num_classes=5).eval()


def made(name: str) -> Encoder:
    """A new copy of the model, for images of 16 px with four or sixteen patches."""
    return copy.deepcopy(_made(name))


def images(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def outputs(model: Encoder, x: torch.Tensor) -> list[torch.Tensor]:
    """The oracle: hooks record the output of each level as tokens, the stages of a stem first."""
    found = []

    def note(_, __, out):
        found.append(out[0] if isinstance(out, tuple) else out.flatten(2).transpose(1, 2))

    hooks = [model.get_submodule(info["module"]).register_forward_hook(note) for info in model.feature_info]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


@EVERY
@torch.no_grad()
def test_intermediates_are_the_outputs_of_the_layers(name):
    model, x = made(name), images()
    found = outputs(model, x)
    final, maps = model.forward_intermediates(x)
    assert_close(final, model.forward_features(x))
    stages = len(found) - len(model.blocks)
    prefix = model.num_prefix_tokens
    assert stages == {"feather": 3, "cct": 2}.get(name.partition("_")[0], 0)
    assert len(maps) >= 3  # as timm's own test requires
    assert [info["num_chs"] for info in model.feature_info] == [m.shape[1] for m in maps]
    assert all(16 // info["reduction"] == m.shape[-1] for info, m in zip(model.feature_info, maps, strict=True))
    for tokens, patches in zip(found, maps, strict=True):
        assert_close(patches[:, :, 1, 0], tokens[:, prefix + patches.shape[-1]])  # row 1, column 0
    (last,) = model.forward_intermediates(x, 1, norm=True, stop_early=True, output_fmt="NLC", intermediates_only=True)
    if not model.blocks:  # a stage of a stem is not normalised
        last = model.norm(last)
    assert_close(last, model.forward_features(x)[:, prefix:])
    first = model.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
    assert_close(first[0], maps[0])
    named = model.forward_intermediates(x, [-1], return_prefix_tokens=True, output_dict=True)
    assert_close(named["image_features"], final)
    pairs = model.get_intermediate_layers(x, [0, -1], return_prefix_tokens=True)
    if prefix:
        assert_close(named["image_intermediates_prefix"][0], found[-1][:, :prefix])
        assert_close(torch.cat([pairs[1][1], pairs[1][0]], 1), found[-1])
    else:
        assert "image_intermediates_prefix" not in named
        assert_close(pairs[1], found[-1])


@EVERY
def test_pruned_models_give_the_same_intermediates_and_train(name):
    whole, x = made(name), images()
    with torch.no_grad():
        logits, maps = whole(x), whole.forward_intermediates(x, intermediates_only=True)
        kept = copy.deepcopy(whole)
        kept.prune_intermediate_layers(1, prune_head=False)
        assert_close(kept(x), logits)
    pruned, first = copy.deepcopy(whole), len(maps) - max(1, len(whole.blocks))  # the first layer, or the last stage
    assert pruned.prune_intermediate_layers([first], prune_norm=True) == [first]
    assert len(pruned.blocks) == min(1, len(whole.blocks))
    with torch.no_grad():
        assert_close(pruned.forward_intermediates(x, [first], intermediates_only=True)[0], maps[first])
        patches = pruned.forward_features(x)[:, pruned.num_prefix_tokens :]
        assert_close(patches, maps[first].flatten(2).transpose(1, 2))
    pruned.train().forward_features(x).sum().backward()
    assert not [n for n, p in pruned.named_parameters() if p.grad is None]


@torch.no_grad()
def test_stem_stages_are_levels():
    """Stages have no prefix tokens. The layers after a stage can be skipped or pruned."""
    model, x = made("feather_attn_xxs"), images(size=32)
    model.set_input_size(32)
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8, 8, 8]
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 4, 4]
    calls = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    (one,) = model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True, output_fmt="NLC")
    assert_close(one, maps[1].flatten(2).transpose(1, 2))
    assert not calls
    assert model.prune_intermediate_layers((0, 2)) == [0, 2]
    assert not len(model.blocks)
    for ours, theirs in zip(model.forward_intermediates(x, (0, 2), intermediates_only=True), maps[::2], strict=False):
        assert_close(ours, theirs)
    model = create_model("feather_attn_xxs", readout="class", num_classes=5).eval()
    (stage, none), (_, prefix) = model.get_intermediate_layers(x, [0, 3], return_prefix_tokens=True)
    assert (stage.shape, none.shape, prefix.shape[1]) == ((2, 256, maps[0].shape[1]), (2, 0, maps[0].shape[1]), 1)


@EVERY
@torch.no_grad()
def test_pooling_can_be_chosen_at_creation_and_later(name):
    model, x = made(name), images()
    tokens = model.forward_features(x)
    patches = tokens[:, model.num_prefix_tokens :]
    ways = {"avg": patches.mean(1), "max": patches.amax(1), "avgmax": (patches.mean(1) + patches.amax(1)) / 2}
    for pool, features in {**ways, "": tokens}.items():
        model.reset_classifier(0, pool)
        assert_close(model(x), features)
    model.reset_classifier(4, "avg")
    assert model(x).shape == (2, 4)
    model.reset_classifier(3)
    assert (model.global_pool, model.head_hidden_size) == ("avg", model.num_features)
    sizes = {"img_size": 16, "patch_size": model.patch_embed.patch_size, "num_classes": 0}
    fresh = create_model(name, global_pool="", **sizes).eval()
    fresh.load_state_dict(model.state_dict(), strict=False)
    assert_close(fresh(x), tokens)
    default = create_model(name, **sizes)
    assert create_model(name, global_pool=default.global_pool, **sizes).readout.pool == default.global_pool


@EVERY
@torch.no_grad()
def test_set_input_size(name):
    """The result equals a new model of that size with the same weights and resized positions."""
    model, x = made(name), images(size=32)
    model.requires_grad_(False).set_input_size((32, 32))
    assert not [n for n, p in model.named_parameters() if p.requires_grad]
    fresh = create_model(name, img_size=32, patch_size=model.patch_embed.patch_size, num_classes=5).eval()
    fresh.load_state_dict(fresh.adapt(_made(name).state_dict()))
    assert_close(model(x), fresh(x))
    with pytest.raises(ConfigError, match="square"):
        model.set_input_size((32, 16))
    with pytest.raises(ConfigError, match="patch size 5"):
        model.set_input_size(32, patch_size=5)


@pytest.mark.parametrize("positions", ["learned", "sincos", "rotary"])
@torch.no_grad()
def test_every_kind_of_positions_follows_the_input_size(positions):
    config = EncoderConfig(dim=16, depth=1, attention=GQAConfig(2, 2), positions=positions)
    model, fresh = (Encoder(config, size, 4, 3, 5).eval() for size in (8, 16))
    fresh.load_state_dict(fresh.adapt(model.state_dict()))
    model.set_input_size(16)
    assert_close(model(images()), fresh(images()))


@pytest.mark.parametrize("name", [name for name in list_models() if spec(name).config.depth])
def test_gradient_checkpointing_keeps_the_gradients(name):
    plain, again = made(name).train(), made(name).train()
    again.set_grad_checkpointing()
    seen = []
    again.blocks[0].norm1.register_forward_hook(lambda *_: seen.append(1))
    for model in (plain, again):
        torch.manual_seed(2)  # noise of the gates, dropped paths
        logits, balance = model.forward_balanced(images())
        (logits.square().sum() + balance).backward()
    assert len(seen) == 2  # forward, and once more in the backward pass
    for (n, a), (_, b) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert_close(a.grad, b.grad, msg=n, rtol=1e-4, atol=1e-5)


@EVERY
def test_new_heads_keep_device_dtype_and_mode(name):
    model = made(name).to("meta", torch.float64)
    model.reset_classifier(0)
    model.reset_classifier(2)
    assert (model.head.weight.device.type, model.head.weight.dtype) == ("meta", torch.float64)
    assert not any(module.training for module in model.modules())


@torch.no_grad()
def test_the_inference_export_pools_like_the_model():
    """Its last layer computes only the prefix tokens if the head reads nothing else."""
    model = made("mlit_nano")
    model.reset_classifier(5, "avg")
    assert_close(lean(model)[0](images()), model(images()), rtol=1e-4, atol=1e-5)


def test_changing_the_pool_removes_its_scores():
    model = Encoder(EncoderConfig(dim=16, depth=1, attention=GQAConfig(2, 2), readout="pool"), 8, 4, 3, 5)
    assert model.global_pool == "map"
    model.reset_classifier(5, "avg")
    assert not [n for n, _ in model.named_parameters() if n.startswith("readout")]
    with pytest.raises(ConfigError, match="'map'"):
        model.reset_classifier(5, "map")


@pytest.mark.parametrize("indices", [[2], [-3], 3, 0, []])
def test_invalid_layer_indices_are_refused(indices):
    model = Encoder(EncoderConfig(dim=16, depth=2, attention=GQAConfig(2, 2)), 8, 4, 3, 5).eval()
    assert isinstance(model.blocks, nn.ModuleList)
    with pytest.raises(ConfigError, match="levels from 0 to 1"):
        model.forward_intermediates(torch.zeros(1, 3, 8, 8), indices)


def test_an_equal_size_keeps_the_parameter_of_positions():
    """An optimiser made before the call continues to update the positions."""
    model = made("mlit_nano")
    before = model.pos_embed
    model.set_input_size(16)
    assert model.pos_embed is before


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("feather_nano", {"drop_path_rate": 0.9}),  # there are no layers
        ("feather_nano", {"heads": 3}),
        ("mlit_nano", {"drop_path_rate": 1.5}),
        ("mlit_nano", {"importance_weight": -1.0}),
        ("mlit_nano", {"img_size": 0}),
        ("mlit_nano", {"img_size": (16, 32)}),
    ],
)
def test_settings_without_effect_or_out_of_bounds_are_refused(name, settings):
    with pytest.raises(ConfigError):
        create_model(name, **settings)


def test_a_model_describes_its_input_as_timm_does():
    ours, timms = create_model("feather_xxs"), timm.create_model("feather_xxs")
    assert timm.data.resolve_model_data_config(ours) == timm.data.resolve_model_data_config(timms)


@pytest.mark.parametrize("kinds", ["attention", ["atention"]])
def test_unknown_intermediates_are_refused(kinds):
    with pytest.raises(ConfigError, match="kinds"):
        made("mlit_nano").intermediates(torch.zeros(1, 3, 16, 16), kinds)

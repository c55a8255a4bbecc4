"""timm loads the requested weights: by tag, description, overlay, folder and hub."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import feathervit
from feathervit.checkpoint import Checkpoint, load_weights, save_weights
from feathervit.config import resolve, to_dict
from feathervit.errors import CheckpointError, ConfigError
from feathervit.models import create_model
from feathervit.weights import list_weights, shipped_file


@pytest.fixture
def saved(tmp_path):
    """A model with a custom architecture, the file of its weights, and its arguments."""
    torch.manual_seed(1)
    config = resolve(
        feathervit.RunConfig(model="mlit_nano", img_size=12, patch_size=3, arch=feathervit.EncoderConfig(depth=2))
    )
    model = create_model("mlit_nano", config=config.arch, img_size=12, patch_size=3, in_chans=1, num_classes=4).eval()
    save_weights(tmp_path / "w.safetensors", Checkpoint(config, tuple("abcd"), 1, model.state_dict()))
    return model, tmp_path / "w.safetensors", {"config": config.arch, "img_size": 12, "patch_size": 3, "in_chans": 1}


def same(a, b) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("kind", [dict, timm.models.PretrainedCfg])
def test_pretrained_cfg_loads_its_file(saved, kind):
    model, path, kwargs = saved
    found = timm.create_model(
        "mlit_nano", pretrained=True, pretrained_cfg=kind(file=str(path), num_classes=4), **kwargs
    )
    assert same(found, model)
    assert found.pretrained_cfg["file"] == str(path)


def test_overlay_loads_its_file_with_a_new_head(saved):
    """As with timm's --pretrained-path."""
    model, path, kwargs = saved
    overlay = {"file": str(path), "num_classes": -1}
    found = timm.create_model("mlit_nano", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=7, **kwargs)
    x = torch.randn(2, 1, 12, 12)
    assert torch.equal(found.eval().forward_features(x), model.forward_features(x))
    assert found.head.weight.shape[0] == 7


def test_overlay_accepts_weights_in_memory(saved):
    model, _, kwargs = saved
    overlay = {"state_dict": model.state_dict(), "num_classes": 4}
    assert same(timm.create_model("mlit_nano", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs), model)


def test_a_pre_training_run_gives_its_encoder(arrays, small, tmp_path):
    del small["loss.label_smoothing"]
    feathervit.pretrain("mae_digits", data=arrays, out=tmp_path / "run", epochs=1, **small)
    path = tmp_path / "run" / "best.safetensors"
    stored = load_weights(path)
    kwargs = {"img_size": 16, "patch_size": 4, "config": stored.config.arch}
    overlay = {"file": str(path), "num_classes": -1}
    found = timm.create_model("mlit_nano", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    encoder = {n.removeprefix("encoder."): t for n, t in stored.weights.items() if n.startswith("encoder.")}
    assert all(torch.equal(t, encoder[n]) for n, t in found.state_dict().items() if n != "head.weight")


@pytest.mark.parametrize("classes", [4, -1])
def test_missing_or_mismatched_weights_are_refused(saved, tmp_path, classes):
    """This also holds for a new classifier, where timm's loader allows all weights to be missing."""
    model, path, kwargs = saved
    save_file({"other.weight": torch.ones(3)}, tmp_path / "other.safetensors")
    save_file({**model.state_dict(), "more": torch.ones(3)}, tmp_path / "more.safetensors")
    for name in ("none", "other", "more"):
        overlay = {"file": str(tmp_path / f"{name}.safetensors"), "num_classes": classes}
        with pytest.raises(CheckpointError):
            timm.create_model("mlit_nano", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    with pytest.raises(CheckpointError):  # other sizes
        timm.create_model("mlit_nano", pretrained=True, pretrained_cfg_overlay={"file": str(path)})


def test_a_folder_written_by_timm_loads(saved, tmp_path):
    model, _, kwargs = saved
    kwargs = {**kwargs, "config": to_dict(kwargs["config"])}
    made = timm.create_model("mlit_nano", num_classes=4, **kwargs)
    made.load_state_dict(model.state_dict())
    made.pretrained_cfg = {**timm.models.get_pretrained_cfg("mlit_nano").to_dict(), "architecture": "mlit_nano"}
    timm.models.save_for_hf(made, tmp_path / "saved", model_args={**kwargs, "num_classes": 4})
    folder = f"local-dir:{tmp_path / 'saved'}"
    assert same(timm.create_model(folder, pretrained=True), model)
    bare = timm.create_model(folder)
    assert bare.config == model.config and not same(bare, model)


def test_a_hub_repository_loads(saved, tmp_path, monkeypatch):
    """It is in the hub's cache, as after a download."""
    model, path, kwargs = saved
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--some--one"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").write_bytes(path.read_bytes())
    card = {"architecture": "mlit_nano", "num_classes": 4, "pretrained_cfg": {"num_classes": 4}}
    arguments = {**kwargs, "config": to_dict(kwargs["config"]), "num_classes": 4}
    (snapshot / "config.json").write_text(json.dumps({**card, "model_args": arguments}))
    found = timm.create_model("hf-hub:some/one", pretrained=True, cache_dir=tmp_path / "hub")
    assert same(found, model)


@pytest.mark.parametrize("tagged", list_weights())
def test_package_weights_are_listed_in_timm(tagged):
    name = tagged.partition(".")[0]
    assert tagged in timm.list_models(name, pretrained=True)
    cfg = timm.models.get_pretrained_cfg(tagged)
    assert cfg.file == str(shipped_file(tagged))
    ours = create_model(tagged, pretrained=True)
    assert same(timm.create_model(name, pretrained=True, pretrained_cfg=cfg), ours)
    assert cfg.num_classes == ours.num_classes
    assert cfg.input_size[0] == ours.patch_embed.proj.in_channels if tagged.startswith("mlit") else 3


@pytest.mark.parametrize(
    "name", ["vit_twin_xxs", "vit_twin_s", "resnet18_xxs", "resnet20_xxs", "resnet_56", "convmixer_xxs"]
)
def test_peers_without_weights_are_refused(name):
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", ["resnet18_xxs", "resnet20_xxs", "resnet_56", "convmixer_xxs"])
def test_features_of_peers_have_the_stated_channels_and_reductions(name):
    model = timm.create_model(name, features_only=True).eval()
    with torch.no_grad():
        features = model(torch.zeros(1, 3, 32, 32))
    info = model.feature_info
    for x, channels, reduction in zip(features, info.channels(), info.reduction(), strict=True):
        assert x.shape == (1, channels, 32 // reduction, 32 // reduction)


def test_create_model_accepts_fields_of_parts():
    model = feathervit.create_model("mlit_nano", kv_heads=1, top_k=1, depth=2)
    attention = model.config.attention
    assert (attention.kv_heads, model.config.feedforward.top_k, model.config.depth) == (1, 1, 2)
    head = model.embed_dim // attention.heads
    assert model.blocks[0].attn.qkv.out_features == model.embed_dim + 2 * head  # one head of keys and of values
    with pytest.raises(ConfigError, match="kv_head"):
        feathervit.create_model("mlit_nano", kv_head=1)


def test_our_weights_file_brings_its_patch_size(tmp_path):
    """A residual stem accepts its weights with several patch sizes, so timm alone cannot notice a wrong one."""
    model = create_model("feather_nano", patch_size=4, num_classes=4).eval()
    config = resolve(feathervit.RunConfig(model="feather_nano", patch_size=4))
    save_weights(tmp_path / "w.safetensors", Checkpoint(config, tuple("abcd"), 3, model.state_dict()))
    overlay = {"file": str(tmp_path / "w.safetensors"), "num_classes": 4}
    loaded = timm.create_model("feather_nano", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))

"""Starting from another run's weights."""

from __future__ import annotations

import io

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file

import feathervit
from feathervit.checkpoint import Checkpoint, load_weights, save_weights
from feathervit.cli import main
from feathervit.config import RunConfig, resolve, with_fields
from feathervit.errors import CheckpointError, ConfigError
from feathervit.models import create_model
from feathervit.models.starting import start_from


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    config = resolve(RunConfig(model="mlit_nano", img_size=16, patch_size=4))
    model = create_model("mlit_nano", img_size=16, patch_size=4, num_classes=5).eval()
    save_weights(tmp_path / "w.safetensors", Checkpoint(config, tuple("abcde"), 3, model.state_dict()))
    return tmp_path / "w.safetensors", model


def test_features_equal_those_of_the_source(source):
    path, old = source
    new = create_model("mlit_nano", img_size=16, patch_size=4, num_classes=7).eval()
    head = new.head.weight.detach().clone()
    (message,) = start_from(new, path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(new.forward_features(x), old.forward_features(x))
    assert torch.equal(new.head.weight, head)
    assert "new: head.weight" in message


def test_the_head_is_kept_for_the_same_classes_in_the_same_order(source):
    path, old = source
    x = torch.randn(2, 3, 16, 16)
    kept, other = (create_model("mlit_nano", img_size=16, patch_size=4, num_classes=5).eval() for _ in range(2))
    start_from(kept, path, tuple("abcde"))
    start_from(other, path, tuple("edcba"))
    assert torch.equal(kept(x), old(x))
    assert not torch.equal(other.head.weight, old.head.weight)


def test_grey_images_act_like_colour_with_equal_channels(source):
    path, old = source
    grey = create_model("mlit_nano", img_size=16, patch_size=4, in_chans=1, num_classes=2).eval()
    start_from(grey, path)
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(grey.forward_features(x), old.forward_features(x.expand(-1, 3, -1, -1)))


def test_another_image_size_keeps_the_weights(source):
    path, old = source
    new = create_model("mlit_nano", img_size=32, patch_size=4, num_classes=2).eval()
    (message,) = start_from(new, path)
    assert "pos_embed" in message
    assert torch.equal(new.blocks[3].ffn.w.weight, old.blocks[3].ffn.w.weight)
    assert torch.equal(new.pos_embed[:, 0], old.pos_embed[:, 0])


@pytest.mark.parametrize("change", [{"dim": 32}, {"depth": 2}, {"feedforward.sharing": "none"}])
def test_other_architectures_are_refused(source, change):
    path, old = source
    config = with_fields(old.config, **change)
    with pytest.raises(CheckpointError, match=next(iter(change))):
        start_from(create_model("mlit_nano", img_size=16, patch_size=4, config=config), path)
    with pytest.raises(CheckpointError, match="patch_size"):
        start_from(create_model("mlit_nano", img_size=16, patch_size=2), path)


def test_a_residual_stem_can_change_its_patch_size(tmp_path):
    config = resolve(RunConfig(model="feather_nano", img_size=32, patch_size=4))
    old = create_model("feather_nano", img_size=32, patch_size=4, num_classes=2)
    save_weights(tmp_path / "w.safetensors", Checkpoint(config, ("a", "b"), 3, old.state_dict()))
    new = create_model("feather_nano", img_size=64, patch_size=8, num_classes=2)
    start_from(new, tmp_path / "w.safetensors")
    assert torch.equal(new.patch_embed.residual[4].conv1.weight, old.patch_embed.residual[4].conv1.weight)


def test_an_early_kill_keeps_the_start_weights(source, arrays, tmp_path, small):
    fields = {k: v for k, v in small.items() if not k.startswith("arch.")} | {"lr": 1e-12}
    fields |= {"start_from": str(source[0]), "optim.weight_decay": 0.0, "epochs": 2}
    assert not feathervit.train(data=arrays, out=tmp_path / "run", max_minutes=1e-6, **fields).finished
    for path in (tmp_path / "run").glob("state*"):
        path.unlink()
    feathervit.train(data=arrays, out=tmp_path / "run", resume=True, **fields)
    model, old = feathervit.load(tmp_path / "run").model, source[1]
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight, old.blocks[0].attn.qkv.weight)


# ---------------------------------------------------------------------------------------------------------------------
# timm models

QUICK = {"recipe": "folder", "img_size": 16, "epochs": 1, "batch_size": 48, "augment.policy": "none"}
QUICK |= {"optim.name": "adamw", "optim.weight_decay": 0.0, "optim.layer_decay": 1.0, "optim.ema": 0.0}


def output_of(**arguments) -> str:
    text = io.StringIO()
    feathervit.train(console=Console(file=text, width=300), **arguments)
    return text.getvalue()


@pytest.mark.parametrize(("model", "patch"), [("timm:resnet18_xxs", None), ("timm:vit_twin_xxs", 4)])
def test_training_starts_from_a_run_of_a_peer(model, patch, arrays, tmp_path):
    fields = {"data": arrays, "patch_size": patch, **QUICK}
    assert "from scratch" in output_of(out=tmp_path / "first", model=model, **fields)
    message = output_of(out=tmp_path / "second", start_from=str(tmp_path / "first"), lr=1e-12, **fields)
    assert "tensors loaded" in message and "from scratch" not in message
    first, second = (load_weights(tmp_path / name).weights for name in ("first", "second"))
    body = [n for n in first if n.endswith("weight") and not n.startswith(("fc.", "head."))]
    for name in body:
        torch.testing.assert_close(first[name], second[name])
    with pytest.raises(CheckpointError, match="choose the same model"):
        feathervit.train(
            out=tmp_path / "third",
            start_from=str(tmp_path / "first"),
            model="timm:test_resnet",
            **fields | {"patch_size": None},
        )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Weights of timm's test_resnet in the hub's cache, without a network. Returns their state dict."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.manual_seed(3)
    weights = timm.create_model("test_resnet").state_dict()
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(weights, snapshot / "model.safetensors")
    return weights


def test_weights_named_by_the_model_are_loaded(hub, arrays, tmp_path):
    fields = {"data": arrays, "patch_size": None, **QUICK}
    message = output_of(out=tmp_path / "run", model="timm:test_resnet.r160_in1k", lr=1e-12, **fields)
    assert "the weights test_resnet.r160_in1k of timm" in message and "from scratch" not in message
    found = load_weights(tmp_path / "run").weights
    for name in ("conv1.0.weight", "layer4.0.conv2.weight"):
        torch.testing.assert_close(found[name], hub[name])
    assert found["fc.weight"].shape[0] == 3
    # a run that starts from it takes its weights, not the published ones
    message = output_of(out=tmp_path / "next", start_from=str(tmp_path / "run"), **fields)
    assert "model timm:test_resnet: as in the weights" in message and "tensors loaded" in message
    with pytest.raises(ConfigError, match="cannot be combined"):
        both = {"start_from": str(tmp_path / "run"), "model": "timm:test_resnet.r160_in1k"}
        feathervit.train(out=tmp_path / "both", **both, **fields)


def test_unavailable_weights_are_refused(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    out = tmp_path / "run"
    arguments = [
        "train",
        "--recipe",
        "digits",
        "--img-size",
        "32",
        "--patch-size",
        "None",
        "--out",
        str(out),
        "--model",
    ]
    assert main([*arguments, "timm:test_resnet.r160_in1k"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("feathervit: ")]
    assert "the weights of timm:test_resnet.r160_in1k cannot be loaded" in line
    assert "timm:test_resnet starts from scratch" in line
    assert main([*arguments, "timm:test_resnet.r161_in1k"]) == 2
    assert "did you mean test_resnet.r160_in1k?" in capsys.readouterr().err
    assert not out.exists()

"""Every registered model as timm sees it: descriptions, tags, arguments of `timm.create_model`, features, folders."""

from __future__ import annotations

import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from timm.loss import LabelSmoothingCrossEntropy
from timm.utils.onnx import onnx_export
from torch.testing import assert_close

from feathervit.config import MODELS
from feathervit.errors import ConfigError
from feathervit.models import create_model, list_models
from feathervit.weights import list_weights

EVERY = pytest.mark.parametrize("name", list_models())


def small(name: str) -> dict:
    return {"img_size": 16, "patch_size": 8 if name.startswith("feather") else 4}


@EVERY
def test_pretrained_cfg_matches_the_model(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    cfg = timm.models.get_pretrained_cfg(name)
    side = MODELS[name].img_size
    assert cfg.input_size == (3, side, side) == (model.in_chans, *(model.patch_embed.img_size,) * 2)
    assert cfg.fixed_input_size
    assert cfg.num_classes == model.num_classes
    weights = dict(model.named_parameters())
    assert weights[f"{cfg.classifier}.weight"].shape[0] == model.num_classes
    assert weights[f"{cfg.first_conv}.weight"].shape[1] == 3
    assert model.default_cfg == model.pretrained_cfg
    found = timm.data.resolve_model_data_config(model)
    assert (found["input_size"], found["mean"], found["std"]) == (cfg.input_size, cfg.mean, cfg.std)


def test_tags_match_the_package_weights():
    assert {n for n in timm.list_pretrained() if n.partition(".")[0] in MODELS} == set(list_weights())
    assert all(timm.models.is_model_pretrained(tagged) for tagged in list_weights())
    found = timm.data.resolve_model_data_config(timm.create_model("mlit_nano.digits", pretrained=True))
    assert found["input_size"] == (1, 16, 16)
    assert not timm.models.is_model_pretrained("poorvit_tiny")


@EVERY
def test_arguments_of_timm_create_model(name):
    model = timm.create_model(
        name, img_size=(16, 16), patch_size=small(name)["patch_size"], device="meta", dtype=torch.half
    )
    assert {(t.device.type, t.dtype) for t in model.parameters()} == {("meta", torch.half)}
    assert {t.device.type for t in model.buffers()} <= {"meta"}
    assert (
        model.to(torch.bfloat16).eval()(torch.zeros(1, 3, 16, 16, device="meta", dtype=torch.bfloat16)).dtype
        == torch.bfloat16
    )
    with pytest.raises(TypeError, match="not_a_word"):
        timm.create_model(name, device="meta", not_a_word=1)
    with pytest.raises(ConfigError, match="square"):
        timm.create_model(name, img_size=(16, 32))


@EVERY
@torch.no_grad()
def test_features_only(name):
    """Levels are chosen by index among a stem's stages and the layers, by timm's getter or its torch.fx graph."""
    torch.manual_seed(0)
    whole = timm.create_model(name, **small(name)).eval()
    x, chosen = torch.randn(2, 3, 16, 16), (0, 2, 3) if MODELS[name].config.depth else (0, 1, 2)
    expected = whole.forward_intermediates(x, chosen, intermediates_only=True)
    features = timm.create_model(name, **small(name), features_only=True, out_indices=chosen).eval()
    features.model.load_state_dict(whole.state_dict(), strict=False)
    for ours, theirs in zip(features(x), expected, strict=True):
        assert_close(ours, theirs)
    assert features.feature_info.channels() == [m.shape[1] for m in expected]
    assert features.feature_info.reduction() == [16 // m.shape[-1] for m in expected]
    stages = len(whole.patch_embed.feature_info)
    assert len(features.model.blocks) == chosen[-1] + 1 - stages
    assert len(timm.create_model(name, **small(name), features_only=True)(x)) == 3


@EVERY
def test_torch_fx_traces_the_model_in_both_modes(name):
    model = timm.create_model(name, **small(name))
    x = torch.randn(2, 3, 16, 16)
    for mode in (True, False):
        traced = timm.layers.create_feature_extractor(model.train(mode), ["head"])
        found = traced(x)["head"]
        assert found.shape == (2, model.num_classes)
        if not mode:
            assert_close(found, model(x))
    found.sum().backward()
    assert model.head.weight.grad is not None


def test_features_of_package_weights():
    features = timm.create_model("mlit_nano.digits", pretrained=True, features_only=True, out_indices=[1]).eval()
    whole = create_model("mlit_nano.digits", pretrained=True).eval()
    x = torch.randn(1, 1, 16, 16)
    assert_close(features(x)[0], whole.forward_intermediates(x, [1], intermediates_only=True)[0])


def test_data_config_has_the_channels_of_the_model():
    """timm's validate script requests three channels and the named weights, which may be for grey images."""
    model = timm.create_model("mlit_nano", pretrained=True, in_chans=3)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 16, 16)
    grey = timm.create_model("feather_nano", in_chans=1)
    assert timm.data.resolve_model_data_config(grey)["input_size"] == (1, 32, 32)


def test_weights_for_another_size_get_resized_positions():
    x = torch.randn(1, 1, 24, 24)
    theirs = timm.create_model("mlit_nano.digits", pretrained=True, img_size=24).eval()
    ours = timm.create_model("mlit_nano.digits", pretrained=True).eval()
    ours.set_input_size(24)
    assert_close(theirs(x), ours(x))
    assert timm.models.get_model_input_config(ours)["input_size"] == (1, 24, 24)


def test_a_folder_written_by_timm_loads(tmp_path):
    """This also holds after a change of pooling and image size."""
    torch.manual_seed(0)
    model = timm.create_model("mlit_nano", num_classes=4).eval()
    model.reset_classifier(5, "avg")
    model.set_input_size(24)
    timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    x = torch.randn(2, 3, 24, 24)
    assert_close(again(x), model(x))


def test_training_steps_with_timms_defaults():
    """As timm's train script does: data in the model's format, timm's optimiser, loss and moving average."""
    model = timm.create_model("mlit_nano", num_classes=3)
    data = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**data, is_training=True)
    x = torch.stack([transform(Image.new("RGB", (40, 30), color)) for color in ("red", "green", "blue")])
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.9)
    average = timm.utils.ModelEmaV3(model, decay=0.9)
    losses = []
    for _ in range(3):
        loss = LabelSmoothingCrossEntropy()(model(x), torch.arange(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert average.module.eval()(x).shape == (3, 3)


@pytest.mark.filterwarnings("ignore")  # PyTorch calls this exporter legacy; timm's onnx_export.py uses it
@pytest.mark.parametrize("name", ["mlit_nano", "feather_nano", "cct_2_3x2"])
def test_timms_onnx_export(name, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, exportable=True).eval()
    onnx_export(model, str(tmp_path / "model.onnx"), batch_size=1)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    x = torch.randn(1, *model.pretrained_cfg["input_size"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(found), model(x), atol=1e-5, rtol=1e-4)

"""Starting from timm's published weights, which the tests make themselves."""

from __future__ import annotations

import pytest
import timm
import torch

import feathervit
from feathervit.checkpoint import load_weights
from feathervit.errors import ConfigError, UnknownNameError
from feathervit.recipes.published import published
from feathervit.results import read_config


def test_published_weights_and_normalisation_are_used(arrays, tmp_path, monkeypatch):
    original = timm.create_model
    torch.manual_seed(1)
    theirs = original("test_resnet", num_classes=1000)

    def create(name, pretrained=False, **kwargs):
        model = original(name, **kwargs)
        if pretrained:
            taken = {n: t for n, t in theirs.state_dict().items() if not n.startswith("fc.")}
            model.load_state_dict(taken, strict=False)
        return model

    monkeypatch.setattr(timm, "create_model", create)
    kwargs = {"img_size": 32, "batch_size": 32, "epochs": 1, "lr": 1e-12}
    feathervit.train(data=arrays, out=tmp_path / "run", start_from="timm:test_resnet", **kwargs)
    config, stored = read_config(tmp_path / "run"), load_weights(tmp_path / "run")
    cfg = timm.models.get_pretrained_cfg("test_resnet")
    assert (config.model, config.images.mean, config.images.std) == (f"timm:test_resnet.{cfg.tag}", cfg.mean, cfg.std)
    assert stored.weights["fc.weight"].shape[0] == 3
    for name, parameter in theirs.named_parameters():
        if not name.startswith("fc."):
            assert torch.allclose(stored.weights[name], parameter, atol=1e-6), name


def test_unknown_or_missing_published_weights_are_refused():
    with pytest.raises(UnknownNameError):
        published("timm:test_resnett")
    with pytest.raises(ConfigError, match="timm has no weights"):
        published("timm:test_resnet.no_such_tag")
    with pytest.raises(ConfigError, match="timm has no weights"):
        published("timm:botnet50ts_256")  # registered without weights


def test_weights_of_another_model_are_refused(arrays, tmp_path):
    with pytest.raises(ConfigError, match="same model"):
        feathervit.train(
            data=arrays, out=tmp_path / "run", model="timm:resnet18", start_from="timm:test_resnet", img_size=32
        )

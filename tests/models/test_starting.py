"""Starting from another run's weights."""

from __future__ import annotations

import pytest
import torch

import feathervit
from feathervit.checkpoint import Checkpoint, save_weights
from feathervit.config import RunConfig, resolve, with_fields
from feathervit.errors import CheckpointError
from feathervit.models import create_model
from feathervit.models.starting import start_from


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    config = resolve(RunConfig(model="mlit_nano", img_size=16, patch_size=4))
    model = create_model("mlit_nano", img_size=16, patch_size=4, num_classes=5).eval()
    save_weights(tmp_path / "w.safetensors", Checkpoint(config, tuple("abcde"), 3, model.state_dict()))
    return tmp_path / "w.safetensors", model


def test_before_its_first_step_it_gives_the_same_features(source):
    path, old = source
    new = create_model("mlit_nano", img_size=16, patch_size=4, num_classes=7).eval()
    head = new.head.weight.detach().clone()
    (said,) = start_from(new, path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(new.forward_features(x), old.forward_features(x))
    assert torch.equal(new.head.weight, head)
    assert "new here: head.weight" in said


def test_grey_pictures_are_colour_ones_with_equal_channels(source):
    path, old = source
    grey = create_model("mlit_nano", img_size=16, patch_size=4, in_chans=1, num_classes=2).eval()
    start_from(grey, path)
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(grey.forward_features(x), old.forward_features(x.expand(-1, 3, -1, -1)))


def test_another_image_size_keeps_what_it_can(source):
    path, old = source
    new = create_model("mlit_nano", img_size=32, patch_size=4, num_classes=2).eval()
    (said,) = start_from(new, path)
    assert "pos_embed" in said
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


def test_through_the_front_door(source, arrays, tmp_path, small):
    fields = {k: v for k, v in small.items() if not k.startswith("arch.")}
    outcome = feathervit.train(data=arrays, out=tmp_path / "run", epochs=1, start_from=str(source[0]), **fields)
    assert outcome.result.config["start_from"] == str(source[0])


def test_a_run_killed_before_its_first_state_starts_from_the_same_weights(source, arrays, tmp_path, small):
    fields = {k: v for k, v in small.items() if not k.startswith("arch.")} | {"lr": 1e-12}
    fields |= {"start_from": str(source[0]), "optim.weight_decay": 0.0, "epochs": 2}
    assert not feathervit.train(data=arrays, out=tmp_path / "run", max_minutes=1e-6, **fields).finished
    for path in (tmp_path / "run").glob("state*"):
        path.unlink()
    feathervit.train(data=arrays, out=tmp_path / "run", resume=True, **fields)
    model, old = feathervit.load(tmp_path / "run").model, source[1]
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight, old.blocks[0].attn.qkv.weight)

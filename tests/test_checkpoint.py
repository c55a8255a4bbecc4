"""Checkpoints: round trip, the previous state, and a missing folder. tests/malformed has the damaged files."""

from __future__ import annotations

import pytest
import torch

from feathervit.checkpoint import Checkpoint, drop_state, load_state, load_weights, save_state, save_weights
from feathervit.config import RunConfig, resolve
from feathervit.errors import CheckpointError, RunFolderError
from feathervit.models import create_model
from feathervit.models.loading import load_model


@pytest.fixture
def saved(tmp_path):
    config = resolve(RunConfig(model="mlit_nano", img_size=8, patch_size=4))
    model = create_model("mlit_nano", img_size=8, patch_size=4, in_chans=1, num_classes=3).eval()
    path = tmp_path / "best.safetensors"
    save_weights(path, Checkpoint(config, ("a", "b", "c"), 1, model.state_dict()))
    return path, model, config


def test_round_trip(saved):
    path, model, config = saved
    found = load_weights(path)
    assert (found.config, found.class_names, found.in_chans) == (config, ("a", "b", "c"), 1)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load_model(found)(x), model(x))
    assert load_weights(path.parent).config == config  # a run folder stands for its best weights


def test_state_falls_back_to_the_previous_one(tmp_path):
    for n in (1, 2, 3):
        save_state(tmp_path, {"w": torch.full((4,), float(n))}, {"n": n})
    assert load_state(tmp_path)[1]["n"] == 3
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    tensors, meta, notes = load_state(tmp_path)
    assert meta["n"] == 2
    assert torch.equal(tensors["w"], torch.full((4,), 2.0))
    assert "checksum" in notes[0]
    drop_state(tmp_path)  # drops the damaged state, so that the next one does not replace the intact one
    save_state(tmp_path, {"w": torch.zeros(4)}, {"n": 4})
    path.write_bytes(b"")
    assert load_state(tmp_path)[1]["n"] == 2
    path.unlink()  # as when killed between the two renames
    assert load_state(tmp_path)[1]["n"] == 2
    (tmp_path / "state.previous.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        load_state(tmp_path)


def test_saving_into_a_missing_folder_is_an_error(tmp_path, saved):
    _, model, config = saved
    with pytest.raises(RunFolderError, match="gone"):
        save_weights(tmp_path / "gone" / "w.safetensors", Checkpoint(config, ("a", "b"), 1, model.state_dict()))

"""Checkpoints: round trip, damage, and files that other programs wrote."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from feathervit.checkpoint import Checkpoint, drop_state, load_state, load_weights, save_state, save_weights
from feathervit.config import RunConfig, resolve, to_dict
from feathervit.errors import CheckpointError, RunFolderError
from feathervit.models import create_model
from feathervit.models.loading import load_model


@pytest.fixture
def saved(tmp_path):
    config = resolve(RunConfig(model="mlit_nano", img_size=8, patch_size=4))
    model = create_model("mlit_nano", img_size=8, patch_size=4, in_chans=1, num_classes=3).eval()
    path = tmp_path / "best.safetensors"
    save_weights(path, Checkpoint(config, ("a", "b", "c"), 1, model.state_dict(), epoch=2, step=7, figures={"x": 1}))
    return path, model, config


def test_round_trip(saved):
    path, model, config = saved
    found = load_weights(path)
    assert (found.config, found.class_names, found.in_chans) == (config, ("a", "b", "c"), 1)
    assert (found.epoch, found.step, found.figures) == (2, 7, {"x": 1})
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load_model(found)(x), model(x))
    assert load_weights(path.parent).config == config  # a run folder stands for its best weights


def test_every_damaged_byte_is_noticed(saved):
    path, *_ = saved
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises(CheckpointError):
            load_model(load_weights(path))
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_weights(path)


def test_a_header_with_a_huge_tensor_is_refused(tmp_path):
    path = tmp_path / "huge.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(path)
    path.write_bytes(struct.pack("<Q", 1 << 62) + header)
    with pytest.raises(CheckpointError):
        load_weights(path)


def test_files_of_other_programs_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_weights(tmp_path / "missing.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not written by feathervit"):
        load_weights(tmp_path / "other.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "pickle.safetensors")  # must never be unpickled
    with pytest.raises(CheckpointError, match="PyTorch checkpoint"):
        load_weights(tmp_path / "pickle.safetensors")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda meta: meta["config"].update(epochs="many"),
        lambda meta: meta["config"].update(surprise=1),
        lambda meta: meta["config"].update(img_size=1 << 40),
        lambda meta: meta["config"].update(img_size=7),
        lambda meta: meta["config"]["arch"].update(depth=1 << 40),
        lambda meta: meta["config"]["arch"].update(dim=1 << 40),
        lambda meta: meta["config"]["arch"]["attention"].update(heads=7),
        lambda meta: meta["config"]["arch"]["feedforward"].update(kind="Nothing"),
        lambda meta: meta["config"].update(model="mlit_none"),
        lambda meta: meta.update(class_names=["a"]),
        lambda meta: meta.update(class_names=[]),
        lambda meta: meta.update(class_names="abc"),
        lambda meta: meta.update(in_chans=-1),
        lambda meta: meta.update(in_chans=True),
        lambda meta: meta.update(format=99),
        lambda meta: meta.update(config=[]),
    ],
)
def test_metadata_is_validated_despite_a_correct_checksum(saved, spoil):
    """Anyone who writes the file can also write the checksum, so it guards against damage, not malice."""
    from feathervit import checkpoint as module

    path, model, config = saved
    meta = {
        "config": to_dict(config),
        "class_names": ["a", "b", "c"],
        "in_chans": 1,
        "epoch": 0,
        "step": 0,
        "figures": {},
    }
    spoil(meta)
    path.write_bytes(module._pack(model.state_dict(), meta))
    with pytest.raises(CheckpointError):
        load_model(load_weights(path), path)


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

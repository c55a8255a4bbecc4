"""Errors name the kind of a weights file from another program, and nothing in the file is run."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from feathervit.checkpoint import load_weights
from feathervit.errors import CheckpointError


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def torch_file(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), buffer)
    return buffer.getvalue()


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(name, "x")
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([Harmful()], dtype=object))
    return buffer.getvalue()


TENSORS = {"head.weight": torch.zeros(2, 2), "head.bias": torch.zeros(2)}
FILES = {
    "new.pth": (lambda: torch_file(TENSORS), "PyTorch checkpoint"),
    "lightning.ckpt": (lambda: torch_file({"state_dict": TENSORS, "epoch": 3}), "PyTorch checkpoint"),
    "old.pth": (lambda: torch_file(TENSORS, _use_new_zipfile_serialization=False), "pickle"),
    "harmful.pth": (lambda: torch_file(Harmful()), "PyTorch checkpoint"),
    "harmful.pkl": (lambda: pickle.dumps(Harmful()), "pickle"),
    "script.pt": (torchscript, "TorchScript program"),
    "program.pt2": (exported, "exported PyTorch program"),
    "of_others.safetensors": (lambda: save(TENSORS, {"format": "pt"}), "another program (2 tensors"),
    "without_metadata.safetensors": (lambda: save(TENSORS), "'head.bias'"),
    "model.keras": (lambda: archive("model.weights.h5"), "Keras model"),
    "others.zip": (lambda: archive("best.safetensors"), "a zip archive"),
    "config.json": (lambda: b'{"weights": [1, 2]}', "a JSON file"),
    "image.png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(60), "an image"),
    "model.h5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "model.gguf": (lambda: b"GGUF" + bytes(64), "GGUF"),
    "model.tflite": (lambda: bytes(4) + b"TFL3" + bytes(64), "TensorFlow Lite"),
    "model.onnx": (lambda: b"\x08\x08" + bytes(64), "ONNX"),
    "arrays.npz": (arrays, "NumPy"),
    "pointer.safetensors": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "page.safetensors": (lambda: b"<!DOCTYPE html>", "HTML"),
    "nothing.safetensors": (lambda: b"", "an empty file"),
}


@pytest.mark.parametrize("name", FILES)
def test_foreign_weights_are_named(tmp_path, name):
    write, kind = FILES[name]
    path = tmp_path / name
    path.write_bytes(write())
    with pytest.raises(CheckpointError) as error:
        load_weights(path)
    assert kind in str(error.value) and "timm:NAME" in str(error.value)

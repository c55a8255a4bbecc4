"""Identifies weights files of other programs by their first bytes or the names inside. Unpickles nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

_STARTS = (  # offset, signature, kind of file
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (0, b"GGUF", "a GGUF file of a language model"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ET12", "an ExecuTorch program"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded (git lfs pull)"),
    (0, b"\x89PNG", "an image"),
    (0, b"\xff\xd8\xff", "an image"),
    (0, b"\x80", "a pickle, as old versions of PyTorch write (.pth)"),
    (0, b"<", "a page of HTML or XML: the download failed"),
    (0, b"{", "a JSON file"),
)
_MEMBERS = (  # suffixes of a name in a zip archive, kind of archive
    (("model.weights.h5",), "a Keras model"),
    (("code/.debug_pkl", "constants.pkl"), "a TorchScript program"),
    (("archive_format", "serialized_exported_program.json"), "an exported PyTorch program (.pt2)"),
    (("data.pkl",), "a PyTorch checkpoint, which is a pickle (.pth, .pt, .ckpt)"),
    ((".npy",), "a file of NumPy arrays"),
)
WAY_OUT = "feathervit reads its own .safetensors files and, with --from, timm:NAME"


def kind(path: Path) -> str:
    """Returns the kind of a file, such as "an HDF5 file", or "" if it is unknown. Never raises."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"PK") and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _archive(archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return ""
    if not start:
        return "an empty file"
    if start[8:9] == b"{":  # a safetensors file, which starts with a length
        return ""
    if path.suffix.lower() == ".onnx":
        return "an ONNX model"
    return next((what for at, mark, what in _STARTS if start[at:].startswith(mark)), "")


def of_another_program(names: Iterable[str], metadata: dict[str, str]) -> str:
    """Describes a safetensors file of another program by its tensor names and metadata."""
    names = sorted(names)
    parts = [f"{len(names)} tensors"]
    parts += [f"the first is {names[0]!r}"] if names else []
    parts += [f"{key} {value!r:.40}" for key, value in sorted(metadata.items())[:3]]
    return f"a safetensors file of another program ({', '.join(parts)})"


def _archive(names: list[str]) -> str:
    for ends, what in _MEMBERS:
        if any(name.endswith(ends) for name in names):
            return what
    return "a zip archive"

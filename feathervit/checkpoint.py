"""Reads and writes weights and training states as safetensors. Writing is atomic, and nothing is unpickled.

There are two kinds of file. A weights file (`best.safetensors`, `last.safetensors`) holds a model with its configuration and
class names. A state file (`state.safetensors`, `state.previous.safetensors`) holds everything that a run needs to resume bit
for bit. Each file stores a checksum of its content, which is verified on reading. Files are not trusted: the header is
checked before memory is allocated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from . import foreign
from .config import ReadingConfig, RunConfig, from_dict, to_dict
from .config.bounds import Share, check_bounds
from .errors import CheckpointError, ConfigError, explained
from .files import expanded, same_data, write_bytes
from .weights import list_weights, shipped_file

FORMAT = 1
STATES = ("state.safetensors", "state.previous.safetensors")  # latest first


@dataclass(frozen=True)
class OtherAnswer:
    """Holds the threshold of the answer "other" (none of the classes), and its error rates.

    The answer is "other" if the highest probability is below `threshold`. Error rates are shares from 0 to 1, on `n`
    validation images. `known`: images of the classes that are answered "other". `mistaken`: wrong predictions that are not
    answered "other" (None: no wrong predictions). `strangers`: images outside the classes that are not answered "other"
    (None: no such images were given).
    """

    threshold: Share = 0.0
    known: Share = 0.0
    n: int = 0
    mistaken: Share | None = None
    strangers: Share | None = None


@dataclass
class Checkpoint:
    """Holds weights with their configuration, class names and calibration.

    `temperature`: divides logits before the softmax; 1 unless fitted later
    (`evaluation/calibration.py`). `other`: fitted together with the temperature.
    """

    config: RunConfig
    class_names: tuple[str, ...]
    in_chans: int
    weights: dict[str, Tensor]
    temperature: float = 1.0
    other: OtherAnswer | None = None

    def read_as(self, reading: Mapping[str, Any], data: Any = None) -> Checkpoint:
        """Returns a copy for evaluation on `data` (None: the training data).

        `data` is read as in training, except for `reading`, fields of `ReadingConfig`. The root and groups of the training
        data do not apply to other data. Raises ConfigError for an invalid value.
        """
        merged = self.config.reading
        if data is not None and not same_data(data, self.config.data):
            merged = replace(merged, root="", groups="")
        merged = from_dict(ReadingConfig, to_dict(replace(merged, **reading)), "reading")
        return replace(self, config=replace(self.config, reading=merged))


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def _pack(tensors: dict[str, Tensor], meta: dict[str, Any]) -> bytes:
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    text = json.dumps({"format": FORMAT, **meta})
    # transformers requires "format" to identify PyTorch tensors
    return save(tensors, {"format": "pt", "feathervit": text, "checksum": _checksum(tensors, text)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and metadata of a file written by feathervit. Raises CheckpointError for any other file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is not a checkpoint: it is not a file")
        with safe_open(path, framework="pt") as file:  # checks the header against the file's size
            metadata = file.metadata() or {}
            if "feathervit" not in metadata or "checksum" not in metadata:
                other = foreign.of_another_program(file.keys(), metadata)
                raise CheckpointError(f"{path} was not written by feathervit: it is {other}; {foreign.WAY_OUT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {path}; give a run folder, a weights file, or weights of the package "
            f"({', '.join(list_weights())})"
        ) from None
    except (OSError, SafetensorError, UnicodeDecodeError, ValueError, RuntimeError) as error:
        if other := foreign.kind(path):
            raise CheckpointError(f"{path} is {other}, not a safetensors file; {foreign.WAY_OUT}") from error
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    text = metadata["feathervit"]
    if metadata["checksum"] != _checksum(tensors, text):
        raise CheckpointError(f"{path} is damaged: its checksum does not match its content")
    try:
        meta = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"the metadata of {path} is not JSON: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        version = meta.get("format") if isinstance(meta, dict) else None
        raise CheckpointError(f"{path} has format {version!r:.40}; this version reads format {FORMAT}")
    return tensors, meta


def save_weights(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a weights file. Raises RunFolderError if the folder cannot be written."""
    meta = {
        "config": to_dict(checkpoint.config),
        "class_names": list(checkpoint.class_names),
        "in_chans": checkpoint.in_chans,
        "temperature": checkpoint.temperature,
        "other": checkpoint.other and asdict(checkpoint.other),
    }
    write_bytes(path, _pack(checkpoint.weights, meta))


def weights_file(path: str | Path) -> Path:
    """Returns the path of a weights file, given a file, a folder, or the name of weights in the package ("mlit_nano.digits").

    In a folder, it is the best weights, else the last weights, else an exported `model`.
    """
    if str(path) in list_weights() and not Path(path).exists():
        return shipped_file(str(path))
    path = expanded(path)
    if not path.is_dir():
        return path
    names = [path / f"{name}.safetensors" for name in ("best", "last", "model")]
    return next(filter(Path.exists, names), names[0])


def weights_digest(path: str | Path) -> str:
    """Returns 32 hexadecimal digits that identify the content of a weights file (see `weights_file`)."""
    with weights_file(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def load_weights(path: str | Path) -> Checkpoint:
    """Reads a weights file (see `weights_file`). Raises CheckpointError if it is missing, damaged or invalid."""
    path = weights_file(path)
    tensors, meta = _read(path)
    # The package ships weights in float16.
    tensors = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    try:
        config = from_dict(RunConfig, meta.get("config"), "config")
        other = from_dict(OtherAnswer | None, meta.get("other"), "other")
        if other:
            check_bounds(other, "other.")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    pretrained = config.objective == "reconstruction"
    names, chans = meta.get("class_names"), meta.get("in_chans")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or not (names or pretrained):
        raise CheckpointError(f"{path} has no class names: it is not a weights file (state files are for --resume)")
    if not isinstance(chans, int) or isinstance(chans, bool) or not 1 <= chans <= 1024:
        raise CheckpointError(f"{path}: in_chans must be a number of channels, got {chans!r:.40}")
    temperature = meta.get("temperature", 1.0)
    if type(temperature) is not float or not 0 < temperature < math.inf:
        raise CheckpointError(f"{path}: temperature must be a number above 0, got {temperature!r:.40}")
    if len(set(names)) < len(names):
        raise CheckpointError(f"{path}: its class names are not unique")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: not all values of {name} are finite; the run that wrote them failed")
    return Checkpoint(config, tuple(names), chans, tensors, temperature, other)


# ---------------------------------------------------------------------------------------------------------------------
# Training state


def save_state(folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes `state.safetensors`. Renames an existing state to `state.previous.safetensors`."""
    path, previous = (folder / name for name in STATES)
    draft = folder / ".state.next"
    write_bytes(draft, _pack(tensors, meta))
    with explained(f"cannot rename state.safetensors in {folder}", "make the folder writable"):
        if path.exists():
            os.replace(path, previous)  # if the process dies here, the run resumes from the previous state
        os.replace(draft, path)


def states(folder: Path) -> list[Path]:
    """Returns the paths of the training states in a run folder, latest first."""
    return [path for name in STATES if (path := folder / name).exists()]


def drop_state(folder: Path) -> None:
    """Removes the latest state. The previous state, if any, replaces it."""
    path, previous = (folder / name for name in STATES)
    with explained(f"cannot remove a state in {folder}", "make the folder writable"):
        if previous.exists():
            os.replace(previous, path)
        else:
            path.unlink()


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Reads the latest valid state of a run folder. Also returns a message per skipped state.

    Raises CheckpointError if no state is valid.
    """
    messages: list[str] = []
    for path in states(folder):
        try:
            tensors, meta = _read(path)
        except CheckpointError as error:
            messages.append(str(error))
            continue
        return tensors, meta, [f"{message}; the previous state is used" for message in messages]
    raise CheckpointError("; ".join(messages) or f"no training state to resume in {folder}; train without --resume")

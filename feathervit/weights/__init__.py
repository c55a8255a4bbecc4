"""Finds the weights in the package: MODEL.TAG.safetensors, each with a card MODEL.TAG.md.

Functions and verbs that accept a checkpoint also accept the name MODEL.TAG. scripts/ship.py writes the files. This module does
not import torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import UnknownNameError

FOLDER = Path(__file__).resolve().parent


def list_weights(model: str = "") -> list[str]:
    """Returns the names of the weights in the package, such as "mlit_nano.digits". `model`: only weights of this model."""
    names = sorted(path.name.removesuffix(".safetensors") for path in FOLDER.glob("*.safetensors"))
    return [name for name in names if not model or name.partition(".")[0] == model]


def shipped_file(name: str) -> Path:
    """Returns the file of named weights in the package. Raises UnknownNameError with the nearest names."""
    if name not in list_weights():
        raise UnknownNameError("weights", name, list_weights(), "only these are in the package")
    return FOLDER / f"{name}.safetensors"


def shipped_header(name: str) -> dict[str, Any]:
    """Returns the metadata of weights in the package: config, class_names, in_chans and more. Raises UnknownNameError."""
    with safe_open(shipped_file(name), framework="numpy") as file:
        return json.loads(file.metadata()["feathervit"])

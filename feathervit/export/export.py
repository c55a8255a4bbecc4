"""Export as the command line does it: from a checkpoint to a folder with the files, checked, and export.json beside them."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch

from .. import __version__
from ..errors import ConfigError, RunFolderError, UnknownNameError
from ..files import clear_drafts, expanded
from ..results import commit, machine, write_json
from .job import prepare
from .verify import check_extra

Target = Literal["onnx", "int8", "pt2", "web", "huggingface"]
MOST_SAMPLES = 100


def export_model(
    checkpoint: str | Path,
    to: Target = "onnx",
    out: str | Path | None = None,
    *,
    data: Any = None,
    input: Literal["image", "tensor"] = "image",
    min_agreement: float | None = None,
    batch: int | None = None,
    samples: int = 0,
    reading: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Writes the model of a checkpoint in the form `to`, checks it on real images, returns what export.json holds and "out".

    `out`: a folder, by default `export-TO` beside the weights. `data`: labelled images as in `load_data`, by default what the
    checkpoint was trained on; those it is checked on are never used for calibration. `input`: pictures of any size (uint8
    [batch, height, width, channels]), or "tensor": resized and normalised already. "passed" says whether the exported model
    agrees with the model on enough images: 99 % where it keeps 32 bits, `min_agreement` for int8 and the page, where None asks
    that accuracy is kept instead (`verify.as_accurate`).
    `batch`: so many images at once and no other number, for accelerators of devices that want every shape fixed (ONNX only).
    `samples`: so many of the held-out images are copied into the page, for its visitors to try (web only).
    `reading`: fields of `ReadingConfig` that are not to be as in training. `say` hears what is going on.

    Raises FeatherVitError.
    """
    if to not in get_args(Target):
        raise UnknownNameError("target", to, get_args(Target))
    if input not in ("image", "tensor"):
        raise UnknownNameError("input", input, ("image", "tensor"))
    if min_agreement is not None and to not in ("int8", "web"):
        raise ConfigError(
            f"--min-agreement is for --to int8 and --to web; what --to {to} must agree on is fixed, leave it out"
        )
    if not 0 <= (min_agreement or 0) <= 1:
        raise ConfigError(f"--min-agreement must be from 0 to 1, got {min_agreement}")
    if input == "tensor" and to not in ("onnx", "int8"):
        raise ConfigError(f"--input tensor is for --to onnx and --to int8; --to {to} takes pictures")
    if batch is not None and (to not in ("onnx", "int8") or batch < 1):
        raise ConfigError(f"--batch is for --to onnx and --to int8, and at least 1; got {batch} for --to {to}")
    if (samples and to != "web") or not 0 <= samples <= MOST_SAMPLES:
        raise ConfigError(f"--samples is for --to web, and from 0 to {MOST_SAMPLES}; got {samples} for --to {to}")
    if to in ("onnx", "int8", "web"):
        check_extra(f"--to {to}")
    job = prepare(checkpoint, data, input, min_agreement, say, reading, batch, samples)
    folder = expanded(out) if out else job.folder / f"export-{to}"
    writers = {"onnx": "files", "int8": "files", "pt2": "pt2", "web": "web", "huggingface": "huggingface"}
    writer = getattr(importlib.import_module(f".{writers[to]}", __package__), f"write_{to}")
    new = _claim(folder, to)
    config = job.predictor.config
    found = {
        "to": to,
        "finished": True,
        "checkpoint": Path(checkpoint).resolve().name,  # no more: the folder may be published
        "model": config.model,
        "parameters": sum(p.numel() for p in job.predictor.model.parameters()),
        "classes": len(job.predictor.class_names),
        "img_size": config.img_size,
        "channels": job.predictor.in_chans,
    }
    of = {"feathervit": __version__, "commit": commit(), "torch": torch.__version__, "machine": machine()}
    try:
        write_json(folder / "export.json", {"to": to, "finished": False})  # again when all is there and checked
        found |= writer(job, folder) | of
        write_json(folder / "export.json", found)
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return found | {"out": str(folder)}


def _claim(folder: Path, to: Target) -> bool:
    """Makes the folder; whether it is new. Only what an earlier export of the same kind wrote is ever replaced."""
    try:
        new = not folder.exists()
        clear_drafts(folder)
        if not new and any(folder.iterdir()):
            if not (folder / "export.json").exists():
                raise RunFolderError(f"{folder} is not empty and holds no export; name another folder with --out")
            held = json.loads((folder / "export.json").read_text()).get("to", to)
            if held != to:
                raise RunFolderError(
                    f"{folder} holds an export --to {held}; name another folder with --out, or remove it"
                )
        folder.mkdir(parents=True, exist_ok=True)
        return new
    except (ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{folder / 'export.json'} is damaged; remove the folder, or name another with --out"
        ) from error
    except OSError as error:
        raise RunFolderError(f"cannot use {folder}: {error.strerror or error}; it must be a writable folder") from error

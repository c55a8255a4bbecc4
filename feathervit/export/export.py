"""Exports a checkpoint to a folder, checks the files, and writes export.json."""

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
from ..checkpoint import weights_digest
from ..errors import ConfigError, RunFolderError, UnknownNameError, valid
from ..files import clear_drafts, expanded
from ..results import commit, machine, write_json
from .job import prepare
from .verify import check_extra

Target = Literal["onnx", "int8", "pt2", "executorch", "web", "huggingface"]
MOST_SAMPLES = 100
FEW = 50  # images; a check of fewer is printed with a remark
NEEDS = {"onnx": "export", "int8": "export", "web": "export", "executorch": "executorch"}  # target -> required extra


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
    push: str | None = None,
    reading: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Exports the model of a checkpoint in the form `to`, and checks it on real images.

    Returns the content of export.json, and the folder as "out". "passed" is True if the exported model agrees with the
    original on enough images: 99 % in 32 bits, and `min_agreement` in 8 bits. Images for the check are never used for
    calibration.

    - `out`: a folder; by default `export-TO` beside the weights.
    - `data`: labelled images as in `load_data`; by default the training data of the checkpoint.
    - `input`: "image" for images of any size (uint8 [batch, height, width, channels]), or "tensor" for images that are
      already resized and normalised. ExecuTorch programs always take tensors.
    - `min_agreement`: if None, 8 bits must keep the accuracy instead (`verify.as_accurate`).
    - `batch`: a fixed batch size, for accelerators that require fixed shapes (ONNX only).
    - `samples`: number of held-out images to copy into the page as samples (web only).
    - `push`: OWNER/NAME on the Hugging Face hub. The folder is uploaded if it passes, and "pushed" is its address.
    - `reading`: fields of `ReadingConfig` that differ from training.
    - `say`: receives progress messages.

    Raises FeatherVitError.
    """
    if to not in get_args(Target):
        raise UnknownNameError("target", to, get_args(Target))
    if input not in ("image", "tensor"):
        raise UnknownNameError("input", input, ("image", "tensor"))
    if min_agreement is not None and to not in ("int8", "executorch", "web"):
        raise ConfigError(
            f"--min-agreement is for eight bits (--to int8, executorch and web); the share for --to {to} is fixed, leave it out"
        )
    if not 0 <= (min_agreement or 0) <= 1:
        raise ConfigError(f"--min-agreement must be from 0 to 1, got {min_agreement}")
    if to == "executorch":
        input = "tensor"
    if input == "tensor" and to not in ("onnx", "int8", "pt2", "executorch"):
        raise ConfigError(f"--input tensor is for --to onnx, int8 and pt2; --to {to} takes images")
    if batch is not None and (to not in ("onnx", "int8") or batch < 1):
        raise ConfigError(f"--batch is for --to onnx and --to int8, and at least 1; got {batch} for --to {to}")
    if (samples and to != "web") or not 0 <= samples <= MOST_SAMPLES:
        raise ConfigError(f"--samples is for --to web, and from 0 to {MOST_SAMPLES}; got {samples} for --to {to}")
    if push is not None and to != "huggingface":
        raise ConfigError(f"--push is for --to huggingface, not --to {to}; leave it out")
    if to in NEEDS:
        check_extra(f"--to {to}", NEEDS[to])
    options = {"input": input, "min_agreement": min_agreement, "batch": batch, "samples": samples, "push": push}
    job = prepare(checkpoint, data, reading, say, **options)
    folder = expanded(out) if out else job.folder / f"export-{to}"
    module = "files" if to in ("onnx", "int8") else to
    writer = getattr(importlib.import_module(f".{module}", __package__), f"write_{to}")
    new = _claim(folder, to)
    config = job.predictor.config
    record = {
        "to": to,
        "finished": True,
        "checkpoint": Path(checkpoint).resolve().name,  # not the path, because the folder may be published
        "weights": weights_digest(checkpoint),
        "model": config.model,
        "parameters": sum(p.numel() for p in job.predictor.model.parameters()),
        "classes": len(job.predictor.class_names),
        "img_size": config.img_size,
        "channels": job.predictor.in_chans,
        "split": job.checking.name,
    }
    environment = {"feathervit": __version__, "commit": commit(), "torch": torch.__version__, "machine": machine()}
    try:
        # Replaced after all files are written and checked
        write_json(folder / "export.json", {"to": to, "finished": False})
        record |= writer(job, folder) | environment
        write_json(folder / "export.json", record)
        if record["n"] < FEW:
            images = f"{record['n']} image{'s' * (record['n'] != 1)}"
            say(f"  only {images} could be checked, which is too few for a firm result; give more with --data")
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if push and record["passed"]:
        from .huggingface import push as upload

        record["pushed"] = upload(folder, push)
    return record | {"out": str(folder)}


def _claim(folder: Path, to: Target) -> bool:
    """Creates the folder and returns whether it is new. Only an earlier export to the same target may be replaced."""
    with valid(f"cannot use {folder}", "; name another folder with --out, or remove it"):
        new = not folder.exists()
        clear_drafts(folder)
        if not new and any(folder.iterdir()):
            if not (folder / "export.json").exists():
                raise RunFolderError(f"{folder} is not empty and holds no export; name another folder with --out")
            target = json.loads((folder / "export.json").read_text()).get("to", to)
            if target != to:
                raise RunFolderError(
                    f"{folder} holds an export --to {target}; name another folder with --out, or remove it"
                )
        folder.mkdir(parents=True, exist_ok=True)
        return new

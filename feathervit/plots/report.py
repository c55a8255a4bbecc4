"""Writes the report of a run: one self-contained HTML page with charts and images.

The charts and images are also written as PNGs to a folder beside it. `report` writes both from a run folder, and
`report_at_end` at the end of a run. If the data is missing, parts that need images are omitted, with a note. A part that fails
is also omitted, for example for models of timm. The template escapes all names, and the content security policy of the page
allows only the embedded script.

Legend: N images, K classes, E experts.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from PIL import Image
from scipy.special import softmax
from torch import nn

from ..checkpoint import load_weights
from ..config import RunConfig, from_dict, to_dict
from ..data import DataSplits, ImageSet
from ..device import choose_device
from ..errors import DataError, FeatherVitError, RunFolderError
from ..evaluation.calibration import before_and_after, fit_temperature
from ..evaluation.confusion import chance_level, confused_pairs
from ..evaluation.findings import MOST, accuracy, limits
from ..evaluation.inference import accuracy_and_loss, logits
from ..files import make_folder, write_bytes
from ..models import Encoder, MaskedAutoencoder
from ..models.loading import load_model
from ..results import RunResult, read_result
from ..text import REPLACED
from . import charts, texts
from .examples import SAMPLES, confused, mistakes, samples, strip, uri
from .reconstructions import ROWS, reconstructions
from .routing import expert_use
from .subject import own_splits, varied
from .tiles import png_bytes, tiles

NAME, SCRIPT, FOLDER = "report.html", "report.js", "report"
SMALL = ("Learning rate", "Balance of the experts")  # charts drawn in small size, at the end
COUNTED = 256  # number of images for the load of the experts
Part = TypeVar("Part")


def report(folder: str | Path) -> Path:
    """Writes report.html and report/*.png to a run folder, from its files and the training data.

    Raises RunFolderError for a folder without a result, and CheckpointError for weights that cannot be read.
    """
    folder = Path(folder)
    if not (folder / "result.json").exists():
        raise RunFolderError(
            f"{folder} has no result.json: give the folder of a run that is finished, or was stopped after its first epoch"
        )
    result, stored = read_result(folder / "result.json"), load_weights(folder)
    device, _ = choose_device("auto")
    model = load_model(stored, folder).to(device)
    data, notes = _data(stored.config, result)
    return write_report(folder, result, data, model, device, notes)


def report_at_end(
    folder: Path, result: RunResult, data: DataSplits, model: nn.Module, device: torch.device, causes: list[str]
) -> str:
    """Writes the report. Returns a line with its path, or the reason of a failure. Never raises an error."""
    try:
        return f"Report: {write_report(folder, result, data, model, device, [], causes)}"
    except Exception as error:  # drawing may fail because of fonts, names or the disk
        return f"note: no {NAME} was written ({type(error).__name__}: {error})"


def write_report(
    folder: Path,
    result: RunResult,
    data: DataSplits | None,
    model: nn.Module,
    device: torch.device,
    notes: list[str],
    causes: list[str] | None = None,
) -> Path:
    """Writes report.html and its PNGs for the model with the saved weights. `causes` None: they are computed.

    Raises RunFolderError.
    """
    files: dict[str, bytes] = {}
    try:
        values = _of_result(folder, result, data, files)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunFolderError(f"cannot make a report from the result in {folder}: {error!r}") from error
    values |= _of_model(result, data, model, device, files, notes, causes)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = texts.percent
    environment.filters["whole"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    here = resources.files(__package__)
    script = (here / SCRIPT).read_text(encoding="utf-8")
    values["script"] = script
    values["script_hash"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.from_string((here / NAME).read_text(encoding="utf-8"))
    page = template.render(result=result, notes=notes, **values)
    write_bytes(folder / NAME, page.encode("utf-8", REPLACED))  # file names need not be valid Unicode
    make_folder(folder / FOLDER)
    for path in (folder / FOLDER).glob("*.png"):  # an earlier report may have more charts
        if path.stem not in files:
            path.unlink()
    for name, png in files.items():
        write_bytes(folder / FOLDER / f"{name}.png", png)
    return folder / NAME


def _data(config: RunConfig, result: RunResult) -> tuple[DataSplits | None, list[str]]:
    """Returns the data of the run if it is unchanged, else None and the reason."""
    gone = "The images and the parts made from them are left out: "
    try:
        data = own_splits(config)
    except FeatherVitError as error:
        return None, [f"{gone}{error}."]
    found = data.fingerprints()
    known = result.data.get("fingerprints", {**found, "train": result.data["fingerprint"]})  # earlier results have one
    if found != known:
        return None, [f"{gone}{config.data} has changed since the run."]
    return data, []


def _of_result(folder: Path, result: RunResult, data: DataSplits | None, files: dict[str, bytes]) -> dict[str, Any]:
    """Returns the template values that need only the result. Adds the PNGs to `files`, by name."""
    config = from_dict(RunConfig, result.config)
    pretraining = config.objective == "reconstruction"
    split_metrics = result.test or result.val
    measured = not pretraining and split_metrics is not None
    drawn = list(_curves(result, pretraining, files))
    metrics = texts.metrics(split_metrics) if measured else None
    return {
        "title": f"{result.model} on {Path(result.data['name']).name}",
        "subtitle": f"{'Pre-training' if pretraining else 'Training'} in {folder.absolute().name}, recipe "
        f"{result.recipe or '(none)'}, seed {result.seed}, {len(result.epochs)} epoch{'s' * (len(result.epochs) != 1)}",
        "stopped": "" if result.finished else texts.stopped(result, config),
        "accuracy": accuracy(result) if measured else None,
        "facts": list(texts.facts(result, (folder / "best.safetensors").stat().st_size)),
        "figures": [(n, texts.figures(s)) for n in ("val", "test") if (s := getattr(result, n))],
        "figures_note": texts.figures_note(result, pretraining),
        "curves": [curve for curve in drawn if curve[0] not in SMALL],
        "small_curves": [curve for curve in drawn if curve[0] in SMALL],
        "split": "test" if result.test else "val" if result.val else "train",
        "splits": texts.splits(folder),
        "data_note": f"{result.data['name']}: {result.data['classes']} classes, fingerprint {result.data['fingerprint']}"
        + (f"; {len(result.skipped)} unreadable images were left out" if result.skipped else ""),
        "changed": texts.changed_settings(config),
        "settings": texts.flat(to_dict(config)),
        "environment": texts.environment(result),
        "exports": texts.exports(folder),
        "confusion": _chart(files, "confusion", charts.confusion(metrics.confusion, metrics.class_names))
        if measured
        else None,
        "classes": texts.classes(metrics, data) if measured else [],
        "pairs": confused(confused_pairs(metrics)) if measured else [],
    }


def _of_model(
    result: RunResult,
    data: DataSplits | None,
    model: nn.Module,
    device: torch.device,
    files: dict[str, bytes],
    notes: list[str],
    causes: list[str] | None,
) -> dict[str, Any]:
    """Returns the template values that need the model and images. A part that fails is omitted, with a note."""
    values: dict[str, Any] = dict.fromkeys(("reconstructions", "mistakes", "limits", "samples"), ())
    values |= dict.fromkeys(("reliability", "load"))
    values |= dict.fromkeys(("mistakes_note", "reliability_note", "load_note", "samples_title"), "")
    if data is None:
        return values
    config = from_dict(RunConfig, result.config)

    def part(what: str, make: Callable[[], dict[str, Any]]) -> None:
        try:
            values.update(make())
        except Exception as error:  # models of timm may raise any error
            notes.append(f"{what} left out ({type(error).__name__}: {error}).")

    images = data.test or data.val
    if isinstance(model, MaskedAutoencoder):
        part("Reconstructions are", lambda: _reconstructed(model, images or data.train, config, files))
    else:
        part("The limits of the accuracy are", lambda: {"limits": _limits(result, data, model, config, device, causes)})
        if images is not None:
            part("Mistakes and confidence are", lambda: _on_images(result, data, images, model, config, device, files))
    part("The load of the experts is", lambda: _load(model, images or data.train, config, files))
    part("Samples are", lambda: samples(data.train, files))
    return values


def _limits(
    result: RunResult,
    data: DataSplits,
    model: nn.Module,
    config: RunConfig,
    device: torch.device,
    causes: list[str] | None,
) -> list[str]:
    if causes is None:
        top1, *_ = accuracy_and_loss(model, data.train.some(MOST), config, device)
        causes, _ = limits(result, data, top1)
    return causes or ["These figures show no limit."]


def _on_images(
    result: RunResult,
    data: DataSplits,
    images: ImageSet,
    model: nn.Module,
    config: RunConfig,
    device: torch.device,
    files: dict[str, bytes],
) -> dict[str, Any]:
    z_NK = logits(model, images.images, config, device).numpy()
    z_val = None
    if data.val is not None:
        z_val = z_NK if images is data.val else logits(model, data.val.images, config, device).numpy()
    rows, note = mistakes(softmax(z_NK, 1), images, data.train, files)
    pairs = confused(confused_pairs(texts.metrics(result.test or result.val)), z_NK.argmax(1), images, data.train)
    return {
        "mistakes": rows,
        "mistakes_note": note,
        "pairs": pairs,
        **_reliability(z_NK, images, z_val, data.val, files),
    }


def _reconstructed(
    model: MaskedAutoencoder, images: ImageSet, config: RunConfig, files: dict[str, bytes]
) -> dict[str, Any]:
    rows = reconstructions(model, varied(images, SAMPLES).images, config)
    files["reconstructions"] = png_bytes(tiles(rows, ROWS))
    return {"reconstructions": [(name, strip(row)) for name, row in zip(ROWS, rows, strict=True)]}


def _curves(result: RunResult, pretraining: bool, files: dict[str, bytes]) -> Iterator[tuple[str, str, str]]:
    """Yields (title, note, data URI) of each chart that has values in the rows."""
    rows, best = result.epochs, (result.best or {}).get("epoch") if result.val else None
    errors = {"training, masked": "train_masked_mse", "training, visible": "train_visible_mse"}
    errors["validation, masked"] = "val_masked_mse"
    losses = {"training": "train_loss", "training, cross-entropy": "train_cross_entropy"}
    losses |= {"training, distillation": "train_distillation", "validation, cross-entropy": "val_loss"}
    shares = {"training": "train_top1", "validation": "val_top1"}
    balance = {"training": "train_balance"} if any(row.get("train_balance") for row in rows) else {}
    log = {"log": pretraining and len(rows) > 1}
    scale = "Both axes are logarithmic. " if log["log"] else ""
    remark = "Training values are of augmented images, while the weights change"
    held_out = result.val or result.test
    guessing = {"chance": chance_level(held_out)} if held_out and not pretraining else {}
    parts = (
        ("Error", "mean squared error", errors, log, f"{scale}Pixels are normalised like the model's input."),
        ("Accuracy", "top-1", shares, {"percent": True, **guessing}, f"{remark}."),
        ("Loss", "loss", losses, log, f"{scale}{remark}. The training loss includes all terms."),
        ("Learning rate", "learning rate", {"training": "lr"}, {}, "At the last step of each epoch."),
        ("Balance of the experts", "balance loss", balance, {}, "Summed over layers; 0 is an even load."),
    )
    for title, what, columns, options, note in parts:
        drawn = charts.curves(rows, columns, title, what, best, **options)
        if drawn is not None:
            yield title, note, _chart(files, title.lower().replace(" ", "-"), drawn)


def _reliability(
    z_NK: np.ndarray, images: ImageSet, z_val: np.ndarray | None, val: ImageSet | None, files: dict[str, bytes]
) -> dict[str, Any]:
    """Draws the reliability of images with logits `z_NK`: unchanged, and with the temperature fitted on `val`."""
    labels_N, split = images.labels.numpy(), images.name.rpartition("/")[2]
    temperature, note = None, ""
    if val is not None:
        try:
            temperature = fit_temperature(z_val, val.labels.numpy())
        except DataError as error:
            note = f" No temperature was fitted: {error}."
    both = before_and_after(z_NK, images, temperature or 1.0)
    lines = {"as trained": softmax(z_NK, 1)}
    text = f"{_calibration(both['before'])} of the {len(images)} {split} images.{note}"
    if temperature is not None:
        same = " (the same images)" if val is images else ""
        lines[f"at temperature {temperature:.2f}"] = softmax(z_NK / temperature, 1)
        text += (
            f" {_calibration(both['after'])} with the logits divided by {temperature:.2f}, which fits the {len(val)} val "
            f"images best{same}; feathervit calibrate stores it with the weights."
        )
    if len(labels_N) < charts.FEW_IMAGES:
        text += f" {len(labels_N)} images are too few for more than {charts.FEW_BINS} bins."
    return {"reliability": _chart(files, "reliability", charts.reliability(lines, labels_N)), "reliability_note": text}


def _calibration(found: dict[str, float]) -> str:
    return f"Calibration error {100 * found['ece']:.1f} %, NLL {found['nll']:.3f}"


def _load(model: nn.Module, images: ImageSet, config: RunConfig, files: dict[str, bytes]) -> dict[str, Any]:
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    if not isinstance(encoder, Encoder) or not any(getattr(layer.ffn, "gate", None) for layer in encoder.blocks):
        return {}
    part = images.some(COUNTED)
    merged = replace(part, labels=torch.zeros_like(part.labels), class_names=("all",))
    use = {layer: share_KE[0] for layer, share_KE in expert_use(encoder, merged, config).items()}
    note = f"Share of the tokens of {len(part)} {images.name.rpartition('/')[2]} images per expert"
    if config.arch is not None:
        note += f"; each token uses {config.arch.feedforward.top_k}"
    return {"load": _chart(files, "experts", charts.expert_load(use)), "load_note": f"{note}."}


def _chart(files: dict[str, bytes], name: str, png: bytes) -> str:
    """Returns the data URI of a chart for the page. Adds the PNG with a white background to `files`."""
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    background = Image.new("RGBA", drawn.size, "white")
    background.alpha_composite(drawn)
    files[name] = png_bytes(background.convert("RGB"))
    return uri(png)

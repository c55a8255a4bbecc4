"""The report of a run: one HTML page that asks nothing of any other file or server, its charts and pictures inside it.

`report` writes it from a run folder, `report_at_end` from what a run holds when it ends. What needs the pictures is left
out, with a word, where the data is gone. All names go through the template's escaping.

Legend: B batch, C channels, S image side, K classes, N pictures, E experts.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from PIL import Image
from torch import Tensor, nn

from ..config import RunConfig, changed, from_dict, to_dict
from ..data import DataSplits, ImageSet, load_data
from ..data.picture import resize
from ..errors import FeatherVitError, RunFolderError
from ..evaluation.inference import probabilities
from ..files import write_bytes
from ..models import Encoder, MaskedAutoencoder
from ..recipes import RECIPES
from ..results import RunResult, read_result, read_splits
from ..training.checkpoint import load_model, load_weights
from ..training.setup import choose_device, resolve
from . import charts
from .figures import rgb
from .reconstructions import reconstructions
from .routing import expert_use
from .subject import some

NAME = "report.html"
SAMPLES = 8  # of a class
CLASSES = 30  # that have samples
MISTAKES = 24
COUNTED = 256  # pictures by which the load of the experts is measured
SIDE = 96  # px, the most that a picture is kept at

FIGURES = {
    "n": "pictures",
    "top1": "top-1",
    "top5": "top-{k}",
    "balanced_accuracy": "balanced",
    "nll": "NLL",
    "ece": "calibration error",
    "masked_mse": "masked MSE",
    "visible_mse": "visible MSE",
}
EXACT = {"n", "nll", "masked_mse", "visible_mse"}  # no shares


def report(folder: str | Path) -> Path:
    """Writes report.html into a finished run's folder, from what is in it and the data it was trained on.

    Raises RunFolderError for a folder without a result, CheckpointError for weights that cannot be read.
    """
    folder = Path(folder)
    if not (folder / "result.json").exists():
        raise RunFolderError(f"{folder} holds no result.json: give the folder of a run that is finished")
    result, stored = read_result(folder / "result.json"), load_weights(folder)
    device, _ = choose_device("auto")
    model = load_model(stored, folder).to(device)
    data, notes = _data(stored.config, result)
    return write_report(folder, result, data, model, device, notes)


def report_at_end(folder: Path, result: RunResult, data: DataSplits, model: nn.Module, device: torch.device) -> str:
    """`write_report`, and a line that says where it is, or why there is none: a run does not fail for its report."""
    try:
        return f"Report: {write_report(folder, result, data, model, device, [])}"
    except Exception as error:  # drawing can fail in ways of the fonts, the names and the disk
        return f"note: no {NAME} was written ({type(error).__name__}: {error})"


def write_report(
    folder: Path,
    result: RunResult,
    data: DataSplits | None,
    model: nn.Module,
    device: torch.device,
    notes: list[str],
) -> Path:
    """Writes report.html of the model with the weights that were kept. Raises RunFolderError."""
    try:
        values = _values(folder, result, data, model, device)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunFolderError(f"{folder} holds a result that no report can be made of: {error!r}") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = _percent
    template = environment.from_string((resources.files(__package__) / NAME).read_text(encoding="utf-8"))
    page = template.render(result=result, notes=notes, **values)
    write_bytes(folder / NAME, page.encode("utf-8", "replace"))  # file names need not be valid Unicode
    return folder / NAME


def _data(config: RunConfig, result: RunResult) -> tuple[DataSplits | None, list[str]]:
    """The data of the run, if it is still what it was, else None and why."""
    gone = "The pictures are left out, and what is made of them: "
    if config.data == "arrays":
        return None, [gone + "the data were arrays given from Python."]
    labelled = config.objective != "reconstruction"
    try:
        data = load_data(
            config.data,
            img_size=config.img_size,
            images=config.images,
            split=config.split,
            skip_unreadable=True,
            labelled=labelled,
        )
    except FeatherVitError as error:
        return None, [f"{gone}{error}."]
    if data.train.fingerprint() != result.data["fingerprint"]:
        return None, [f"{gone}{config.data} has changed since the run."]
    return data, []


def _values(
    folder: Path, result: RunResult, data: DataSplits | None, model: nn.Module, device: torch.device
) -> dict[str, Any]:
    """All that the template names."""
    config = from_dict(RunConfig, result.config)
    pretraining = config.objective == "reconstruction"
    split = "test" if result.test else "val" if result.val else "train"
    images = getattr(data, split) if data is not None else None
    found = result.test or result.val
    weights = (folder / "best.safetensors").stat().st_size
    parts = _splits(folder)
    values = {
        "title": f"{result.model} on {Path(result.data['name']).name}",
        "subtitle": f"{'Pre-training' if pretraining else 'Training'} in {folder.absolute().name}, recipe "
        f"{result.recipe or '(none)'}, seed {result.seed}: {len(result.epochs)} epochs",
        "facts": list(_facts(result, weights)),
        "figures": [(n, _figures(s)) for n in ("val", "test") if (s := getattr(result, n))],
        "figures_note": _figures_note(result, pretraining),
        "curves": list(_curves(result, pretraining)),
        "kept": (result.best or {}).get("epoch") if result.val else None,
        "split": split,
        "splits": parts,
        "data_note": f"{result.data['name']}: {result.data['classes']} classes, fingerprint {result.data['fingerprint']}"
        + (f"; {len(result.skipped)} unreadable pictures were left out" if result.skipped else ""),
        "changed": _changed(config),
        "settings": _flat(to_dict(config)),
        "environment": _environment(result),
        "reconstructions": [],
        "confusion": None,
        "reliability": None,
        "classes": [],
        "mistakes": [],
        "mistakes_note": "",
        "load": None,
        "load_note": "",
        "samples": [],
        "samples_title": "",
    }
    if not pretraining and found:
        values["confusion"] = _uri(charts.confusion(found["confusion"], found["class_names"]))
        values["classes"] = _classes(found, data)
    if images is None:
        return values
    if isinstance(model, MaskedAutoencoder):
        rows = reconstructions(model, some(images, SAMPLES).images, config)
        names = ("original", "masked", "reconstructed")
        values["reconstructions"] = [(n, _strip(row)) for n, row in zip(names, rows, strict=True)]
    elif found:
        p_NK = probabilities(model, images.images, config, device).numpy()
        values["reliability"] = _uri(charts.reliability(p_NK, images.labels.numpy()))
        values["mistakes"], values["mistakes_note"] = _mistakes(p_NK, images)
    values |= _load(model, images, config, split) | _samples(data.train)
    return values


# ---------------------------------------------------------------------------------------------------------------------
# Figures and texts


def _facts(result: RunResult, weights: int) -> Iterator[tuple[str, str]]:
    for split in ("test", "val"):
        figures = getattr(result, split)
        if figures and "top1" in figures:
            yield f"{split} top-1", _percent(figures["top1"])
        elif figures:
            yield f"{split} masked MSE", f"{figures['masked_mse']:.4f}"
    yield "parameters", f"{result.parameters:,}"
    yield "weights", f"{weights / 1e6:.2f} MB"
    if result.minutes is not None:
        yield "training time", f"{60 * result.minutes:.0f} s" if result.minutes < 2 else f"{result.minutes:.1f} min"
    if result.images_per_s is not None:
        yield "images per second", f"{result.images_per_s:,.0f}"


def _figures(found: dict[str, Any]) -> dict[str, str]:
    return {
        name.format(k=found.get("top5_k", 5)): (
            str(found[key]) if key == "n" else f"{found[key]:.4f}" if key in EXACT else _percent(found[key])
        )
        for key, name in FIGURES.items()
        if key in found
    }


def _figures_note(result: RunResult, pretraining: bool) -> str:
    kept = f"Of the weights of epoch {result.best['epoch']}" if result.best else "Of the kept weights"
    chosen = ", chosen on val" if result.val else ", the last"
    what = "" if pretraining else ". NLL: mean negative log-likelihood in nats"
    return f"{kept}{chosen}{what}."


def _curves(result: RunResult, pretraining: bool) -> Iterator[tuple[str, str, str]]:
    """(name, note, picture) of each chart that the rows have something for."""
    rows, best = result.epochs, (result.best or {}).get("epoch") if result.val else None
    errors = {"training, masked": "train_masked_mse", "training, visible": "train_visible_mse"}
    errors["validation, masked"] = "val_masked_mse"
    losses = {"training": "train_loss", "training, cross-entropy": "train_cross_entropy"}
    losses |= {"training, distillation": "train_distillation", "validation, cross-entropy": "val_loss"}
    accuracy = {"training": "train_top1", "validation": "val_top1"}
    balance = {"training": "train_balance"} if any(row.get("train_balance") for row in rows) else {}
    log = {"log": pretraining and len(rows) > 1}
    scale = "Both axes are logarithmic. " if log["log"] else ""
    seen = "Training is on augmented pictures, while the weights change"
    parts = (
        ("Error", "mean squared error", errors, log, f"{scale}Of pixels normalised as the model takes them."),
        ("Loss", "loss", losses, log, f"{scale}{seen}; its loss holds all terms."),
        ("Accuracy", "top-1", accuracy, {"percent": True}, f"{seen}."),
        ("Learning rate", "learning rate", {"training": "lr"}, {}, "Of each epoch's last step."),
        ("Balance of the experts", "balance loss", balance, {}, "Summed over layers; 0 is an even load."),
    )
    for name, what, columns, options, note in parts:
        drawn = charts.curves(rows, columns, what, best, **options)
        if drawn is not None:
            yield name, note, _uri(drawn)


def _classes(found: dict[str, Any], data: DataSplits | None) -> list[dict[str, Any]]:
    names, counts = found["class_names"], np.asarray(found["confusion"])
    train = None
    if data is not None:
        train = np.bincount(data.train.labels.numpy(), minlength=len(names)).tolist()
    rows = []
    for i, name in enumerate(names):
        wrong = counts[i].copy()
        wrong[i] = 0
        other, named = int(wrong.argmax()), counts[:, i].sum()
        rows.append(
            {
                "name": name,
                "train": train[i] if train else None,
                "count": int(counts[i].sum()),
                "recall": found["per_class"][name],
                "precision": counts[i, i] / named if named else None,
                "mistaken": f"{names[other]} ({wrong[other]})" if wrong[other] else "",
            }
        )
    return rows


def _splits(folder: Path) -> list[tuple[str, int, str]]:
    return [(name, part["count"], part["how"]) for name, part in read_splits(folder / "splits.json").items()]


def _changed(config: RunConfig) -> list[tuple[str, str]]:
    """Dotted name and value of what differs from the recipe for this model and data."""
    base = RECIPES[config.recipe].config if config.recipe in RECIPES else RunConfig()
    if base.model != config.model:
        base = replace(base, model=config.model, arch=None)
    base = resolve(replace(base, recipe=config.recipe, data=config.data))
    return [(name, _text(now)) for name, (_, now) in changed(base, config).items() if not name.endswith(".kind")]


def _flat(value: Any, where: str = "") -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return [(where, _text(value))]
    return [row for key, inner in value.items() for row in _flat(inner, f"{where}.{key}" if where else key)]


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return json.dumps(value) if not isinstance(value, str) else value or "(empty)"


def _environment(result: RunResult) -> list[tuple[str, str]]:
    machine = result.machine
    memory = f"{machine['memory_gib']} GiB" if machine["memory_gib"] else "unknown"
    rows = {
        "device": result.device,
        "precision": result.precision,
        "GPU": machine["gpu"] or "none",
        "CPU": f"{machine['cpu']}, {machine['cores']} cores, {result.threads} threads used",
        "memory": memory,
        "system": machine["os"],
        "Python": result.python,
        "PyTorch": result.torch,
        "feathervit": result.version,
        "commit": result.commit or "(an installed package)",
    }
    return [(name, str(value)) for name, value in rows.items()]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def _mistakes(p_NK: np.ndarray, images: ImageSet) -> tuple[list[dict[str, Any]], str]:
    guess, labels = p_NK.argmax(1), images.labels.numpy()
    wrong = np.flatnonzero(guess != labels)
    worst = wrong[np.argsort(-p_NK[wrong, guess[wrong]], kind="stable")][:MISTAKES]
    names = images.class_names
    rows = [
        {
            "uri": _strip(images.images[i : i + 1]),
            "true": names[labels[i]],
            "guess": names[guess[i]],
            "confidence": float(p_NK[i, guess[i]]),
            "source": images.sources[i],
            "file": images.sources[i].rpartition("/")[2],
        }
        for i in worst.tolist()
    ]
    return rows, f"Of {len(wrong)} mistakes among {len(labels)} pictures, those that the model was surest of."


def _load(model: nn.Module, images: ImageSet, config: RunConfig, split: str) -> dict[str, Any]:
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    if not isinstance(encoder, Encoder) or not any(getattr(layer.ffn, "gate", None) for layer in encoder.blocks):
        return {}
    part = some(images, COUNTED)
    together = ImageSet(part.images, torch.zeros_like(part.labels), ("all",), part.sources, part.name)
    use = {layer: share_KE[0] for layer, share_KE in expert_use(encoder, together, config).items()}
    takes = f"a token takes {config.arch.feedforward.top_k}"
    note = f"Share of the tokens of {len(part)} {split} pictures that take an expert; {takes}."
    return {"load": _uri(charts.expert_load(use)), "load_note": note}


def _samples(train: ImageSet) -> dict[str, Any]:
    """Strips of evenly spaced training pictures: of each class, or of all where there are no labels."""
    count_K = np.bincount(train.labels.numpy(), minlength=len(train.class_names))
    if len(count_K) < 2:
        return {
            "samples": [("training pictures", None, _strip(some(train, SAMPLES).images))],
            "samples_title": "Samples",
        }
    shown = [k for k in range(len(count_K)) if count_K[k]][:CLASSES]
    rows = []
    for k in shown:
        own = torch.nonzero(train.labels == k).flatten()
        chosen = own[torch.linspace(0, len(own) - 1, min(SAMPLES, len(own))).round().long()]
        rows.append((train.class_names[k], int(count_K[k]), _strip(train.images[chosen], SAMPLES)))
    title = "Samples of each class" if len(shown) == len(count_K) else f"Samples of the first {len(shown)} classes"
    return {"samples": rows, "samples_title": title}


def _strip(images_BCSS: Tensor, places: int = 0) -> str:
    """Pictures side by side with gaps, as wide as `places` of them."""
    if images_BCSS.shape[-1] > SIDE:
        images_BCSS = resize(images_BCSS, SIDE)
    pictures = (255 * rgb(images_BCSS)).round().astype(np.uint8)
    side = pictures.shape[1]
    gap = 0 if len(pictures) == 1 and not places else max(1, side // 12)
    canvas = np.zeros((side, max(len(pictures), places) * (side + gap) - gap, 4), np.uint8)
    for i, picture in enumerate(pictures):
        canvas[:, i * (side + gap) : i * (side + gap) + side] = np.dstack(
            [picture, np.full((side, side), 255, np.uint8)]
        )
    out = io.BytesIO()
    Image.fromarray(canvas).save(out, "PNG")
    return _uri(out.getvalue())


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()

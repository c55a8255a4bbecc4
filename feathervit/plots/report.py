"""The report of a run: one HTML page that asks nothing of any other file or server, its charts and images inside it.

The same charts and images are also written as PNGs of their own into a folder beside it. `report` writes both from a run
folder, `report_at_end` from what a run holds when it ends. What needs the images is left out, with a word, where the data
is gone. All names go through the template's escaping; charts show the probabilities of the weights without a temperature,
but where one is named.

Legend: B batch, C channels, S image side, K classes, N images, E experts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import Environment, StrictUndefined
from PIL import Image
from scipy.special import softmax
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from ..checkpoint import load_weights
from ..config import RunConfig, from_dict, to_dict
from ..data import DataSplits, ImageSet
from ..data.image import resize
from ..device import choose_device
from ..errors import DataError, FeatherVitError, RunFolderError
from ..evaluation.calibration import before_and_after, fit_temperature
from ..evaluation.findings import accuracy, limits, some_of
from ..evaluation.inference import accuracy_and_loss, logits
from ..files import make_folder, write_bytes
from ..models import Encoder, MaskedAutoencoder
from ..models.loading import load_model
from ..results import RunResult, read_result
from ..text import REPLACED
from . import charts, texts
from .reconstructions import reconstructions
from .routing import expert_use
from .subject import own_splits, some
from .tiles import png_bytes, rgb, tiles

NAME, FOLDER = "report.html", "report"
SAMPLES = 8  # of a class
CLASSES = 30  # that have samples
MISTAKES = 24
COUNTED = 256  # images by which the load of the experts is measured
SIDE = 96  # px, the most that an image is kept at


def report(folder: str | Path) -> Path:
    """Writes report.html and report/*.png into a finished run's folder, from what is in it and the data it was trained on.

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
    """Writes report.html and its PNGs of the model with the weights that were kept. Raises RunFolderError."""
    files: dict[str, bytes] = {}
    try:
        values = _values(folder, result, data, model, device, files)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunFolderError(f"{folder} holds a result that no report can be made of: {error!r}") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = texts.percent
    template = environment.from_string((resources.files(__package__) / NAME).read_text(encoding="utf-8"))
    page = template.render(result=result, notes=notes, **values)
    write_bytes(folder / NAME, page.encode("utf-8", REPLACED))  # file names need not be valid Unicode
    make_folder(folder / FOLDER)
    for path in (folder / FOLDER).glob("*.png"):  # of an earlier report, when there was more to be drawn
        if path.stem not in files:
            path.unlink()
    for name, png in files.items():
        write_bytes(folder / FOLDER / f"{name}.png", png)
    return folder / NAME


def _data(config: RunConfig, result: RunResult) -> tuple[DataSplits | None, list[str]]:
    """The data of the run, if it is still what it was, else None and why."""
    gone = "The images are left out, and what is made of them: "
    if config.data == "arrays":
        return None, [gone + "the data were arrays given from Python."]
    try:
        data = own_splits(config)
    except FeatherVitError as error:
        return None, [f"{gone}{error}."]
    if data.train.fingerprint() != result.data["fingerprint"]:
        return None, [f"{gone}{config.data} has changed since the run."]
    return data, []


def _values(
    folder: Path,
    result: RunResult,
    data: DataSplits | None,
    model: nn.Module,
    device: torch.device,
    files: dict[str, bytes],
) -> dict[str, Any]:
    """All that the template names; `files` takes the PNGs to be written, by name."""
    config = from_dict(RunConfig, result.config)
    pretraining = config.objective == "reconstruction"
    split = "test" if result.test else "val" if result.val else "train"
    images = getattr(data, split) if data is not None else None
    found = result.test or result.val
    weights = (folder / "best.safetensors").stat().st_size
    values = {
        "summary": list(_summary(result, data, model, config, device)),
        "title": f"{result.model} on {Path(result.data['name']).name}",
        "subtitle": f"{'Pre-training' if pretraining else 'Training'} in {folder.absolute().name}, recipe "
        f"{result.recipe or '(none)'}, seed {result.seed}: {len(result.epochs)} epochs",
        "facts": list(texts.facts(result, weights)),
        "figures": [(n, texts.figures(s)) for n in ("val", "test") if (s := getattr(result, n))],
        "figures_note": texts.figures_note(result, pretraining),
        "curves": list(_curves(result, pretraining, files)),
        "kept": (result.best or {}).get("epoch") if result.val else None,
        "split": split,
        "splits": texts.splits(folder),
        "data_note": f"{result.data['name']}: {result.data['classes']} classes, fingerprint {result.data['fingerprint']}"
        + (f"; {len(result.skipped)} unreadable images were left out" if result.skipped else ""),
        "changed": texts.changed_settings(config),
        "settings": texts.flat(to_dict(config)),
        "environment": texts.environment(result),
        "reconstructions": [],
        "confusion": None,
        "reliability": [],
        "classes": [],
        "mistakes": [],
        "mistakes_note": "",
        "load": None,
        "load_note": "",
        "samples": [],
        "samples_title": "",
    }
    if not pretraining and found:
        values["confusion"] = _chart(files, "confusion", charts.confusion(found["confusion"], found["class_names"]))
        values["classes"] = texts.classes(found, data)
    if images is None:
        return values
    if isinstance(model, MaskedAutoencoder):
        names = ("original", "masked", "reconstructed")
        rows = list(zip(names, reconstructions(model, some(images, SAMPLES).images, config), strict=True))
        values["reconstructions"] = [(name, _strip(row)) for name, row in rows]
        files["reconstructions"] = png_bytes(tiles([row for _, row in rows], names))
    elif found:
        z_NK = logits(model, images.images, config, device).numpy()
        z_val = None
        if data.val is not None:
            z_val = z_NK if images is data.val else logits(model, data.val.images, config, device).numpy()
        values["reliability"] = list(_reliability(z_NK, images, z_val, data.val, files))
        values["mistakes"], values["mistakes_note"] = _mistakes(softmax(z_NK, 1), images, files)
    values |= _load(model, images, config, split, files) | _samples(data.train, files)
    return values


def _summary(
    result: RunResult, data: DataSplits | None, model: nn.Module, config: RunConfig, device: torch.device
) -> Iterator[str]:
    """How good the model is and what limits it, in sentences."""
    if not result.finished:
        yield f"The run was stopped in epoch {len(result.epochs) + 1} of {config.epochs}; --resume goes on with it."
    if config.objective == "reconstruction":
        return
    if said := accuracy(result):
        yield f"{said}."
    if data is not None:
        top1, _ = accuracy_and_loss(model, some_of(data.train), config, device)
        found, _ = limits(result, data.train, top1)
        yield f"What limits it: {'; '.join(found)}." if found else "These figures show nothing that limits it."


def _curves(result: RunResult, pretraining: bool, files: dict[str, bytes]) -> Iterator[tuple[str, str, str]]:
    """(name, note, image) of each chart that the rows have something for."""
    rows, best = result.epochs, (result.best or {}).get("epoch") if result.val else None
    errors = {"training, masked": "train_masked_mse", "training, visible": "train_visible_mse"}
    errors["validation, masked"] = "val_masked_mse"
    losses = {"training": "train_loss", "training, cross-entropy": "train_cross_entropy"}
    losses |= {"training, distillation": "train_distillation", "validation, cross-entropy": "val_loss"}
    accuracy = {"training": "train_top1", "validation": "val_top1"}
    balance = {"training": "train_balance"} if any(row.get("train_balance") for row in rows) else {}
    log = {"log": pretraining and len(rows) > 1}
    scale = "Both axes are logarithmic. " if log["log"] else ""
    seen = "Training is on augmented images, while the weights change"
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
            yield name, note, _chart(files, name.lower().replace(" ", "-"), drawn)


def _reliability(
    z_NK: np.ndarray, images: ImageSet, z_val: np.ndarray | None, val: ImageSet | None, files: dict[str, bytes]
) -> Iterator[dict[str, str]]:
    """The diagrams of the images with logits `z_NK`: as they are, and at the temperature that fits those of `val`."""
    labels_N, split = images.labels.numpy(), images.name.rpartition("/")[2]
    temperature, note = None, ""
    if val is not None:
        try:
            temperature = fit_temperature(z_val, val.labels.numpy())
        except DataError as error:
            note = f" No temperature was fitted: {error}."
    found = before_and_after(z_NK, images, temperature or 1.0)
    yield {
        "name": "As the model says it",
        "uri": _chart(files, "reliability", charts.reliability(softmax(z_NK, 1), labels_N)),
        "note": f"{_calibration(found['before'])} of the {len(images)} {split} images.{note}",
    }
    if temperature is not None:
        same = ", the same ones" if val is images else ""
        p_NK = softmax(z_NK / temperature, 1)
        yield {
            "name": f"At a temperature of {temperature:.2f}",
            "uri": _chart(files, "reliability-calibrated", charts.reliability(p_NK, labels_N)),
            "note": f"{_calibration(found['after'])} of the same images, the logits divided by {temperature:.2f}, which fits "
            f"the {len(val)} val images best{same}; feathervit calibrate stores it with the weights.",
        }


def _calibration(found: dict[str, float]) -> str:
    return f"Calibration error {100 * found['ece']:.1f} %, NLL {found['nll']:.3f}"


# ---------------------------------------------------------------------------------------------------------------------
# Images


def _mistakes(p_NK: np.ndarray, images: ImageSet, files: dict[str, bytes]) -> tuple[list[dict[str, Any]], str]:
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
    if rows:
        captions = [f"{row['true']}, taken for {row['guess']} ({texts.percent(row['confidence'])})" for row in rows]
        shown = _small(images.images[torch.from_numpy(worst)])
        files["mistakes"] = png_bytes(tiles(shown.split(1), captions))
    return rows, f"Of {len(wrong)} mistakes among {len(labels)} images, those that the model was surest of."


def _load(model: nn.Module, images: ImageSet, config: RunConfig, split: str, files: dict[str, bytes]) -> dict[str, Any]:
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    if not isinstance(encoder, Encoder) or not any(getattr(layer.ffn, "gate", None) for layer in encoder.blocks):
        return {}
    part = some(images, COUNTED)
    together = ImageSet(part.images, torch.zeros_like(part.labels), ("all",), part.sources, part.name)
    use = {layer: share_KE[0] for layer, share_KE in expert_use(encoder, together, config).items()}
    takes = f"a token takes {config.arch.feedforward.top_k}"
    note = f"Share of the tokens of {len(part)} {split} images that take an expert; {takes}."
    return {"load": _chart(files, "experts", charts.expert_load(use)), "load_note": note}


def _samples(train: ImageSet, files: dict[str, bytes]) -> dict[str, Any]:
    """Strips of evenly spaced training images: of each class, or of all where there are no labels."""
    count_K = np.bincount(train.labels.numpy(), minlength=len(train.class_names))
    if len(count_K) < 2:
        chosen = _small(some(train, SAMPLES).images)
        files["samples"] = png_bytes(tiles([chosen]))
        return {"samples": [("training images", None, _strip(chosen))], "samples_title": "Samples"}
    shown = [k for k in range(len(count_K)) if count_K[k]][:CLASSES]
    rows = []
    for k in shown:
        own = torch.nonzero(train.labels == k).flatten()
        chosen = own[torch.linspace(0, len(own) - 1, min(SAMPLES, len(own))).round().long()]
        rows.append((train.class_names[k], int(count_K[k]), _small(train.images[chosen])))
    files["samples"] = png_bytes(tiles([own for _, _, own in rows], [name for name, _, _ in rows]))
    title = "Samples of each class" if len(shown) == len(count_K) else f"Samples of the first {len(shown)} classes"
    strips = [(name, count, _strip(own, SAMPLES)) for name, count, own in rows]
    return {"samples": strips, "samples_title": title}


def _small(images_BCRR: Tensor) -> Tensor:
    """Images as they are, or at `SIDE` px where they are larger."""
    return resize(images_BCRR, SIDE) if images_BCRR.shape[-1] > SIDE else images_BCRR


def _strip(images_BCSS: Tensor, places: int = 0) -> str:
    """Images side by side with gaps, as wide as `places` of them."""
    images_B4SS = F.pad(rgb(_small(images_BCSS)), (0, 0, 0, 0, 0, 1), value=255)  # with an alpha channel
    images_B4SS = F.pad(images_B4SS, (0, 0, 0, 0, 0, 0, 0, max(0, places - len(images_B4SS))))
    side, count = images_B4SS.shape[-1], len(images_B4SS)
    gap = max(1, side // 12)
    row_4HW = make_grid(images_B4SS, nrow=count, padding=gap)
    return _uri(png_bytes(to_pil_image(row_4HW if count == 1 else row_4HW[:, gap : gap + side, gap:-gap])))


def _chart(files: dict[str, bytes], name: str, png: bytes) -> str:
    """The address of a chart in the page; the file of that name gets the white ground that the page gives it."""
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    ground = Image.new("RGBA", drawn.size, "white")
    ground.alpha_composite(drawn)
    files[name] = png_bytes(ground.convert("RGB"))
    return _uri(png)


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()

"""Writes the texts and tables of a report, from the result, configuration and splits of a run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import weights_digest
from ..config import RunConfig, changed, resolve
from ..data import DataSplits
from ..evaluation.confusion import worst_first
from ..evaluation.metrics import Metrics
from ..recipes import RECIPES
from ..results import RunResult, read_splits

FIGURES = {
    "n": "images",
    "top1": "top-1",
    "top5": "top-{k}",
    "balanced_accuracy": "macro accuracy",
    "nll": "NLL",
    "ece": "calibration error",
    "masked_mse": "masked MSE",
    "visible_mse": "visible MSE",
}
EXACT = {"n", "nll", "masked_mse", "visible_mse"}  # metrics that are not shares


def facts(result: RunResult, weights: int) -> Iterator[tuple[str, str]]:
    """Yields name and value of the facts at the top. `weights`: size of the weights in bytes."""
    for split in ("test", "val"):
        split_metrics = getattr(result, split)
        if split_metrics and "top1" in split_metrics:
            yield f"{split} top-1", percent(split_metrics["top1"])
        elif split_metrics:
            yield f"{split} masked MSE", f"{split_metrics['masked_mse']:.4f}"
    yield "parameters", f"{result.parameters:,}"
    yield "weights", f"{weights / 1e6:.2f} MB"
    if result.minutes is not None:
        yield "training time", f"{60 * result.minutes:.0f} s" if result.minutes < 2 else f"{result.minutes:.1f} min"
    if result.images_per_s is not None:
        yield "images per second", f"{result.images_per_s:,.0f}"


def figures(found: dict[str, Any]) -> dict[str, str]:
    """Returns the metrics of a split by readable names."""
    return {
        name.format(k=found.get("top5_k", 5)): (
            str(found[key]) if key == "n" else f"{found[key]:.4f}" if key in EXACT else percent(found[key])
        )
        for key, name in FIGURES.items()
        if key in found
    }


def figures_note(result: RunResult, pretraining: bool) -> str:
    """Returns a note on the evaluated weights."""
    kept = f"Of the weights of epoch {result.best['epoch']}" if result.best else "Of the kept weights"
    last = not result.val or result.config["split"]["keep"] == "last"
    chosen = ", the last" if last else ", chosen on val"
    what = "" if pretraining else ". NLL: mean negative log-likelihood in nats"
    return f"{kept}{chosen}{what}."


def metrics(found: dict[str, Any]) -> Metrics:
    """Converts the metrics of a split in a result to `Metrics`. Raises KeyError for a missing field."""
    return Metrics(**{field.name: found[field.name] for field in fields(Metrics)})


def stopped(result: RunResult, config: RunConfig) -> str:
    """Returns a note on the epoch at which a run stopped, and how to resume it."""
    return (
        f"Unfinished: the run was stopped after epoch {len(result.epochs)} of {config.epochs}; --resume continues it."
    )


def classes(found: Metrics, data: DataSplits | None) -> list[dict[str, Any]]:
    """Returns the rows of the table of classes, least recognised first, from the metrics of a split."""
    counts = np.asarray(found.confusion)
    train = None
    if data is not None:
        train = np.bincount(data.train.labels.numpy(), minlength=len(counts)).tolist()
    rows = []
    for name, share, number, other, times in worst_first(found):
        i = found.class_names.index(name)
        named = counts[:, i].sum()
        rows.append(
            {
                "name": name,
                "train": train[i] if train else None,
                "count": number,
                "recall": share,
                "precision": counts[i, i] / named if named else None,
                "mistaken": f"{other} ({times})" if times else "",
            }
        )
    return rows


def exports(folder: Path) -> list[dict[str, str]]:
    """Returns the finished exports beside the weights: form, size, latency, agreement. Skips unreadable exports.

    Marks exports of other weights, for example of an earlier training or from before a calibration.
    """
    rows, weights = [], weights_digest(folder)
    for path in sorted(folder.glob("export-*/export.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if not record["finished"]:
                continue
            form = record.get("precision", record["to"])
            times = {"float32": "onnx"}.get(form, form)
            ms = record.get("latency_ms", {}).get(times)
            others = record.get("weights", weights) != weights
            rows.append(
                {
                    "to": record["to"],
                    "place": path.parent.name + ", of other weights" * others,
                    "size": f"{record['bytes'] / 1e6:.2f} MB",
                    "latency": f"{ms:.2f} ms" if ms is not None else "",
                    "agreement": f"{percent(record['agreement'])} of {record['n']}",
                    "top1": percent(record["top1"]),
                    "passed": "yes" if record["passed"] else "no",
                }
            )
    return rows


def splits(folder: Path) -> list[tuple[str, int, str]]:
    """Returns name, images and origin of each split. Raises RunFolderError."""
    return [(name, part["count"], part["how"]) for name, part in read_splits(folder / "splits.json").items()]


def changed_settings(config: RunConfig) -> list[tuple[str, str]]:
    """Returns the settings that differ from the recipe for this model and data: dotted name, value."""
    base = RECIPES[config.recipe].config if config.recipe in RECIPES else RunConfig()
    if base.model != config.model:
        base = replace(base, model=config.model, arch=None)
    base = resolve(replace(base, recipe=config.recipe, data=config.data))
    return [(name, _text(now)) for name, (_, now) in changed(base, config).items() if not name.endswith(".kind")]


def flat(value: Any, where: str = "") -> list[tuple[str, str]]:
    """Returns all fields of a configuration in JSON form: dotted name, value."""
    if not isinstance(value, dict):
        return [(where, _text(value))]
    return [row for key, inner in value.items() for row in flat(inner, f"{where}.{key}" if where else key)]


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return json.dumps(value) if not isinstance(value, str) else value or "(empty)"


def environment(result: RunResult) -> list[tuple[str, str]]:
    """Returns the environment of a run: name, value."""
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


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"

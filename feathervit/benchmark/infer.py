"""Measures latency, throughput, memory and size of our models and their peers, in several forms.

Images (normalised) and weights are random, which does not change the amount of work. All models and forms take turns, one
image each, so that other programs slow down all of them equally. The results are medians. The forms in PyTorch are "eager" and
"compiled" (torch.compile). The forms in ONNX Runtime are "plain" (PyTorch's exporter without our rewriting), "onnx" (the file
written by `export`) and "int8" (the fastest method of `export`; its accuracy is not checked here). A form that a model does not
support is omitted, with the reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..device import use_threads
from ..export.verify import check_extra, race, runner, session
from ..files import write_bytes
from ..models.cost import cost
from ..results import machine
from .peers import build

FORMS = ("eager", "compiled", "plain", "onnx", "int8")
BATCH = 32
CLASSES = 100


def run(
    models: Sequence[str],
    img_size: int,
    patch_size: int | None = None,
    forms: Sequence[str] = FORMS,
    threads: Sequence[int] = (1, 2),
    rounds: int = 30,
) -> dict[str, Any]:
    """Measures `models` (named as in `peers`) and returns JSON-ready results.

    - "latency_ms": form -> threads -> median milliseconds of a batch of one.
    - "images_per_s": form -> images per second in batches of 32, with the most threads.
    - "peak_mb": form -> peak memory of a separate process with one thread.
    - "bytes": form -> size of the file.
    - "absent": missing measurement -> reason.

    Raises UnknownNameError and ConfigError.
    """
    if onnx := set(forms) - {"eager", "compiled"}:
        check_extra(f"the form {min(onnx)}")
    threads = sorted(set(threads))
    pixels = np.random.default_rng(0).standard_normal((BATCH, 3, img_size, img_size), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        rows = [_row(name, img_size, patch_size, forms, Path(folder), pixels) for name in models]
        for number in threads:
            for (i, form), ms in _race(rows, pixels[:1], number, rounds).items():
                rows[i]["latency_ms"].setdefault(form, {})[str(number)] = ms
        for (i, form), ms in _race(rows, pixels, threads[-1], max(5, rounds // 10)).items():
            rows[i]["images_per_s"][form] = 1e3 * BATCH / ms
    return {
        "img_size": img_size,
        "threads": threads,
        "batch": BATCH,
        "rounds": rounds,
        "rows": [{key: value for key, value in row.items() if key != "parts"} for row in rows],
        "torch": torch.__version__,
        "onnxruntime": sys.modules["onnxruntime"].__version__ if onnx else None,
        "machine": machine(),
    }


def table(found: dict[str, Any]) -> str:
    """Formats the results of `run` as text."""
    lines = [
        f"{found['machine']['cpu']}; {found['img_size']} px; medians of {found['rounds']}, taking turns; torch "
        f"{found['torch']}" + (f", ONNX Runtime {found['onnxruntime']}" if found["onnxruntime"] else ""),
        f"{'model':<32}{'form':<10}{'parameters':>12}{'MMACs':>8}{'MB':>8}"
        + "".join(f"{f'ms, {n} thr.':>13}" for n in found["threads"])
        + f"{'images/s':>11}{'peak MB':>9}",
    ]
    for row in found["rows"]:
        for form, latency in row["latency_ms"].items():
            size, peak = row["bytes"].get(form), row["peak_mb"].get(form)
            lines.append(
                f"{row['model']:<32}{form:<10}{row['parameters']:>12,}{row['macs'] / 1e6:>8.1f}"
                f"{'' if size is None else f'{size / 1e6:.3f}':>8}"
                + "".join(f"{latency[str(n)]:>13.3f}" for n in found["threads"])
                + f"{row['images_per_s'][form]:>11,.0f}{'' if peak is None else f'{peak:,.0f}':>9}"
            )
        lines += [f"{row['model']:<32}no {what}: {why}" for what, why in row["absent"].items()]
    return "\n".join(lines)


def chart(found: dict[str, Any], path: Path) -> None:
    """Draws the latency of a batch of one with the fewest threads as a PNG, with one group of bars per model."""
    from ..plots.figures import new_figure, png

    rows, number = found["rows"], str(found["threads"][0])
    forms = [form for form in FORMS if any(form in row["latency_ms"] for row in rows)]
    colours = dict(zip(FORMS, ("#999999", "#cc79a7", "#e69f00", "#0072b2", "#009e73"), strict=True))
    figure = new_figure(8, 1.2 + 0.22 * len(rows) * (len(forms) + 1))
    axes = figure.add_subplot()
    for k, form in enumerate(forms):
        have = [i for i, row in enumerate(rows) if form in row["latency_ms"]]
        places = [i * (len(forms) + 1) + k for i in have]
        values = [rows[i]["latency_ms"][form][number] for i in have]
        bars = axes.barh(places, values, height=0.85, label=form, color=colours[form])
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7)
    axes.set_yticks([i * (len(forms) + 1) + (len(forms) - 1) / 2 for i in range(len(rows))], [r["model"] for r in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds per image of {found['img_size']} px, {number} thread, {found['machine']['cpu']}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    write_bytes(path, png(figure, 150))


def _row(
    name: str, img_size: int, patch_size: int | None, forms: Sequence[str], folder: Path, pixels: np.ndarray
) -> dict[str, Any]:
    settings = {"name": name, "img_size": img_size, "patch_size": patch_size, "num_classes": CLASSES}
    model = build(**settings)
    counted = cost(model, img_size)
    parts: dict[str, Any] = {}  # form -> its model or file
    absent: dict[str, str] = {}
    measured = {form: [form, json.dumps(settings)] for form in ("eager", "compiled") if form in forms}
    if "eager" in forms:
        parts["eager"] = model
    if "compiled" in forms:
        parts["compiled"] = torch.compile(model)
        try:
            parts["compiled"](torch.from_numpy(pixels[:1]))
        except Exception as error:  # no C++ compiler, or an unsupported operator
            del parts["compiled"], measured["compiled"]
            absent["compiled"] = " ".join(str(error).split())[:200]
    files, method = _files(name, model, img_size, forms, pixels)
    if "int8" in forms and method is None:
        absent["int8"] = "every method keeps most of its weights in floating point"
    for form, data in files.items():
        parts[form] = data
        path = folder / f"{name.replace(':', '-')}.{form}.onnx"
        path.write_bytes(data)
        measured[form] = [str(path)]
    peaks = {}
    for form, arguments in measured.items():
        try:
            peaks[form] = _peak_mb(arguments)
        except subprocess.CalledProcessError as error:
            absent[f"peak memory of {form}"] = (error.stderr.strip().splitlines() or [str(error)])[-1][:200]
    return {
        "model": name,
        "parameters": counted.parameters,
        "macs": counted.macs,
        "tokens": counted.tokens,
        "int8_method": method,
        "bytes": {form: len(data) for form, data in files.items()},
        "peak_mb": peaks,
        "absent": absent,
        "latency_ms": {},
        "images_per_s": {},
        "parts": {form: parts[form] for form in forms if form in parts},
    }


def _files(
    name: str, model: torch.nn.Module, img_size: int, forms: Sequence[str], pixels: np.ndarray
) -> tuple[dict[str, bytes], str | None]:
    """Returns the files of the ONNX forms, and the fastest method for int8."""
    if not set(forms) & {"plain", "onnx", "int8"}:
        return {}, None
    from ..export.int8 import float_share, methods, quantise
    from ..export.onnx import core, finish

    facts = {"model": name, "feathervit": "benchmark", "img_size": img_size, "channels": 3}

    def packed(proto) -> bytes:
        return finish(proto, facts, None).SerializeToString()

    files, method = {}, None
    if "plain" in forms:
        files["plain"] = packed(core(model, img_size, 3, rewrite=False))
    if "onnx" in forms or "int8" in forms:
        proto = core(model, img_size, 3)
    if "onnx" in forms:
        files["onnx"] = packed(proto)
    if "int8" in forms:
        small = {m: quantise(proto, m, pixels) for m in methods(proto)}
        ready = {m: packed(p) for m, p in small.items() if float_share(p) < 0.5}
        if ready:
            times = race({m: runner(session(data), pixels[:1]) for m, data in ready.items()})
            method = min(times, key=times.__getitem__)
            files["int8"] = ready[method]
    return files, method


def _race(rows: list[dict[str, Any]], pixels: np.ndarray, threads: int, rounds: int) -> dict[tuple[int, str], float]:
    """Returns (row, form) -> median milliseconds of a batch."""
    calls = {(i, form): _call(row, form, pixels, threads) for i, row in enumerate(rows) for form in row["parts"]}
    with use_threads(threads):
        return race(calls, rounds)


def _call(row: dict[str, Any], form: str, pixels: np.ndarray, threads: int) -> Callable[[], object]:
    part = row["parts"][form]
    if form in ("eager", "compiled"):
        x = torch.from_numpy(pixels)
        return lambda: part(x)
    return runner(session(part, threads), pixels)


def _peak_mb(arguments: list[str]) -> float:
    command = [sys.executable, "-m", "feathervit.benchmark.memory", *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

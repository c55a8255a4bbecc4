"""What it costs to use a model: latency, throughput, memory, size, of ours and their peers in several forms.

Measured on random images that are normalised already, with random weights: neither changes what is computed. All models and
forms take turns, one image each, so that whatever else the machine does falls on all alike; medians. Forms: "eager" PyTorch,
"compiled" (torch.compile), "plain" (PyTorch's ONNX exporter as it is), "onnx" (what `export` writes), "int8" (the quicker of
`export`'s two ways; accuracy is not looked at here).
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
import onnxruntime
import torch

from ..errors import ConfigError
from ..export.int8 import METHODS, float_share, quantise
from ..export.onnx import core, finish
from ..export.verify import race, runner, session
from ..results import commit, machine
from .cost import cost
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
    """Figures of `models` (see `peers`), JSON-ready. "latency_ms": form -> threads -> median milliseconds of a batch of one;
    "images_per_s": form -> of batches of 32 with the most threads; "peak_mb": form -> of a process of its own, one thread;
    "bytes": form -> of the file. Raises UnknownNameError, ConfigError."""
    if unknown := sorted(set(forms) - set(FORMS)):
        raise ConfigError(f"no form {unknown[0]!r}; there are {', '.join(FORMS)}")
    pixels = np.random.default_rng(0).standard_normal((BATCH, 3, img_size, img_size), dtype=np.float32)
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        rows = [_row(name, img_size, patch_size, forms, Path(folder), pixels) for name in models]
        try:
            for number in threads:
                torch.set_num_threads(number)
                one = {(i, form): _call(row, form, pixels[:1], number) for i, row in enumerate(rows) for form in forms}
                for (i, form), ms in race(one, rounds).items():
                    rows[i]["latency_ms"].setdefault(form, {})[str(number)] = ms
            many = {(i, form): _call(row, form, pixels, number) for i, row in enumerate(rows) for form in forms}
            for (i, form), ms in race(many, 5).items():
                rows[i]["images_per_s"][form] = 1e3 * BATCH / ms
        finally:
            torch.set_num_threads(before)
    return {
        "img_size": img_size,
        "threads": list(threads),
        "batch": BATCH,
        "rounds": rounds,
        "rows": [{key: value for key, value in row.items() if key != "parts"} for row in rows],
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "commit": commit(),
        "machine": machine(),
    }


def table(found: dict[str, Any]) -> str:
    """The figures of `run` as text."""
    lines = [
        f"{found['machine']['cpu']}; {found['img_size']} px; medians of {found['rounds']}, taking turns; torch "
        f"{found['torch']}, ONNX Runtime {found['onnxruntime']}",
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
    return "\n".join(lines)


def chart(found: dict[str, Any], path: Path) -> None:
    """Latency of a batch of one on the fewest threads, each model a group of bars, as a PNG."""
    from matplotlib.figure import Figure

    rows, number = found["rows"], str(found["threads"][0])
    forms = list(rows[0]["latency_ms"])
    colours = dict(zip(FORMS, ("#999999", "#cc79a7", "#e69f00", "#0072b2", "#009e73"), strict=True))
    figure = Figure(figsize=(8, 1.2 + 0.22 * len(rows) * (len(forms) + 1)), layout="constrained")
    axes = figure.add_subplot()
    for k, form in enumerate(forms):
        places = [i * (len(forms) + 1) + k for i in range(len(rows))]
        values = [row["latency_ms"][form][number] for row in rows]
        bars = axes.barh(places, values, height=0.85, label=form, color=colours[form])
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7)
    axes.set_yticks([i * (len(forms) + 1) + (len(forms) - 1) / 2 for i in range(len(rows))], [r["model"] for r in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds an image of {found['img_size']} px, {number} thread, {found['machine']['cpu']}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _row(
    name: str, img_size: int, patch_size: int | None, forms: Sequence[str], folder: Path, pixels: np.ndarray
) -> dict[str, Any]:
    words = {"name": name, "img_size": img_size, "patch_size": patch_size, "num_classes": CLASSES}
    model = build(**words)
    counted = cost(model, img_size)
    facts = {"model": name, "feathervit": "benchmark", "img_size": img_size, "channels": 3}
    parts: dict[str, Any] = {"model": model}
    if "compiled" in forms:
        parts["compiled"] = torch.compile(model)
    graphs = {}
    if "plain" in forms:
        graphs["plain"] = core(model, img_size, 3, rewrite=False)
    if "onnx" in forms or "int8" in forms:
        graphs["onnx"] = core(model, img_size, 3)
    method = None
    if "int8" in forms:
        small = {m: quantise(graphs["onnx"], m, pixels) for m in METHODS}
        ready = {m: finish(p, facts, None).SerializeToString() for m, p in small.items() if float_share(p) < 0.5}
        times = race({m: runner(session(data), pixels[:1]) for m, data in ready.items()})
        method = min(times, key=times.__getitem__)
        graphs["int8"] = small[method]
    files: dict[str, Path] = {}
    for form, proto in graphs.items():
        if form in forms:
            files[form] = folder / f"{name.replace(':', '-')}.{form}.onnx"
            files[form].write_bytes(finish(proto, facts, None).SerializeToString())
    measured = {form: [str(path)] for form, path in files.items()}
    if "eager" in forms:
        measured["eager"] = ["eager", json.dumps(words)]
    return {
        "model": name,
        "parameters": counted.parameters,
        "macs": counted.macs,
        "tokens": counted.tokens,
        "int8_method": method,
        "bytes": {form: path.stat().st_size for form, path in files.items()},
        "peak_mb": {form: _peak_mb(arguments) for form, arguments in measured.items()},
        "latency_ms": {},
        "images_per_s": {},
        "parts": parts | {form: path.read_bytes() for form, path in files.items()},
    }


def _call(row: dict[str, Any], form: str, pixels: np.ndarray, threads: int) -> Callable[[], object]:
    parts = row["parts"]
    if form in ("eager", "compiled"):
        model, x = parts["model" if form == "eager" else "compiled"], torch.from_numpy(pixels)
        return lambda: model(x)
    return runner(session(parts[form], threads), pixels)


def _peak_mb(arguments: list[str]) -> float:
    command = [sys.executable, "-m", "feathervit.benchmark.memory", *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

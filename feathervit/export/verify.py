"""Whether an exported model does what the model does: on real images, and how long it takes.

Legend: N images, K classes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import CheckpointError

ROUNDS = 100
Key = TypeVar("Key")


def session(model: bytes | str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU. Raises CheckpointError for a file that is missing or no ONNX model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of exceptions for each of its status codes, none public
        name = "the exported model" if isinstance(model, bytes) else model
        raise CheckpointError(f"ONNX Runtime cannot load {name}: {' '.join(str(error).split())[:300]}") from error


def probabilities(run: onnxruntime.InferenceSession, images: NDArray, batch: int = 50) -> NDArray:
    """Class probabilities [N, K] of `images` as the graph's input takes them."""
    name = run.get_inputs()[0].name
    return np.concatenate(
        [run.run(["probabilities"], {name: images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    )


def compare(ours_NK: NDArray, theirs_NK: NDArray, labels_N: NDArray) -> dict[str, float]:
    """ "agreement": share of images with the same most probable class; "largest_difference" of any probability; the share of
    images that each recognises: "top1" the exported model, "top1_before" the model it was made from."""
    guess_N, before_N = theirs_NK.argmax(1), ours_NK.argmax(1)
    return {
        "n": len(labels_N),
        "agreement": float((guess_N == before_N).mean()),
        "largest_difference": float(np.abs(ours_NK - theirs_NK).max()),
        "top1": float((guess_N == labels_N).mean()),
        "top1_before": float((before_N == labels_N).mean()),
    }


def race(runs: Mapping[Key, Callable[[], object]], rounds: int = ROUNDS) -> dict[Key, float]:
    """Median milliseconds of each; they take turns, so that whatever else the machine does falls on all alike."""
    times: dict[Key, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= 3:  # the first warm up
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(column) for name, column in times.items()}


def runner(run: onnxruntime.InferenceSession, image: NDArray) -> Callable[[], object]:
    """A call that computes one batch, for `race`."""
    feed = {run.get_inputs()[0].name: image}
    return lambda: run.run(["probabilities"], feed)

"""Compares an exported model with the original on real images, and times both.

ONNX Runtime is imported on first use, because three of the six targets do not need it.

Legend: N images, K classes.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import onnxruntime

MIN_AGREEMENT = 0.99  # share of images for which an export in 32 bits must predict the class of the model
LEVEL = 0.05  # level of McNemar's test: 8 bits are rejected if they are less accurate at this level
ROUNDS = 100
EXTRAS = {"export": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch", "torchao")}
Key = TypeVar("Key")


def check_extra(what: str, extra: str = "export") -> None:
    """Raises ConfigError if a package of the extra is missing."""
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}: pip install 'feathervit[{extra}]'")


def session(model: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """Returns an ONNX Runtime session on the CPU. Raises CheckpointError for a model that cannot be loaded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a private exception class per status code
        why = " ".join(str(error).split())[:300]
        raise CheckpointError(f"ONNX Runtime cannot load the exported model: {why}") from error


def probabilities(run: onnxruntime.InferenceSession, images: NDArray, batch: int = 50) -> NDArray:
    """Returns class probabilities [N, K] of `images`, given in the format of the graph input.

    For a graph with a fixed batch size, the last batch is padded with its last image.
    """
    batch = fixed_batch(run) or batch
    call = [runner(run, images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate([one()[0] for one in call])[: len(images)]


def fixed_batch(run: onnxruntime.InferenceSession) -> int | None:
    """Returns the fixed batch size of the graph, or None."""
    size = run.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else None


def agreement(ours_NK: NDArray, theirs_NK: NDArray) -> dict[str, float]:
    """Returns "agreement", the share of images with the same top class, and "largest_difference" of all probabilities."""
    return {
        "agreement": float((theirs_NK.argmax(1) == ours_NK.argmax(1)).mean()),
        "largest_difference": float(np.abs(ours_NK - theirs_NK).max()),
    }


def compare(ours_NK: NDArray, theirs_NK: NDArray, labels_N: NDArray) -> dict[str, float]:
    """Returns `agreement` and the accuracies: "top1" of the exported model, "top1_before" of the original.

    "lost": number of images that only the original recognises. "won": number that only the exported model recognises.
    """
    before_N, after_N = ours_NK.argmax(1) == labels_N, theirs_NK.argmax(1) == labels_N
    return {
        "n": len(labels_N),
        **agreement(ours_NK, theirs_NK),
        "top1": float(after_N.mean()),
        "top1_before": float(before_N.mean()),
        "lost": int((before_N & ~after_N).sum()),
        "won": int((after_N & ~before_N).sum()),
    }


def agrees(found: Mapping[str, Any], least: float) -> bool:
    """Returns whether each share of agreement is at least `least`: of `compare`, `Job.on_originals` and `Job.routing`."""
    shares = (found["agreement"], found.get("originals", found)["agreement"], found.get("same_expert", 1.0))
    return min(shares) >= least


def mcnemar(lost: int, won: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test (1947) for equal probabilities of lost and won images."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def as_accurate(found: Mapping[str, Any]) -> bool:
    """Returns whether 8 bits keep the accuracy: at most one image is lost on balance, or McNemar's test finds no loss.

    The level of the test is LEVEL. On image files, the agreement must be as high, with a tolerance of one image.
    """
    lost, won = found["lost"], found["won"]
    keeps = lost - won <= 1 or mcnemar(lost, won) >= LEVEL
    files = found.get("originals")
    return keeps and (not files or files["agreement"] + 1 / files["n"] >= min(MIN_AGREEMENT, found["agreement"]))


def passes(found: Mapping[str, Any], least: float | None) -> bool:
    """Returns `agrees` if a share is given, else `as_accurate`."""
    return as_accurate(found) if least is None else agrees(found, least)


def race(runs: Mapping[Key, Callable[[], object]], rounds: int = ROUNDS) -> dict[Key, float]:
    """Measures the median milliseconds of each call. Calls alternate, so that other programs affect them equally."""
    times: dict[Key, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= 3:  # the first rounds warm up
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(column) for name, column in times.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses progress messages and warnings of exporters and quantisers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def runner(run: onnxruntime.InferenceSession, images: NDArray) -> Callable[[], list[NDArray]]:
    """Returns a call that computes one batch, for `race`. Pads `images` to a fixed batch size with the last image."""
    missing = (fixed_batch(run) or 0) - len(images)
    if missing > 0:
        images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
    feed = {run.get_inputs()[0].name: images}
    return lambda: run.run(["probabilities"], feed)

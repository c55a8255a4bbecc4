"""The charts of a report, each as the bytes of a PNG without background: dark on nothing, to be inverted on a dark page.

Legend: K classes, N images, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter

from ..evaluation.metrics import ECE_BINS
from ..text import shown
from .figures import COLOURS, new_figure, png

DPI = 144
FEW = 20  # classes that can be named beside a matrix


def _drawn(figure: Figure) -> bytes:
    return png(figure, DPI, transparent=True)


def _plain(axes: Any, x: str, y: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def curves(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    what: str,
    best: int | None = None,
    log: bool = False,
    percent: bool = False,
) -> bytes | None:
    """Columns of metrics.csv over epochs, each under its name; None where no row has any of them. `best`: the kept epoch."""
    there = {name: column for name, column in columns.items() if any(row.get(column) is not None for row in rows)}
    if not there:
        return None
    figure = new_figure(5, 3.1)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in rows]
    for colour, (name, column) in zip(COLOURS, there.items(), strict=False):
        values = [np.nan if row.get(column) is None else row[column] for row in rows]
        axes.plot(epochs, values, color=colour, label=name, marker="o" if len(rows) < 30 else "", markersize=3.5)
    if best is not None:
        axes.axvline(best, color="0.4", linestyle=":", linewidth=1)
    _plain(axes, "epoch", what)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain = StrMethodFormatter("{x:g}")
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(plain if high < 8 * low else NullFormatter())  # there may be no power of ten
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if len(there) > 1:
        axes.legend(frameon=False, fontsize=9)
    return _drawn(figure)


def confusion(counts_KK: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
    """Rows are the true classes, columns what they were taken for; shaded by the share of the row."""
    counts = np.asarray(counts_KK)
    share = counts / counts.sum(1, keepdims=True).clip(1)
    few = len(counts) <= FEW
    side = min(2.0 + 0.32 * len(counts), 7.0)
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if few:
        for i, j in np.argwhere(counts > 0):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color=colour)
        names = [name if len(name) <= 16 else name[:15] + "…" for name in map(shown, class_names)]
        turned = 0 if max(map(len, names)) <= 2 else 90
        axes.set_xticks(range(len(names)), names, fontsize=8, rotation=turned, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        axes.tick_params(length=0)
    axes.set_xlabel("taken for" + ("" if few else " (number of the class)"))
    axes.set_ylabel("true class" + ("" if few else " (number)"))
    return _drawn(figure)


def reliability(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> bytes:
    """Accuracy over confidence in bins of equal width, as the calibration error takes them; below, how many fall in each."""
    confidence = probabilities_NK.max(1).clip(0, 1)
    mean, accuracy, count = bins(confidence, probabilities_NK.argmax(1) == labels_N)
    figure = new_figure(4.6, 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, label="what it says is what it gets")
    above.vlines(
        mean, np.minimum(mean, accuracy), np.maximum(mean, accuracy), color=COLOURS[5], alpha=0.35, linewidth=5
    )
    above.plot(mean, accuracy, color=COLOURS[0], marker="o", markersize=4, label="this model")
    above.set_ylim(-0.02, 1.02)
    _plain(above, "", "share that was right")
    above.legend(frameon=False, fontsize=9)
    middle = (np.arange(ECE_BINS) + 0.5) / ECE_BINS
    below.bar(middle, count, width=0.9 / ECE_BINS, color=COLOURS[0])
    below.set_xlim(0, 1)
    _plain(below, "confidence", "images")
    return _drawn(figure)


def bins(confidence_N: np.ndarray, correct_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence and accuracy of the bins (b / B, (b + 1) / B] that hold something, and the count of each of the B."""
    which_N = np.clip(np.ceil(confidence_N * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    count = np.bincount(which_N, minlength=ECE_BINS)
    held = count > 0
    mean = np.bincount(which_N, confidence_N, ECE_BINS)[held] / count[held]
    return mean, np.bincount(which_N, correct_N, ECE_BINS)[held] / count[held], count


def expert_load(use: Mapping[int, np.ndarray]) -> bytes:
    """Layers downwards, experts to the right: the share of all tokens that take an expert; `use`: layer -> [E]."""
    table = np.full((len(use), max(map(len, use.values()))), np.nan)
    for row, share_E in enumerate(use.values()):
        table[row, : len(share_E)] = share_E
    figure = new_figure(1.6 + 0.75 * table.shape[1], 1.1 + 0.32 * len(table))
    axes = figure.subplots()
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for i, j in np.argwhere(~np.isnan(table)):
        starved = table[i, j] < 0.01
        colour = "#D55E00" if starved else "white" if table[i, j] > 0.5 else "black"
        weight = "bold" if starved else "normal"
        text = f"{100 * table[i, j]:.{1 if starved else 0}f} %"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour, weight=weight)
    axes.set_xticks(range(table.shape[1]), range(1, 1 + table.shape[1]))
    axes.set_yticks(range(len(table)), [layer + 1 for layer in use])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    return _drawn(figure)

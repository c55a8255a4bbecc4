"""Draws the charts of a report as PNGs. The background is transparent, because a dark page inverts the colours.

Legend: K classes, N images, E experts, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter

from ..evaluation.metrics import ECE_BINS, bins
from .figures import COLOURS, new_figure, png, short, titled

DPI = 144
COUNTED = 40  # maximum number of classes for counts in the cells of a confusion matrix
NAMED = 120  # maximum number of classes for names in a confusion matrix
FEW_IMAGES = 200  # below this number of images, reliability is drawn with FEW_BINS bins
FEW_BINS = 5
TOO_FEW = 10  # a bin with fewer images is too small to estimate an accuracy


def _drawn(figure: Figure) -> bytes:
    return png(figure, DPI, transparent=True)


def _plain(axes: Any, x: str, y: str, title: str = "") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        titled(axes, title)


def curves(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    title: str,
    what: str,
    best: int | None = None,
    log: bool = False,
    percent: bool = False,
    chance: float | None = None,
) -> bytes | None:
    """Draws columns of metrics.csv over epochs. Returns None if the columns have no values, or if there is only one epoch.

    `columns`: name in the legend -> column. `what`: label of the vertical axis. `best`: the epoch of the saved weights.
    `chance`: the chance level of the accuracy, drawn as a line.
    """
    present = {name: column for name, column in columns.items() if any(row.get(column) is not None for row in rows)}
    if not present or len(rows) < 2:
        return None
    figure = new_figure(5, 3.1)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in rows]
    for colour, (name, column) in zip(COLOURS, present.items(), strict=False):
        values = [np.nan if row.get(column) is None else row[column] for row in rows]
        axes.plot(epochs, values, color=colour, label=name, marker="o" if len(rows) < 30 else "", markersize=3.5)
    if chance is not None:
        axes.axhline(chance, color="0.5", linestyle="--", linewidth=1, label=f"chance, {100 * chance:.1f} %")
    if best is not None:
        axes.axvline(best, color="0.4", linestyle=":", linewidth=1, label=f"epoch {best}, kept")
    _plain(axes, "epoch", what, title)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain = StrMethodFormatter("{x:g}")
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            axis.set_major_formatter(plain)
            # The axis may not include a power of ten.
            axis.set_minor_formatter(plain if high < 8 * low else NullFormatter())
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=8.5)
    return _drawn(figure)


def confusion(counts_KK: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
    """Draws a confusion matrix: true classes in rows, predicted classes in columns, shaded by share of the row.

    Both axes show class names; rows also show the number of images. The diagonal (correct images) is outlined. More than
    NAMED classes are numbered.
    """
    counts = np.asarray(counts_KK)
    share, number = counts / counts.sum(1, keepdims=True).clip(1), len(counts)
    cell = 0.36 if number <= COUNTED else 0.14
    side = 2.2 + cell * min(number, NAMED)
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if number <= COUNTED:
        for i, j in np.argwhere(counts > 0):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color=colour)
    edge = np.arange(number + 1).repeat(2) - 0.5  # outline of the diagonal cells, as stairs
    for x, y in ((edge[:-1], edge[1:]), (edge[1:], edge[:-1])):
        axes.plot(x, y, color=COLOURS[1], linewidth=1)
    if number <= NAMED:
        size = 9 if number <= COUNTED else 6.5
        rows = [f"{short(name)} ({n})" for name, n in zip(class_names, counts.sum(1), strict=True)]
        columns = [short(name) for name in class_names]
        turned = 0 if max(map(len, columns)) <= 2 else 90
        axes.set_xticks(range(number), columns, fontsize=size, rotation=turned, parse_math=False)
        axes.set_yticks(range(number), rows, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class" if number <= NAMED else "number of the predicted class")
    axes.set_ylabel("true class (images)" if number <= NAMED else "number of the true class")
    titled(axes, "True classes and predicted classes")
    return _drawn(figure)


def reliability(probabilities: Mapping[str, np.ndarray], labels_N: np.ndarray) -> bytes:
    """Draws accuracy over confidence, one line per entry of `probabilities` ([N, K] each), and the images per bin.

    The bins are those of the calibration error, or FEW_BINS bins for fewer than FEW_IMAGES images. Bins with fewer than
    TOO_FEW images have hollow markers.
    """
    number = FEW_BINS if len(labels_N) < FEW_IMAGES else ECE_BINS
    figure = new_figure(5, 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, label="accuracy equals confidence")
    hollow = False
    for colour, (name, p_NK) in zip(COLOURS, probabilities.items(), strict=False):
        confidence = p_NK.max(1).clip(0, 1)
        mean, accuracy, count_B = bins(confidence, p_NK.argmax(1) == labels_N, number)
        above.plot(mean, accuracy, color=colour, marker="o", markersize=5, label=name)
        few = count_B[count_B > 0] < TOO_FEW
        above.plot(
            mean[few], accuracy[few], color=colour, linestyle="", marker="o", markersize=5, mfc="white", zorder=3
        )
        hollow = hollow or bool(few.any())
        below.stairs(count_B, np.linspace(0, 1, number + 1), color=colour, fill=colour == COLOURS[0], alpha=0.8)
    if hollow:
        few = f"under {TOO_FEW} images: too few to say"
        above.plot([], [], color="0.4", linestyle="", marker="o", markersize=5, mfc="white", label=few)
    above.set_ylim(-0.02, 1.02)
    below.set_xlim(0, 1)
    for axis in (above.yaxis, below.xaxis):
        axis.set_major_formatter(PercentFormatter(1))
    _plain(above, "", "accuracy", "How often the model is right, by its confidence")
    _plain(below, "confidence", "images")
    above.legend(frameon=False, fontsize=8.5)
    return _drawn(figure)


def expert_load(use: Mapping[int, np.ndarray]) -> bytes:
    """Draws the share of tokens per expert. Rows are layers, columns are experts. `use`: layer -> [E]."""
    table = np.full((len(use), max(map(len, use.values()))), np.nan)
    for row, share_E in enumerate(use.values()):
        table[row, : len(share_E)] = share_E
    figure = new_figure(1.6 + 0.75 * table.shape[1], 1.3 + 0.32 * len(table))
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
    titled(axes, "Tokens per expert")
    return _drawn(figure)

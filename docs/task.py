"""Draws the task in one image. `python docs/figures.py` calls it.

A folder of images becomes a small model, and the model names the class of a new image. The digits are scikit-learn's, and
the answer is that of the weights in the package.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import feathervit
from feathervit.weights import shipped_file

WEIGHTS = "mlit_nano.digits"
INK, SOFT, ACCENT, PALE = "#1b2226", "#59656d", "#0b6b62", "#e4efed"
CLASSES, EACH = (3, 5, 8), 4  # classes and images of the folder


def draw_task() -> Figure:
    data = feathervit.load_data("digits", img_size=16)
    figure = Figure(figsize=(9, 2.9), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 9), ylim=(0, 2.9))
    axes.axis("off")
    axes.text(0.3, 2.55, "a folder of images", fontsize=11, color=SOFT)
    for row, label in enumerate(CLASSES):
        own = data.train.images[data.train.labels == label][:EACH, 0].numpy()
        y = 1.75 - 0.72 * row
        axes.text(0.3, y + 0.28, f"digits/{label}/", fontsize=10, color=INK, family="monospace", va="center")
        for n, pixels in enumerate(own):
            show(axes, pixels, 1.35 + 0.68 * n, y, 0.58)
    arrow(axes, 4.15, 4.6)
    size = shipped_file(WEIGHTS).stat().st_size
    axes.add_patch(
        FancyBboxPatch((4.75, 0.85), 1.35, 1.1, boxstyle="round,pad=0.05", facecolor=ACCENT, edgecolor="none")
    )
    axes.text(5.42, 1.55, "trained model", fontsize=11, color="white", ha="center", va="center", weight="bold")
    axes.text(5.42, 1.2, f"{size / 1e6:.2f} MB", fontsize=10, color="white", ha="center", va="center")
    arrow(axes, 6.25, 6.65)
    pixels = data.test.images[data.test.labels == CLASSES[1]][0]
    (found,) = feathervit.load(WEIGHTS).predict(pixels[0].numpy(), top=3)
    axes.text(6.8, 2.55, "what is on a new one", fontsize=11, color=SOFT)
    show(axes, pixels[0].numpy(), 6.8, 1.55, 0.85)
    for n, (name, share) in enumerate(zip(found.classes, found.probabilities, strict=True)):
        y = 1.15 - 0.36 * n
        axes.text(6.8, y, name, fontsize=10, color=INK, va="center")
        axes.add_patch(Rectangle((7.05, y - 0.05), 1.05, 0.1, facecolor=PALE))
        axes.add_patch(Rectangle((7.05, y - 0.05), 1.05 * share, 0.1, facecolor=ACCENT))
        axes.text(8.75, y, f"{100 * share:.1f} %", fontsize=10, color=INK, va="center", ha="right")
    return figure


def show(axes, pixels: np.ndarray, x: float, y: float, side: float) -> None:
    axes.imshow(
        pixels, cmap="gray", extent=(x, x + side, y, y + side), aspect="auto", interpolation="nearest", zorder=2
    )


def arrow(axes, start: float, end: float) -> None:
    axes.add_patch(
        FancyArrowPatch((start, 1.4), (end, 1.4), arrowstyle="-|>", mutation_scale=18, color=SOFT, linewidth=1.5)
    )

"""The labels of the charts of docs/results.md: none overlaps another, a point or the legend."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.transforms import Bbox

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def docs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    yield
    plt.close("all")


def overlaps(figure) -> list[str]:
    """Finds the labels that overlap another label, a point or the legend, or that leave the axes, at the size of the file."""
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = {text.get_text(): text.get_window_extent() for text in axes.texts}
    found = [f"{a} and {b}" for a, b in itertools.combinations(labels, 2) if labels[a].overlaps(labels[b])]
    for label, box in labels.items():
        for points in axes.collections:
            half = np.sqrt(points.get_sizes()[0]) / 2 * figure.dpi / 72
            for centre in axes.transData.transform(points.get_offsets()):
                if box.overlaps(Bbox([centre - half, centre + half])):
                    found.append(f"{label} and a point")
        if axes.get_legend() and box.overlaps(axes.get_legend().get_window_extent()):
            found.append(f"{label} and the legend")
        if not all(axes.get_window_extent().contains(*corner) for corner in box.corners()):
            found.append(f"{label} leaves the axes")
    assert len(labels) == sum(len(points.get_offsets()) for points in axes.collections)
    return found


@pytest.mark.parametrize("name", ["draw_accuracy", "draw_minutes"])
def test_labels_of_the_charts_do_not_overlap(name):
    import accuracy

    assert overlaps(getattr(accuracy, name)(plt, ROOT / "results")) == []


def test_labels_of_crowded_points_do_not_overlap():
    from labels import label_points

    places = np.random.default_rng(0).normal(0.5, 0.15, (25, 2))
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    axes.scatter(*places.T, 30)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label_points(axes, places, [30] * 25, [f"a long name, {i}" for i in range(25)], [{"fontsize": 6}] * 25)
    assert overlaps(figure) == []
    boxes = [text.get_window_extent() for text in axes.texts]
    lines = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    assert lines
    assert not any(line.intersects_bbox(box, filled=False) for line in lines for box in boxes)

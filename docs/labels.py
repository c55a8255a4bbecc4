"""Places the labels of the points of a chart, so that no label overlaps another label, a point or the legend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.path import Path
from matplotlib.transforms import Bbox

GAP = 2.0  # points between a label and everything else
CLEAR = 5.0  # points between a label without a line and the other points, so that it is clear which one it names
STEPS = 40  # number of distances that are tried
SIDES = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))  # of the point, best first


def label_points(
    axes: Any,
    places: Sequence[tuple[float, float]],
    sizes: Sequence[float],
    labels: Sequence[str],
    styles: Sequence[dict],
) -> None:
    """Labels the points at `places`. A label that is not beside its point gets a line to it.

    Each label takes the nearest free place. Points with few free places come first. The limits, scales and legend of the axes
    must be final. `sizes`: areas of the markers, in points². `styles`: text properties of each label.
    """
    axes.figure.draw_without_rendering()  # applies the layout
    unit = axes.figure.dpi / 72  # pixels per point
    centres = axes.transData.transform(places)
    halves = [unit * math.sqrt(size) / 2 for size in sizes]
    markers = [Bbox.from_extents(x - h, y - h, x + h, y + h) for (x, y), h in zip(centres, halves, strict=True)]
    texts = [axes.text(*place, label, **style) for place, label, style in zip(places, labels, styles, strict=True)]
    extents = [text.get_window_extent() for text in texts]
    legend = [axes.get_legend().get_window_extent()] if axes.get_legend() else []
    placed: list[Bbox] = []
    lines: list[Path] = []
    inside = axes.get_window_extent()

    def free(i: int, box: Bbox, line: Path | None, strict: bool) -> bool:
        padded, others = box.padded(GAP * unit / 2), markers[:i] + markers[i + 1 :]
        if not (inside.contains(*box.min) and inside.contains(*box.max)):
            return False
        if any(padded.overlaps(other) for other in (*markers, *placed, *legend)):
            return False
        if any(other.intersects_bbox(padded) for other in lines):
            return False
        if line is None:
            return not any(box.padded(CLEAR * unit).overlaps(other) for other in others)
        crossed = any(line.intersects_bbox(other.padded(GAP * unit / 2)) for other in (*others, *legend))
        crossed = crossed or any(line.intersects_path(other) for other in lines)
        return not (strict and crossed) and not any(line.intersects_bbox(other) for other in placed)

    def choices(i: int, strict: bool = True) -> Iterator[tuple[Bbox, Path | None]]:
        """Yields the free places of label i and the lines to them, nearest first. `strict`: the lines cross nothing."""
        for box, line in _places(centres[i], halves[i] + GAP * unit, extents[i].width, extents[i].height):
            if free(i, box, line, strict):
                yield box, line

    near = [sum(line is None for _, line in itertools.islice(choices(i), len(SIDES))) for i in range(len(texts))]
    for i in sorted(range(len(texts)), key=lambda i: (near[i], i)):
        box, line = next(itertools.chain(choices(i), choices(i, strict=False)))
        placed.append(box)
        texts[i].set(ha="left", va="bottom", position=axes.transData.inverted().transform((box.x0, box.y0)))
        if line:
            lines.append(line)
            axes.plot(*axes.transData.inverted().transform(line.vertices).T, color="0.5", linewidth=0.6, zorder=2)
    for text in texts:
        text.set_in_layout(False)


def _places(centre: Any, gap: float, width: float, height: float) -> Iterator[tuple[Bbox, Path | None]]:
    """Yields boxes of a label around a point, nearest first, and the line from the point to each box (None: beside it)."""
    for step in range(STEPS):
        for x, y in SIDES:
            reach = gap + step * height / 2
            left = centre[0] + x * reach - width * (1 - x) / 2
            low = centre[1] + y * reach - height * (1 - y) / 2
            box = Bbox.from_bounds(left, low, width, height)
            room = box.padded(height / 6)
            end = (min(max(centre[0], room.x0), room.x1), min(max(centre[1], room.y0), room.y1))
            yield box, Path([centre, end]) if step > 1 else None

"""Draws the chart of a study: the accuracy of its arms, and the validation accuracy over minutes."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.figure import Figure

from ..plots.figures import COLOURS, new_figure

ARMS = [colour for colour in COLOURS if colour != "#F0E442"]  # thin lines in yellow are hard to see
MARKERS = "os^Dv"
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def arm_style(number: int) -> dict[str, Any]:
    """Returns colour, marker and dashes of an arm. They are distinct for 35 arms.

    Each round of the colours has its own marker and dashes.
    """
    turn = number // len(ARMS) % len(MARKERS)
    return {"color": ARMS[number % len(ARMS)], "marker": MARKERS[turn], "linestyle": DASHES[turn]}


def draw_chart(found: dict[str, Any]) -> Figure:
    """Draws the content of study.json. Left: one marker per seed, and a bar at the mean of each arm.

    Right: the validation accuracy of each seed, with the marker of its arm at the end. It is omitted without validation.
    """
    arms = list(found["arms"])
    done = [c for c in found["cells"] if c["status"] == "finished"]
    split = "test" if any(c.get("test_top1") is not None for c in done) else "val"
    curved = any(c.get("curve") for c in done)
    figure = new_figure(11 if curved else 6, max(3.0, 1.2 + 0.4 * len(arms)))
    ends, *others = figure.subplots(1, 1 + curved, squeeze=False)[0]
    for y, arm in enumerate(arms):
        style = arm_style(y)
        mine = [c for c in done if c["arm"] == arm]
        values = [100 * c[f"{split}_top1"] for c in mine if c.get(f"{split}_top1") is not None]
        if values:
            mean = statistics.mean(values)
            ends.plot([mean, mean], [y - 0.3, y + 0.3], color="black", linewidth=1.5)
            ends.plot(values, [y] * len(values), alpha=0.7, **{**style, "linestyle": ""})
        for ways in others:
            for curve in filter(None, (c.get("curve") for c in mine)):
                minutes, top1 = [m for m, _ in curve], [100 * v for _, v in curve]
                ways.plot(minutes, top1, alpha=0.7, linewidth=1, markevery=[-1], markersize=5, **style)
    ends.set_yticks(range(len(arms)), arms, parse_math=False)
    ends.set_ylim(len(arms) - 0.5, -0.5)
    ends.set_xlabel(f"{split} top-1, %; markers: seeds, bars: means")
    ends.grid(axis="x", alpha=0.3)
    for ways in others:
        ways.set_xlabel("minutes")
        ways.set_ylabel("val top-1, %; a line per seed")
        ways.grid(alpha=0.3)
    figure.suptitle(found["name"], fontsize=10, parse_math=False)
    return figure

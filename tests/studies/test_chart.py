"""The chart of a study: its panels, and the look of its arms."""

from __future__ import annotations

import pytest

from feathervit.studies.chart import draw_chart


def found(arms: int, curve: list | None) -> dict:
    """The content of study.json with two finished seeds per arm."""
    names = [f"arm {i} of $5$" for i in range(arms)]
    cells = [
        {"arm": name, "seed": seed, "status": "finished", "test_top1": 0.5 + 0.01 * i + 0.001 * seed}
        | ({"curve": [[m, top1 + 0.01 * i] for m, top1 in curve]} if curve else {})
        for seed in (0, 1)
        for i, name in enumerate(names)
    ]
    return {"name": "mine", "arms": {name: [{}] for name in names}, "cells": cells}


def look(line) -> tuple:
    """What distinguishes a line in print."""
    return line.get_color(), line.get_marker()


@pytest.mark.parametrize("curve", [None, [], [[1, 0.2], [2, 0.3]]])
def test_a_study_without_validation_has_one_panel(curve):
    figure = draw_chart(found(3, curve))
    assert len(figure.axes) == (2 if curve else 1)
    assert all(axes.lines for axes in figure.axes)
    figure.draw_without_rendering()


def test_twenty_arms_look_different():
    ends, ways = draw_chart(found(20, [[1, 0.2], [2, 0.3]])).axes
    seeds = {line.get_ydata()[0]: look(line) for line in ends.lines if line.get_linestyle() == "None"}
    assert len(set(seeds.values())) == len(seeds) == 20
    curves = {round(100 * (line.get_ydata()[0] - 20)): look(line) for line in ways.lines}
    assert len(ways.lines) == 40
    assert list(curves.values()) == list(seeds.values())  # both panels draw an arm alike
    assert len({(line.get_color(), line.get_linestyle()) for line in ways.lines}) == 20

"""Figures in README and docs come from result files. Others, as of papers and settings, are listed here with a reason."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURE = re.compile(r"(?<![\w.,/-])(\d[\d,]*(?:\.\d+)?) ?(%|x(?! ?\d)(?!\w)|images/s)")
KEYS = {  # unit -> which keys of result files hold such figures, and whether they are shares there
    "%": (re.compile(r"top1|agree|share|raw_pixel|scratch|fine_tuned|same_expert"), 100),
    "x": (re.compile(r"ratio|geometric_mean|speedup"), 1),
    "images/s": (re.compile(r"images_per_s"), 1),
}
EVERY_EPOCH = {"epochs", "curves", "config", "per_class", "confusion", "changes", "base", "fields", "arms"}
ALLOWED = {  # (page, figure): why it is no measurement, or where it is checked
    ("choices.md", "0.01 x"): "the paper's weight of the balance losses",
    **{("gpu.md", f"{share} %"): "of the minutes that are given" for share in (60, 70, 75)},
    ("deploying.md", "99 %"): "what export demands",
    ("deploying.md", "97 %"): "what export demands of int8",
    ("deploying.md", "5 %"): "the level of McNemar's test",
    ("results.md", "95 %"): "the level of an interval",
    ("studies.md", "95 %"): "the level of an interval, in the tables",
    ("images.md", "5 %"): "the share that a threshold is set for",
    ("images.md", "95 %"): "the level of Wilson's interval",
}


def leaves(value, path: str = ""):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in EVERY_EPOCH:
                yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


@pytest.fixture(scope="module")
def measured() -> dict[str, list[float]]:
    """Unit -> all figures of result files, and mean, least and most of the figures with one key in the files of a folder."""
    groups: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for path in sorted((ROOT / "results").rglob("*.json")):
        place = path.parent if path.parent != ROOT / "results" else path
        for key, value in leaves(json.loads(path.read_text())):
            groups[f"{place}{key}"].append(value)
    found: dict[str, list[float]] = {unit: [] for unit in KEYS}
    for key, values in groups.items():
        for unit, (wanted, scale) in KEYS.items():
            if wanted.search(key):
                found[unit] += [scale * v for v in (*values, statistics.mean(values))]
    return found


def stray(text: str, measured: dict[str, list[float]]) -> set[str]:
    """Figures of a page that are in no result file.

    A whole number of % is nearly always in some file by chance, so it counts as stray.
    """
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = set()
    for figure, unit in FIGURE.findall(text):
        decimals = len(figure.partition(".")[2])
        known = {f"{value:.{decimals}f}" for value in measured[unit]} if decimals or unit != "%" else set()
        if figure.replace(",", "") not in known:
            found.add(f"{figure} {unit}")
    return found


def test_no_figure_is_stray(measured):
    found = {(page.name, figure) for page in PAGES for figure in stray(page.read_text(), measured)}
    assert found == set(ALLOWED)  # a figure that left its page must leave the list too


def test_a_stray_figure_would_be_found(measured):
    text = "It reaches 12.345 % of 32 x 32 px, 77 %, 3.21 x as fast, 123,456 images/s.\n```sh\n# 99.99 %\n```\n"
    assert stray(text, measured) == {"12.345 %", "77 %", "3.21 x", "123,456 images/s"}
    one = json.loads((ROOT / "results" / "digits" / "seed-0.json").read_text())["test"]["top1"]
    assert stray(f"{100 * one:.3f} %", measured) == set()

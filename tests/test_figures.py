"""Figures in README and docs come from result files. Other figures are listed here with a reason."""

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
KEYS = {  # unit -> (keys of result files with such figures, scale)
    "%": (re.compile(r"top1|agree|share|raw_pixel|scratch|fine_tuned|same_expert"), 100),
    "x": (re.compile(r"ratio|geometric_mean|speedup"), 1),
    "images/s": (re.compile(r"images_per_s"), 1),
}
EVERY_EPOCH = {"epochs", "curves", "config", "per_class", "confusion", "changes", "base", "fields", "arms"}
ALLOWED = {  # (page, figure): why it is not a measurement
    ("choices.md", "0.01 x"): "the paper's weight of the balance losses",
    **{("gpu.md", f"{share} %"): "a share of the given minutes" for share in (60, 70, 75)},
    ("deploying.md", "99 %"): "the threshold of export",
    ("deploying.md", "97 %"): "the threshold of export for int8",
    ("deploying.md", "5 %"): "the level of McNemar's test",
    ("results.md", "95 %"): "the level of an interval",
    ("studies.md", "59.59 %"): "published, arXiv 2407.17783, Table 8",
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
    """Unit -> all figures of result files, and for each folder the mean of the figures with one key."""
    groups: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for path in sorted((ROOT / "results").rglob("*.json")):
        group = path.parent if path.parent != ROOT / "results" else path
        for key, value in leaves(json.loads(path.read_text())):
            groups[f"{group}{key}"].append(value)
    found: dict[str, list[float]] = {unit: [] for unit in KEYS}
    for key, values in groups.items():
        for unit, (wanted, scale) in KEYS.items():
            if wanted.search(key):
                found[unit] += [scale * v for v in (*values, statistics.mean(values))]
    return found


def stray(text: str, measured: dict[str, list[float]]) -> set[str]:
    """Finds the figures of a page that are not in a result file.

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


def test_every_figure_comes_from_results(measured):
    found = {(page.name, figure) for page in PAGES for figure in stray(page.read_text(), measured)}
    assert found == set(ALLOWED)  # a figure that is removed from its page must be removed from the list


def test_stray_figures_are_found(measured):
    text = "It reaches 12.345 % of 32 x 32 px, 77 %, 3.21 x as fast, 123,456 images/s.\n```sh\n# 99.99 %\n```\n"
    assert stray(text, measured) == {"12.345 %", "77 %", "3.21 x", "123,456 images/s"}
    one = json.loads((ROOT / "results" / "digits" / "seed-0.json").read_text())["test"]["top1"]
    assert stray(f"{100 * one:.3f} %", measured) == set()

"""Draws the charts of docs/results.md: CIFAR-100 accuracy against parameters and CPU minutes, and curves of long runs.

Published points come from published.json. Our points come from result files: the long runs, the papers' rows that were
run, and the studies `peers`.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from labels import label_points

from feathervit.results import markdown_table
from feathervit.studies.library.papers import papers
from feathervit.studies.tables import read_papers

HERE = Path(__file__).resolve().parent
MOST_MILLIONS = 2.5
KINDS = {"attention": ("o", "C0"), "convolutions": ("s", "C7"), "ours": ("*", "C3")}  # marker and colour
SIZES = {"attention": 28, "convolutions": 28, "ours": 110}  # areas of the markers, in points²


@dataclass(frozen=True)
class Point:
    """A model on CIFAR-100. `top1` in %. `minutes` of one CPU thread, None if unknown."""

    name: str
    millions: float
    top1: float
    kind: str
    cost: str
    source: str
    minutes: float | None = None


def published() -> list[Point]:
    return [Point(**row) for row in json.loads((HERE / "published.json").read_text(encoding="utf-8"))]


def ours(results: Path) -> list[Point]:
    """Returns our models trained on all of CIFAR-100."""
    points = []
    for path in sorted(results.glob("weights*/*.cifar100.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        minutes = sum(run["minutes"] * run["threads"] for run in found["runs"]) / len(found["runs"])
        cost = f"{found['runs'][0]['epochs']} epochs, {minutes / 60:.1f} core-hours"
        top1 = 100 * statistics.mean(run["test_top1"] for run in found["runs"])
        source = f"`results/{path.parent.name}/{path.name}`"
        points.append(Point(path.stem, found["parameters"] / 1e6, top1, "ours", cost, source, minutes))
    for arm, cells in read_papers(results).items():
        own = papers.published[arm]
        done = [cell for cell in cells if cell["status"] == "finished"]
        if own.data == "cifar100" and own.figure == "test_top1" and done:
            top1 = 100 * statistics.mean(cell["test_top1"] for cell in done)
            cost = " + ".join(f"{n:,}" for n in done[0]["epochs"]) + " epochs"
            source = f"`results/{done[0]['file'].parent.name}`"
            points.append(Point(own.name, done[0]["parameters"] / 1e6, top1, "ours", cost, source))
    return points


def in_minutes(results: Path) -> list[Point]:
    """Returns the arms of the studies `peers`, trained on 10,000 images for the minutes of their budget."""
    points = []
    for path in sorted(results.glob("peers*/study.json")):
        study = json.loads(path.read_text(encoding="utf-8"))
        minutes = study["budget"].get("minutes")
        if study["name"] != "peers" or minutes is None:
            continue
        for arm in study["arms"]:
            done = [cell for cell in study["cells"] if cell["arm"] == arm and cell["status"] == "finished"]
            if done:
                top1 = 100 * statistics.mean(cell["test_top1"] for cell in done)
                kind = (
                    "ours"
                    if arm.startswith("feather")
                    else "convolutions"
                    if "ResNet" in arm or "Conv" in arm
                    else "attention"
                )
                source = f"`results/{path.parent.name}`"
                arm += ", bfloat16" * path.parent.name.endswith("bfloat16")
                points.append(
                    Point(arm, done[0]["parameters"] / 1e6, top1, kind, f"{minutes:g} minutes", source, minutes)
                )
    return points


def points_table(results: Path) -> str:
    """Returns the table of all points of the first chart, highest accuracy first."""
    found = [p for p in (*published(), *ours(results)) if p.millions < MOST_MILLIONS]
    lines = [
        (
            p.name,
            "ours" if p.kind == "ours" else f"published, {p.kind}",
            f"{p.millions:.3g}",
            f"{p.top1:.2f}",
            p.cost,
            p.source,
        )
        for p in sorted(found, key=lambda p: -p.top1)
    ]
    return markdown_table(("Model", "Kind", "Million parameters", "Test top-1, %", "Cost", "Source"), lines, left=2)


def draw_accuracy(plt, results: Path):
    """Draws CIFAR-100 accuracy against parameters, with the cost of each point."""
    points = [p for p in (*published(), *ours(results)) if p.millions < MOST_MILLIONS]
    ticks = (0.15, 0.3, 0.6, 1.2, 2.4)
    return _chart(plt, points, lambda p: p.millions, "million parameters", (0.12, 5), ticks, 6.4, "lower left")


def draw_minutes(plt, results: Path):
    """Draws CIFAR-100 accuracy against minutes of one CPU thread."""
    points = [*in_minutes(results), *(p for p in ours(results) if p.minutes)]
    ticks = (10, 30, 100, 300, 1000)
    return _chart(plt, points, lambda p: p.minutes, "minutes of one CPU thread", (6, 3000), ticks, 5.2, "lower right")


def draw_curves(plt, results: Path):
    """Draws the training accuracy of the long runs over core-hours, with the test accuracy at the end of each stage."""
    panels = {  # dataset -> title, the best published mmLiT-XXS in %, and its epochs
        "cifar100": ("CIFAR-100", 74.95, "mmLiT-XXS: 8,000 + 300 epochs"),
        "cifar10": ("CIFAR-10", 92.21, "mmLiT-XXS: 8,000 + 100 epochs"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
    for axis, (data, (title, top1, epochs)) in zip(axes, panels.items(), strict=True):
        axis.axhline(top1, color="C7", linestyle="--", linewidth=1, label=f"test, {epochs}")
        for number, path in enumerate(sorted(results.glob(f"weights*/*.{data}.json"))):
            run, colour, hours = json.loads(path.read_text(encoding="utf-8"))["runs"][0], f"C{number}", 0.0
            label = f"{path.name.removesuffix(f'.{data}.json')}, {run['epochs']} epochs"
            for stage in (stage for stage in run["curves"] if not stage["teacher"]):
                step = stage["core_hours"] / len(stage["train_top1"])
                times = [hours + step * (epoch + 1) for epoch in range(len(stage["train_top1"]))]
                axis.plot(times, [100 * top1 for top1 in stage["train_top1"]], color=colour, linewidth=1)
                hours = times[-1]
                axis.plot(hours, 100 * stage["test_top1"], marker="o", markersize=4, color=colour, label=label)
                label = None
        axis.set(title=title, xlabel="core-hours", ylabel="top-1, %")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, loc="lower right", fontsize=7)
    return figure


def _chart(plt, points: list[Point], place, what: str, limits, ticks, height: float, legend: str):
    """Draws accuracy against a quantity on a logarithmic axis. `place`: returns the quantity of a point."""
    figure, axis = plt.subplots(figsize=(8.6, height), layout="constrained")
    for kind, (marker, colour) in KINDS.items():
        own = [p for p in points if p.kind == kind]
        if own:
            source = "published" if any(p.minutes is None for p in own) else "peers"
            label = "ours" if kind == "ours" else f"{source}, {kind}"
            xy = [place(p) for p in own], [p.top1 for p in own]
            axis.scatter(*xy, s=SIZES[kind], c=colour, marker=marker, label=label, zorder=3)
    axis.set(xscale="log", xlabel=what, ylabel="CIFAR-100 test top-1, %", xlim=limits)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc=legend)
    label_points(
        axis,
        [(place(p), p.top1) for p in points],
        [SIZES[p.kind] for p in points],
        [f"{p.name}: {p.cost}" for p in points],
        [{"fontsize": 6.5, "fontweight": "bold" if p.kind == "ours" else "normal"} for p in points],
    )
    return figure

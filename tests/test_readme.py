"""What README and docs say is true: its Python runs, its commands exist, its figures come from results/."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest

from feathervit.cli import VERBS
from feathervit.results import read_result

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return [b for page in PAGES for b in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[number], "README", "exec"), {})


def test_commands_exist():
    lines = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("feathervit ")]
    assert len(commands) >= 4
    for words in commands:
        assert " ".join(words[:2]) in VERBS or words[0] in VERBS
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {line.split()[1] for line in lines if line.startswith("make ")} <= set(targets)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_figures_come_from_results():
    """A table row of README or docs that names results/NAME holds the means of the result files in there."""
    rows = [
        line for page in PAGES for line in page.read_text().splitlines() if line.startswith("|") and "results/" in line
    ]
    assert rows
    for row in rows:
        (name,) = re.findall(r"`results/([\w-]+)` *\|", row)
        found = [read_result(path) for path in sorted((ROOT / "results" / name).glob("seed-*.json"))]
        top1 = [100 * r.test["top1"] for r in found]
        assert f"{statistics.mean(top1):.1f} % ({min(top1):.1f} to {max(top1):.1f}, {len(found)} seeds)" in row
        assert f"| {statistics.mean(r.minutes for r in found):.1f} |" in row
        assert f"| {found[0].model} |" in row
        assert len({r.seed for r in found}) == len(found) >= 3


def test_augmentation_figures_come_from_results():
    found = json.loads((ROOT / "results" / "augment.json").read_text())
    ours = {(r["threads"], r["size"]): r["images_per_second"] for r in found["rows"] if r["name"] == "feathervit"}
    ratios = {(s["threads"], s["size"]): s["ratio"] for s in found["summary"]}
    for threads, word in ((1, "one"), (2, "two")):
        cells = [f"{ours[threads, size]:,.0f} ({ratios[threads, size]:.1f} x)" for size in (32, 64, 96)]
        assert f"| {word} thread{'s' * (threads > 1)} | {' | '.join(cells)} |" in PAGES[0].read_text()
    share = 100 * (1 - found["step"]["without"] / found["step"]["with"])
    assert f"spends {share:.1f} % on augmentation" in PAGES[0].read_text()


def test_decoding_figures_come_from_results():
    found = json.loads((ROOT / "results" / "decode.json").read_text())
    text = " ".join(PAGES[0].read_text().split())
    assert (
        f"stored at {found['pictures_per_s']:.1f} a second, 3,000 in {found['seconds_for_3000'] / 60:.1f} minutes"
        in text
    )
    assert f"with {found['peak_mb']:.0f} MB of memory at most" in text
    assert f"of which {found['peak_mb_before_the_first']:.0f} MB are there" in text

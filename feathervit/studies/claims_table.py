"""Writes the Markdown table of claims and verdicts from the results of studies. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import valid
from ..files import read_json
from ..results import alike, collapsed, markdown_table
from .definition import Study
from .library import STUDIES
from .verdicts import Comparison, compare, verdict

LATENCY = "infer_36.json"
FORMS = {"eager": "PyTorch", "onnx": "ONNX", "int8": "ONNX int8"}


def claims_table(results: Path) -> str:
    """Returns one row per tested claim, ordered by number, then a collapsed list of the untested claims.

    The longer study NAME-deep replaces NAME for a claim if it has run the arms of the claim with at least two seeds.
    """
    studies = _read(results)
    rows, waiting = [], []
    for study in (s for s in STUDIES.values() if s.statements and not s.name.endswith("-deep")):
        for statement in study.statements:
            used, comparisons = study, compare(statement, studies.get(study.name, {}).get("cells", []), study.needs)
            if longer := STUDIES.get(f"{study.name}-deep"):
                deep = compare(statement, studies.get(longer.name, {}).get("cells", []), longer.needs)
                if all(len(comparison.points) > 1 for comparison in deep):
                    used, comparisons = longer, deep
            word = verdict(comparisons)
            if word == "not run":
                waiting.append(f"{statement.number}. {statement.says}")
                continue
            evidence = "<br>".join(c.text() for c in comparisons) + f"<br>`results/{studies[used.name]['folder']}`"
            rows.append(
                (statement.number, statement.says, f"{_scale(used, studies[used.name], comparisons)}{evidence}", word)
            )
            rows[-1] += ("" if word == "holds" else statement.decides,)
    rows += _latency(results)
    lines = [[f"{number}. {says}", *rest] for number, says, *rest in sorted(rows)]
    head = ("Claim", "Here, scaled", "Verdict", "What would decide it")
    text = markdown_table(head, lines, left=4) if lines else ""
    rest = (
        collapsed(f"{len(waiting)} claims not run here", "\n".join(f"- {line}" for line in waiting)) if waiting else ""
    )
    return "\n\n".join(filter(None, [text, rest]))


def _scale(study: Study, found: dict[str, Any], comparisons: list[Comparison]) -> str:
    arms = {arm for comparison in comparisons for arm in (comparison.above, comparison.below)}
    epochs = alike(
        " + ".join(map(str, found["epochs"][arm])) for arm in study.arms if arm in arms & set(found["epochs"])
    )
    return f"epochs: {epochs}<br>"


def _read(results: Path) -> dict[str, dict[str, Any]]:
    """Returns name -> the content of study.json and its "folder", for each study with claims."""
    by_name = {}
    for path in sorted(results.glob("*/study.json")):
        with valid(f"{path} is not a result of a study", "; run it again, or remove it"):
            study = read_json(path)
            if study["name"] in STUDIES and STUDIES[study["name"]].statements:
                by_name[study["name"]] = {**study, "folder": path.parent.name}
    return by_name


def _latency(results: Path) -> list[tuple]:
    """Returns the row on latency from the file of `feathervit benchmark infer`, or no row if the models are missing."""
    path = results / LATENCY
    if not path.exists():
        return []
    record = read_json(path)
    rows = {row["model"]: row["latency_ms"] for row in record["rows"]}
    if not {"mlit_xxs", "twin:mlit_xxs"} <= set(rows):
        return []
    ours, twin = ({form: rows[name][form]["1"] for form in FORMS} for name in ("mlit_xxs", "twin:mlit_xxs"))
    ratios = {form: ours[form] / twin[form] for form in FORMS}
    text = "<br>".join(
        f"{FORMS[form]}: {ours[form]:.2f} ms, {ratio:.2f} of the ViT's" for form, ratio in ratios.items()
    )
    faster = [ratio <= 1 for ratio in ratios.values()]
    word = "holds" if all(faster) else "undecided" if any(faster) else "does not hold"
    setting = "(one image, one thread; our claim, not the paper's)"
    says = f"mlit_xxs is as fast as a ViT of equal parameters, width and depth {setting}"
    return [(8, says, f"{text}<br>`results/{LATENCY}`", word, "" if word == "holds" else "the device it is meant for")]

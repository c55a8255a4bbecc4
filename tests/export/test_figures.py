"""The figures in docs/deploying.md come from results/, and the files there keep what was promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from feathervit.config import ImageConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deploying.md").read_text()


def rows(name: str) -> dict[str, dict]:
    return {row["model"]: row for row in json.loads((ROOT / "results" / f"{name}.json").read_text())["rows"]}


def line(row: dict, forms: tuple[str, ...]) -> str:
    sizes = [f"{row['bytes'][form] / 1e6:.2f}" for form in ("onnx", "int8")]
    times = [f"{row['latency_ms'][form]['1']:.2f}" for form in forms]
    cells = [row["model"], f"{row['parameters']:,}", f"{row['macs'] / 1e6:.0f}", *sizes, *times]
    return f"| {' | '.join(cells)} |"


def test_the_table_comes_from_results():
    assert "`results/infer_36.json`" in PAGE
    for name, forms in (("infer_36", ("eager", "plain", "onnx", "int8")), ("infer_96", ("eager", "onnx", "int8"))):
        for row in rows(name).values():
            assert line(row, forms) in PAGE


def test_int8_of_mlit_xxs_is_under_a_megabyte():
    from feathervit.export.int8 import quantise
    from feathervit.export.onnx import core, finish
    from feathervit.models import create_model

    proto = core(create_model("mlit_xxs", img_size=36, patch_size=3, num_classes=100), 36, 3)
    facts = {"model": "mlit_xxs", "feathervit": "0", "img_size": 36, "channels": 3}
    small = quantise(proto, "dynamic", np.zeros((0, 3, 36, 36), np.float32))
    assert len(finish(small, facts, ImageConfig()).SerializeToString()) <= 950_000


def test_what_was_promised_of_mlit_xxs():
    found = rows("infer_36")
    ours, twin = (
        {form: ms["1"] for form, ms in found[name]["latency_ms"].items()} for name in ("mlit_xxs", "twin:mlit_xxs")
    )
    assert found["mlit_xxs"]["bytes"]["int8"] <= 950_000
    assert ours["onnx"] <= 0.8 * ours["eager"]
    assert ours["int8"] <= 0.75 * ours["plain"]
    for form in ("onnx", "int8"):
        assert ours[form] <= 1.1 * twin[form]

"""Verdicts on claims, from made-up cells; SciPy's own test gives the interval."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from scipy.stats import ttest_1samp

from feathervit.errors import RunFolderError
from feathervit.studies import STUDIES
from feathervit.studies.claims_table import claims_table
from feathervit.studies.definition import Statement
from feathervit.studies.verdicts import compare, verdict

CLAIM = Statement(1, "a is better than b", (("a", "b"),), "more")


def cells(**arms: list[float]) -> list[dict]:
    """Cells of arms with a test accuracy in % per seed."""
    return [
        {"arm": arm, "seed": seed, "status": "finished", "test_top1": top1 / 100}
        for arm, tops in arms.items()
        for seed, top1 in enumerate(tops)
    ]


def test_the_interval_equals_a_paired_t_test():
    (found,) = compare(CLAIM, cells(a=[20.0, 23.0, 21.5, 9.0], b=[18.0, 22.0, 17.5]))
    expected = ttest_1samp([2.0, 1.0, 4.0], 0.0).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.points == pytest.approx([2.0, 1.0, 4.0])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([20, 21, 22], [10, 11.5, 12], "holds"),
        ([10, 11.5, 12], [20, 21, 22], "does not hold"),
        ([20, 21, 22], [19, 22, 21], "undecided"),
        ([20], [10], "undecided"),  # one seed shows no spread
        ([], [10, 11, 12], "not run"),
    ],
)
def test_the_verdict_of_a_comparison(a, b, expected):
    assert verdict(compare(CLAIM, cells(a=a, b=b))) == expected


def test_a_claim_of_several_parts_holds_if_all_do():
    claim = replace(CLAIM, above=(("a", "b"), ("a", "c")))
    a, b = [20, 21, 22], [10, 11.5, 12]
    assert verdict(compare(claim, cells(a=a, b=b, c=b))) == "holds"
    assert verdict(compare(claim, cells(a=a, b=b))) == "undecided"
    assert verdict(compare(claim, cells(a=a, b=b, c=[20.5, 20.5, 22]))) == "undecided"
    assert verdict(compare(claim, cells(a=a, b=b, c=[30, 31, 32.5]))) == "does not hold"


def test_seeds_of_one_pre_training_run_decide_nothing_between_runs():
    """The text names the run. A comparison of one run with another is undecided, for any difference."""
    starts = {"fine": ("short",), "long fine": ("long",)}
    tops = {"scratch": [10, 11.5, 12], "fine": [20, 21, 22], "long fine": [30, 31.5, 32]}

    def found(above, below):
        claim = replace(CLAIM, above=((above, below),))
        return compare(claim, cells(**tops), lambda arm: starts.get(arm, ()))

    assert verdict(found("fine", "scratch")) == "holds"
    assert "3 seeds, one pre-training run, 95 %" in found("fine", "scratch")[0].text()
    for pair in (("long fine", "fine"), ("fine", "long fine")):
        assert verdict(found(*pair)) == "undecided"
        assert "one pre-training run each" in found(*pair)[0].text()
    assert verdict(found("fine", "absent")) == "not run"
    assert "pre-training" not in compare(CLAIM, cells(a=[20, 21], b=[10, 11]))[0].text()


def test_claims_compare_arms_of_their_study():
    numbers = []
    for study in STUDIES.values():
        for statement in study.statements:
            assert {arm for pair in statement.above for arm in pair} <= set(study.arms)
        numbers += [s.number for s in study.statements if not study.name.endswith("-deep")]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13]  # 8 is a benchmark


def write(results, name: str, found: list[dict], epochs: int):
    folder = results / name
    folder.mkdir(exist_ok=True)
    arms = {cell["arm"] for cell in found}
    study = {"name": name, "cells": found, "epochs": {arm: [epochs] for arm in arms}}
    (folder / "study.json").write_text(json.dumps(study))


def row(results, number: int) -> list[str]:
    lines = [line.split(" | ") for line in claims_table(results).splitlines() if line.startswith(f"| {number}. ")]
    return lines[0] if lines else []


def test_the_table_of_claims(tmp_path):
    assert "\n- 1. More parameters" in claims_table(tmp_path)
    some = {"XXS": [10, 11, 12], "XS": [12, 13.5, 14], "S": [15, 15.5, 17]}
    write(tmp_path, "claims", cells(**some), 6)
    assert row(tmp_path, 1)[2:] == ["holds", " |"]
    assert "S over XS: +2.67 points (3 seeds" in row(tmp_path, 1)[1] and "epochs: 6<br>" in row(tmp_path, 1)[1]
    assert "`results/claims`" in row(tmp_path, 1)[1]
    write(tmp_path, "claims-deep", cells(**{**some, "S": [15]}), 18)
    assert row(tmp_path, 1)[2] == "holds"  # the longer study has one seed of S only
    write(tmp_path, "claims-deep", cells(**{**some, "S": [2, 2.5, 4]}), 18)
    assert row(tmp_path, 1)[2:] == ["does not hold", "the 100 epochs of all images of the paper |"]
    assert "epochs: 18<br>" in row(tmp_path, 1)[1]
    full, half = "XXS pre-trained, 100 per cent of labels", "XXS pre-trained for 1-2 of the epochs"
    some |= {full: [30, 31.5, 32], half: [20, 21, 22], "XXS pre-trained for 1-4 of the epochs": [15, 15.5, 17]}
    write(tmp_path, "claims", cells(**some), 6)
    assert row(tmp_path, 7)[2] == "undecided" and "one pre-training run each" in row(tmp_path, 7)[1]
    (tmp_path / "claims" / "study.json").write_text("{")
    with pytest.raises(RunFolderError, match="not a result of a study"):
        claims_table(tmp_path)


def test_latency_is_compared_in_three_forms(tmp_path):
    def times(*ms):
        return {form: {"1": value} for form, value in zip(("eager", "onnx", "int8"), ms, strict=True)}

    path, twin = tmp_path / "infer_36.json", times(4, 4, 4)
    for ours, expected in ((times(3, 2, 1), "holds"), (times(5, 2, 1), "undecided"), (times(5, 5, 5), "does not hold")):
        found = [{"model": "mlit_xxs", "latency_ms": ours}, {"model": "twin:mlit_xxs", "latency_ms": twin}]
        path.write_text(json.dumps({"rows": found}))
        assert row(tmp_path, 8)[2] == expected
    path.write_text(json.dumps({"rows": []}))
    assert not row(tmp_path, 8)

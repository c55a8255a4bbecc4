"""The folders and tables of studies; every registered study builds and runs."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from feathervit.checkpoint import load_weights
from feathervit.cli import main
from feathervit.config import EncoderConfig
from feathervit.recipes import recipe
from feathervit.results import read_result
from feathervit.studies import STUDIES, Size, Study
from feathervit.studies import plan as plans
from feathervit.studies.cells import run_study
from feathervit.studies.library.transfer import WEIGHTS
from feathervit.studies.report import _chart, doubt, paired, table
from feathervit.weights import list_weights

from .example import SMALL, digits

# --- tables


def test_table_shows_mean_range_and_paired_difference(tmp_path):
    ended = run_study(digits(seeds=(0, 1, 2)), tmp_path)
    top1 = {
        arm: [
            100 * read_result(path).test["top1"] for path in sorted((tmp_path / "cells" / arm).glob("*/1/result.json"))
        ]
        for arm in ("slow", "quick")
    }
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ") for line in table(ended.found).splitlines() if "|" in line
    }
    for arm, values in top1.items():
        assert rows[arm][2] == f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        assert rows[arm][4] == "3"
    less = [q - s for q, s in zip(top1["quick"], top1["slow"], strict=True)]
    assert rows["quick"][3] == f"{statistics.mean(less):+.2f} ({min(less):+.2f} to {max(less):+.2f})"
    assert rows["Arm"][3] == "Test less slow, points"
    assert rows["slow"][3].strip() == ""
    assert (tmp_path / "table.md").read_text() == table(ended.found) + "\n"
    assert json.loads((tmp_path / "study.json").read_text()) == ended.found
    _chart(ended.found, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    for cell in ended.found["cells"]:
        rows = read_result(tmp_path / "cells" / cell["arm"] / f"seed-{cell['seed']}" / "1" / "result.json").epochs
        assert cell["curve"] == [[round(row["minutes"], 3), round(row["val_top1"], 4)] for row in rows]


def test_differences_use_shared_seeds():
    def cell(arm, seed, top1, status="finished"):
        return {"arm": arm, "seed": seed, "status": status, "test_top1": top1}

    cells = [cell("a", 0, 0.5), cell("a", 1, 0.6), cell("b", 1, 0.7), cell("b", 2, 0.9), cell("b", 0, None, "failed")]
    assert paired(cells, "a", "b", "test_top1") == [pytest.approx(10.0)]


def test_unequal_classes_add_the_macro_accuracy(folder, tmp_path):
    flat, *others = sorted((folder / "test").iterdir())
    for name in others:
        for image in sorted(name.iterdir())[1:]:
            image.unlink()
    fields = {**SMALL, "img_size": 16, "patch_size": 4, "model": "mlit_nano"}
    study = Study("mine", "Why?", replace(recipe("digits"), data=""), {"a": {}}, {"": Size((0,), fields, 2)})
    ended = run_study(study, tmp_path / "out", data=folder)
    (cell,) = ended.found["cells"]
    result = read_result(tmp_path / "out" / "cells" / "a" / "seed-0" / "1" / "result.json")
    assert cell["test_macro"] == pytest.approx(statistics.mean(result.test["per_class"].values()))
    assert "val_macro" not in cell
    head, _, row = (line.split(" | ") for line in table(ended.found).splitlines() if line.startswith("|"))
    assert row[head.index("Test macro, %")] == f"{100 * cell['test_macro']:.2f}"
    assert len(list(flat.iterdir())) > 3


def test_no_local_path_is_stored(folder, tmp_path):
    fields = {**SMALL, "img_size": 16, "patch_size": 4, "model": "mlit_nano"}
    study = Study(
        "mine", "Why?", replace(recipe("digits"), data=""), {"a": {}, "wild": {"lr": 1e30}}, {"": Size((0,), fields, 1)}
    )
    out = tmp_path / "out"
    ended = run_study(study, out, data=folder, command=f"feathervit study /else/where.json --data {folder} --out {out}")
    assert ended.failed == 1
    text = (out / "study.json").read_text() + (out / "table.md").read_text()
    assert str(tmp_path) not in text
    assert ended.found["command"] == "feathervit study where.json --data set --out out"
    assert ended.found["base"]["data"] == "set"


def test_study_verb(tmp_path, capsys):
    file = tmp_path / "rates.json"
    members = {"recipe": "digits", "question": "Why?", "fields": SMALL, "epochs": 1, "grid": {"lr": [0.001, 0.002]}}
    file.write_text(json.dumps(members))
    out = str(tmp_path / "out")
    assert main(["study", str(file), "--out", out, "--seeds", "0", "--threads", "1"]) == 0
    assert "| lr=0.002 |" in (output := capsys.readouterr().out)
    assert "cell 2 of 2: lr=0.002, seed 0" in output
    (tmp_path / "out" / "table.md").unlink()
    assert main(["study", str(file), "--out", out, "--show", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["cells"]) == 2
    assert (tmp_path / "out" / "table.md").exists()


# --- the registered studies

TINY = {"img_size": 16, "patch_size": 4, "batch_size": 8, "arch.depth": 3, "arch.dim": 48, "split.train_per_class": 6}


def tiny(study: Study, size: str) -> Study:
    """The study with every stage reduced to two steps of a small model. All other changes stay."""

    def cut(stage):
        asked = {**study.sizes[size].fields, **stage}
        ours = not str(asked.get("model", study.base.model)).startswith("timm:")
        ours &= asked.get("start_from") not in list_weights()  # package weights keep their size
        fields = {k: v for k, v in TINY.items() if ours or not k.startswith(("arch.", "patch"))}
        if str(asked.get("model", study.base.model)).startswith("feather"):
            fields["patch_size"] = 8
        if isinstance(asked.get("arch"), EncoderConfig):
            fields = {k: v for k, v in fields.items() if k != "arch.dim"}
        if stage.get("arch.depth") == 0:  # a model without layers stays one
            fields["arch.depth"] = 0
        kept = {name: value for name, value in stage.items() if name not in ("data", "reading.classes")}
        return {**kept, **fields, "epochs": 1}

    arms = {}
    for arm in study.arms:
        stages = [cut(stage) for stage in study.stages(arm)]
        if stages not in arms.values() or arm in study.shared():  # skips equal stages on another dataset
            arms[arm] = stages
    sizes = {size: replace(study.sizes[size], seeds=(0,), epochs=None, minutes=None)}
    return replace(study, arms=arms, sizes=sizes, candidates={})


LIBRARY = [name for name in STUDIES if name != "papers" and not name.endswith("-trials")]  # these have their own tests


@pytest.mark.parametrize("count", [1, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LIBRARY)
def test_registered_studies_build_and_run(name, count, folder, tmp_path):
    """The first `count` arms run (None: all of them); all are planned."""
    study = STUDIES[name]
    assert study.name == name
    assert study.question.endswith("?")
    small = tiny(study, "cpu")
    arms = list(study.sizes["cpu"].arms or small.arms)[:count]
    ended = run_study(small, tmp_path / "cpu", arms=arms, data=folder)
    assert not ended.failed, table(ended.found)
    assert [c["arm"] for c in ended.found["cells"]] == arms
    for size in study.sizes:  # all arms are planned: every field fits
        other = tiny(study, size)
        other = replace(other, base=replace(other.base, data=str(folder)))
        plans.make_plan(other, size, tmp_path / f"plan of {size}", "", lambda _: None)


def test_the_arm_of_the_head_trains_only_the_head_and_batch_norms(folder, tmp_path):
    (arm,) = [name for name in STUDIES["transfer"].arms if name == "head and batch-norm statistics on flowers102"]
    study = tiny(STUDIES["transfer"].only([arm]), "cpu")
    run_study(study, tmp_path / "out", data=folder)
    last = tmp_path / "out" / "cells" / arm / "seed-0" / "1" / "last.safetensors"
    before, after = load_weights(WEIGHTS).weights, load_weights(last).weights
    changed = {
        name.split(".")[-1] if "running" in name or "batches" in name else name
        for name in before.keys() & after.keys()
        if before[name].shape != after[name].shape or not torch.allclose(before[name], after[name], atol=1e-6)
    }
    assert {"running_mean", "running_var"} <= changed
    assert changed <= {"head.weight", "head.bias", "running_mean", "running_var", "num_batches_tracked"}


def test_few_seeds_add_a_caution():
    """The interval contains the true deviation in 95 of 100 draws. Equal signs occur by chance in 2 of 2^n cases."""

    def found(n):
        return {"cells": [{"arm": arm, "seed": seed, "status": "finished"} for arm in "ab" for seed in range(n)]}

    assert doubt(found(0)) == doubt(found(5)) == ""
    assert "One seed" in doubt(found(1))
    for n in (2, 3, 4):
        low, high = (float(x) for x in re.findall(r"([\d.]+) to ([\d.]+) times", doubt(found(n)))[0])
        measured = np.random.default_rng(0).standard_normal((20_000, n)).std(1, ddof=1)
        assert np.mean((low * measured <= 1) & (high * measured >= 1)) == pytest.approx(0.95, abs=0.02)
        assert f"{2 / 2**n:.3g} where" in doubt(found(n))

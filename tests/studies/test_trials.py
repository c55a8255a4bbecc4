"""Candidates of arms: trials choose one by validation, and the study continues with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from feathervit.errors import ConfigError, RunFolderError
from feathervit.studies import STUDIES, Size
from feathervit.studies import plan as plans
from feathervit.studies.cells import run_study
from feathervit.studies.definition import check_study
from feathervit.studies.plan import read_plan
from feathervit.studies.report import read_cell, table
from feathervit.studies.trials import rates, trials_of, with_choices

from .example import SMALL, digits


@pytest.fixture
def study(monkeypatch):
    """Two arms, one of them with three rates. A cell takes 6 seconds, and a trial 2.4."""
    monkeypatch.setattr(
        plans, "measure_step", lambda config, *_, **__: {"images_per_s": 40.0, "images_per_cpu_s": 40.0}
    )
    chosen = digits({"one": {"lr": 5e-3}, "rate": {"arch.depth": 1}}, seeds=(3,), epochs=None, minutes=0.1)
    return replace(chosen, candidates={"rate": rates(3e-3)}, trials=Size((0,), SMALL, minutes=0.04))


def test_rates_differ_by_a_factor_of_three():
    assert list(rates(5e-4).values()) == [{"lr": 0.00017}, {"lr": 0.0005}, {"lr": 0.0015}]
    assert list(rates(0.02)) == ["lr 0.0067", "lr 0.02", "lr 0.06"]


def test_validation_chooses_the_candidate(study, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="run feathervit study digits-trials"):
        run_study(study, tmp_path / "study")
    found = run_study(trials_of(study), tmp_path / "trials").found
    path = tmp_path / "trials" / "study.json"
    assert [cell["arm"] for cell in found["cells"]] == [f"rate, lr {rate}" for rate in ("0.001", "0.003", "0.009")]
    assert {cell["seed"] for cell in found["cells"]} == {0}
    best = max(found["cells"], key=lambda cell: cell["val_top1"])["arm"].removeprefix("rate, ")
    ended = run_study(study, tmp_path / "study", trials=path)
    plan = read_plan(tmp_path / "study")
    assert plan.epochs["rate"] == [round(6 * 40 / 64)]  # 80 images in batches of 32, the rest is dropped
    assert plan.trials == {"rate": {cell["arm"].removeprefix("rate, "): cell["val_top1"] for cell in found["cells"]}}
    assert read_cell(tmp_path / "study", "rate", 3).stages[0]["config"]["lr"] == float(best[3:])
    assert f"rate: {best}, " in table(ended.found)
    assert read_cell(tmp_path / "study", "rate", 3).figures["steps"] == [2 * plan.epochs["rate"][0]]
    assert run_study(study, tmp_path / "study", trials=path).found["cells"] == ended.found["cells"]


def test_missing_or_failed_trials(study, tmp_path):
    trials = trials_of(study)
    run_study(trials, tmp_path / "trials", arms=["rate, lr 0.003"])
    path = tmp_path / "trials" / "study.json"
    with pytest.raises(ConfigError, match=r"'rate, lr 0.001' has not ended"):
        with_choices(study, path)
    with pytest.raises(ConfigError, match="no arm has candidates"):
        run_study(study, tmp_path / "study", arms=["one"], trials=path)
    with pytest.raises(RunFolderError, match=r"not a result of the study digits-trials: it is of the study 'other'"):
        other = tmp_path / "other.json"
        other.write_text(json.dumps({"name": "other"}))
        with_choices(study, other)
    found = json.loads(path.read_text())
    ended = found["cells"][0]
    failed = [{"arm": f"rate, lr {rate}", "seed": 0, "status": "failed"} for rate in ("0.001", "0.009")]
    path.write_text(json.dumps({**found, "cells": [ended, *failed]}))
    assert with_choices(study, path)[0].stages("rate")[-1]["lr"] == 3e-3
    path.write_text(json.dumps({**found, "cells": [{**failed[0], "arm": f"rate, {name}"} for name in rates(3e-3)]}))
    with pytest.raises(ConfigError, match="all trials of 'rate' failed"):
        with_choices(study, path)


def test_planning_measures_each_configuration_once(study, tmp_path, monkeypatch, ran):
    measured = []

    def step(config, *_, **__):
        measured.append((config.lr, config.arch.depth))
        return {"images_per_s": 40.0, "images_per_cpu_s": 80.0}

    monkeypatch.setattr(plans, "measure_step", step)
    monkeypatch.setattr(plans.torch, "get_num_threads", lambda: 1)
    ended = run_study(trials_of(study), tmp_path, plan_only=True)
    assert not ran and ended.left == 3
    assert len(measured) == 1  # the rates do not change the time
    assert read_plan(tmp_path).images_per_s == {f"rate, {name}": [80.0] for name in rates(3e-3)}  # of CPU time


@pytest.mark.parametrize("name", [name for name in STUDIES if name.endswith("-trials")])
def test_registered_trials_try_every_candidate(name):
    study = STUDIES[name.removesuffix("-trials")]
    check_study(STUDIES[name], study.trials)
    assert set(study.candidates) <= set(study.arms)
    assert len(STUDIES[name].arms) == sum(map(len, study.candidates.values()))

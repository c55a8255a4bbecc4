"""The plan of a study: permitted additions, and minutes that are converted to epochs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from feathervit.errors import RunFolderError
from feathervit.recipes import recipe
from feathervit.studies import Size, Study
from feathervit.studies import plan as plans
from feathervit.studies.cells import run_study
from feathervit.studies.plan import read_plan
from feathervit.studies.report import read_cell

from .example import SMALL, digits


def test_minutes_become_epochs_once(tmp_path, monkeypatch, ran):
    speeds = {"none": 100.0, "random": 50.0}
    measured = []

    def step(config, *_, **__):
        measured.append(config.augment.flip)
        assert (config.images.channels, config.img_size, config.arch.depth) == (1, 8, 2)
        return dict.fromkeys(("images_per_s", "images_per_cpu_s"), speeds[config.augment.flip])

    monkeypatch.setattr(plans, "measure_step", step)
    arms = {"slow": {"augment.flip": "none"}, "quick": {"augment.flip": "random"}}
    study = digits(arms, epochs=None, minutes=0.05, seeds=(0,), fields={"batch_size": 16})
    run_study(study, tmp_path)
    wanted = {"slow": [round(3 * 100 / 80)], "quick": [round(3 * 50 / 80)]}  # three seconds, 80 images
    assert read_plan(tmp_path).epochs == wanted
    assert read_plan(tmp_path).images_per_s == {"slow": [100.0], "quick": [50.0]}
    assert read_cell(tmp_path, "slow", 0).figures["epochs"] == wanted["slow"]
    speeds |= {"none": 1.0, "random": 1.0, "alternating": 200.0}
    run_study(replace(study, arms={**study.arms, "new": {"augment.flip": "alternating"}}), tmp_path, seeds=(0, 1))
    assert measured == ["none", "random", "alternating"]
    assert read_plan(tmp_path).epochs == {**wanted, "new": [round(3 * 200 / 80)]}
    assert read_cell(tmp_path, "slow", 1).figures["epochs"] == wanted["slow"]


def test_a_stage_is_measured_with_the_model_it_continues(tmp_path, monkeypatch):
    seen = []

    def step(config, *_, **__):
        seen.append((config.arch.depth, config.arch.dim, config.patch_size))
        return {"images_per_s": 100.0, "images_per_cpu_s": 100.0}

    monkeypatch.setattr(plans, "measure_step", step)
    own = {"img_size": 8, "batch_size": 32, "split.train_per_class": 8}
    stages = [{"recipe": "mae_digits", "arch.depth": 3, "arch.dim": 48, "patch_size": 2}, {"start_from": "{previous}"}]
    study = Study("two", "What?", recipe("digits"), {"a": stages}, {"": Size((0,), own, minutes=1.0)})
    plans.make_plan(study, "", tmp_path, "", lambda _: None)
    assert seen == [(3, 48, 2)] * 2


def test_the_speed_of_a_real_step_is_measured(tmp_path):
    ended = run_study(digits({"one": {}}, epochs=None, seeds=(0,)), tmp_path, minutes=0.005)
    plan = read_plan(tmp_path)
    assert plan.images_per_s["one"][0] > 1
    assert plan.epochs["one"][0] >= 1
    assert plan.measured_on["one"]["threads"] == torch.get_num_threads()
    assert ended.found["budget"] == {"minutes": 0.005}


def test_another_study_in_the_folder_is_refused(tmp_path, ran):
    study = digits(seeds=(0,), epochs=1, arms={"slow": {"lr": 1e-3}})
    run_study(study, tmp_path)
    for change, message in (
        ({"base": replace(recipe("digits"), lr=1.0)}, "base.lr was 0.005, now 1.0"),
        ({"arms": {"slow": {"lr": 2e-3}}}, "arms.slow was"),
        ({"name": "other"}, "name was 'digits', now 'other'"),
        ({"sizes": {"": Size((0,), SMALL, epochs=3)}}, "budget.epochs was 1, now 3"),
        ({"sizes": {"": Size((0,), {**SMALL, "batch_size": 16}, epochs=1)}}, "fields.batch_size was 32, now 16"),
    ):
        with pytest.raises(RunFolderError, match=message):
            run_study(replace(study, **change), tmp_path)
    assert len(ran) == 1

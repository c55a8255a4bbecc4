"""Studies: every cell once, whatever is killed or run side by side; tables that say what the cells say."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch

from feathervit.config import MLP
from feathervit.errors import ConfigError, DataError, RunFolderError, UnknownNameError
from feathervit.recipes import recipe
from feathervit.results import read_result
from feathervit.studies import STUDIES, Size, Study, grid, read_study
from feathervit.studies import study as named
from feathervit.study import claim as claims
from feathervit.study import plan as plans
from feathervit.study import run as runs
from feathervit.study.plan import read_plan
from feathervit.study.report import read_cell, rebuild, table
from feathervit.study.run import run_study
from feathervit.training import loop
from feathervit.training.checkpoint import load_weights

SMALL = {"batch_size": 32, "arch.depth": 2, "arch.dim": 32, "img_size": 8, "patch_size": 2, "split.train_per_class": 8}
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")


def digits(arms=None, seeds=(0, 1), epochs=2, **size) -> Study:
    """A study of seconds: 80 handwritten digits, two small layers."""
    arms = arms or {"slow": {"lr": 1e-3}, "quick": {"lr": 5e-3}}
    fields = {**SMALL, **size.pop("fields", {})}
    return Study("digits", "Which rate?", recipe("digits"), arms, {"": Size(seeds, fields, epochs, **size)})


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The stage folders that were trained in, in order."""
    folders, whole = [], runs.train

    def train(*args, out, **kwargs):
        folders.append("/".join(Path(out).parts[-3:]))
        return whole(*args, out=out, **kwargs)

    monkeypatch.setattr(runs, "train", train)
    return folders


# --- cells


def test_every_cell_is_run_once_with_its_changes(tmp_path, ran):
    ended = run_study(digits(), tmp_path)
    assert ran == ["slow/seed-0/1", "quick/seed-0/1", "slow/seed-1/1", "quick/seed-1/1"]
    assert (ended.left, ended.failed, ended.interrupted) == (0, 0, False)
    for row in ended.found["cells"]:
        result = read_result(tmp_path / "cells" / row["arm"] / f"seed-{row['seed']}" / "1" / "result.json")
        assert (result.seed, len(result.epochs), result.config["lr"]) == (
            row["seed"],
            2,
            {"slow": 1e-3, "quick": 5e-3}[row["arm"]],
        )
        assert (row["test_top1"], row["val_top1"]) == (result.test["top1"], result.val["top1"])
        assert row["parameters"] == result.parameters
        assert (row["epochs"], row["minutes"]) == ([2], result.minutes)
        assert read_cell(tmp_path, row["arm"], row["seed"]).stages[0]["config"] == result.config
    assert run_study(digits(), tmp_path).found["cells"] == ended.found["cells"]
    run_study(digits(arms={"slow": {"lr": 1e-3}, "third": {"lr": 2e-3}}, seeds=(0, 5)), tmp_path)
    assert ran[4:] == ["third/seed-0/1", "slow/seed-5/1", "third/seed-5/1"]
    assert list(read_plan(tmp_path).arms) == ["slow", "quick", "third"]
    assert read_plan(tmp_path).seeds == [0, 1, 5]


def test_stages_run_one_after_another(tmp_path):
    arms = {
        "scratch": {},
        "twice": [{"share": 0.75, "data": "digits"}, {"share": 0.25, "start_from": "{previous}", "recipe": "digits"}],
        "own": [{"epochs": 1}, {"start_from": "{previous}", "split.seed": "{seed}", "optim.warmup_epochs": 1.5}],
    }
    run_study(digits(arms, seeds=(3,), epochs=4), tmp_path)
    assert read_plan(tmp_path).epochs == {"scratch": [4], "twice": [3, 1], "own": [1, 4]}
    cell = read_cell(tmp_path, "twice", 3)
    assert [len(s["epochs"]) for s in cell.stages] == cell.figures["epochs"] == [3, 1]
    assert cell.figures["minutes"] == pytest.approx(sum(s["minutes"] for s in cell.stages))
    assert cell.figures["test_top1"] == cell.stages[1]["test"]["top1"]
    config = cell.stages[1]["config"]
    assert config["start_from"] == str(tmp_path / "cells" / "twice" / "seed-3" / "1")
    assert "tensors taken" in (tmp_path / "cells" / "twice" / "seed-3" / "log.txt").read_text()
    assert config["optim"]["warmup_epochs"] == pytest.approx(5 * 1 / 70)  # a recipe's share: 5 of 70
    assert config["split"]["seed"] == 0
    own = read_cell(tmp_path, "own", 3).stages[1]["config"]
    assert (own["split"]["seed"], own["optim"]["warmup_epochs"]) == (3, 1.5)


def test_a_failed_cell_is_recorded_and_the_study_goes_on(tmp_path, ran):
    study = digits({"wild": {"lr": 1e30}, "quick": {"lr": 5e-3}}, seeds=(0,), fields={"optim.warmup_epochs": 0.0})
    ended = run_study(study, tmp_path)
    assert (ended.failed, ended.left) == (1, 0)
    wild, quick = ended.found["cells"]
    assert (wild["status"], quick["status"]) == ("failed", "finished")
    assert "stopped being finite" in wild["message"]
    assert "0 (1 failed)" in table(ended.found) and "- wild, seed 0, failed: the loss" in table(ended.found)
    run_study(study, tmp_path)
    assert len(ran) == 2
    run_study(study, tmp_path, retry_failed=True)
    assert ran[2:] == ["wild/seed-0/1"]


def test_what_the_place_lacks_fails_no_cell(tmp_path):
    study = digits()
    run_study(study, tmp_path / "study", seeds=(0,))
    with pytest.raises(DataError, match="no folder"):
        run_study(replace(study, base=replace(study.base, data="elsewhere/digits")), tmp_path / "study")
    assert read_cell(tmp_path / "study", "slow", 1) is None
    assert run_study(study, tmp_path / "study").left == 0


def test_shards_are_disjoint_and_together_all(tmp_path, ran):
    study = digits({n: {} for n in "abc"}, epochs=1)
    for i in (1, 2):
        run_study(study, tmp_path / f"{i}", shard=f"{i}/2")
    assert len(ran) == 6 and len(set(ran)) == 6
    assert ran[:3] == ["a/seed-0/1", "c/seed-0/1", "b/seed-1/1"]
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(ConfigError, match="shard"):
            run_study(study, tmp_path / "wrong", shard=wrong)


def test_a_study_in_pieces_of_a_moment_ends_as_one_uncut(tmp_path):
    study = digits(seeds=(0,))
    whole = run_study(study, tmp_path / "whole").found["cells"]
    calls = 1
    while run_study(study, tmp_path / "cut", max_minutes=1e-9).left:
        calls += 1
        assert calls < 20
    assert calls == 2 * 2 * (80 // 32)  # a step each
    cut = rebuild(tmp_path / "cut")["cells"]
    assert [(c["arm"], c["test_top1"]) for c in cut] == [(c["arm"], c["test_top1"]) for c in whole]


def same_weights(a: Path, b: Path) -> bool:
    x, y = load_weights(a).weights, load_weights(b).weights
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def _killed_at(step: int, study: Study, out: Path) -> None:
    whole = loop.Trainer.train_step

    def dying(self, number, lr):
        if number == step and "/quick/" in str(self.folder) and self.folder.name == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, number, lr)

    loop.Trainer.train_step = dying
    loop.CHECKPOINT_SECONDS = loop.SHORT_EPOCH_SECONDS = 0.0
    run_study(study, out)


@fork
def test_killed_in_mid_cell_it_goes_on_to_the_same_weights(tmp_path, ran):
    study = digits({"slow": {"lr": 1e-3}, "quick": [{"epochs": 1}, {"start_from": "{previous}"}]}, seeds=(0,))
    run_study(study, tmp_path / "whole")
    for step in (0, 2):  # before the second stage's first state, and after one
        process = multiprocessing.get_context("fork").Process(target=_killed_at, args=(step, study, tmp_path / "cut"))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert read_cell(tmp_path / "cut", "quick", 0) is None
    ran.clear()
    assert run_study(study, tmp_path / "cut").left == 0
    assert ran == ["quick/seed-0/2"]  # at once, for its owner is dead
    for name in ("best.safetensors", "last.safetensors"):
        at = Path("cells", "quick", "seed-0", "2", name)
        assert same_weights(tmp_path / "whole" / at, tmp_path / "cut" / at)
    tops = [read_cell(tmp_path / n, "quick", 0).figures["test_top1"] for n in ("whole", "cut")]
    assert tops[0] == tops[1]


def _worker(study: Study, out: Path, log: Path, together: Barrier) -> None:
    whole = runs.train
    first = iter([True])

    def train(*args, out, **kwargs):
        if next(first, False):
            together.wait(timeout=120)  # each is in a cell of its own
        with log.open("a") as file:
            file.write(f"{os.getpid()} {'/'.join(Path(out).parts[-3:])}\n")
        return whole(*args, out=out, **kwargs)

    runs.train = train
    run_study(study, out)


@fork
def test_processes_over_one_folder_share_the_cells(tmp_path):
    study = digits({n: {} for n in "abc"}, seeds=(0, 1), epochs=1)
    fork = multiprocessing.get_context("fork")
    words = (study, tmp_path / "study", tmp_path / "log", fork.Barrier(3))
    workers = [fork.Process(target=_worker, args=words) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(cell for _, cell in lines) == sorted(f"{a}/seed-{s}/1" for a in "abc" for s in (0, 1))
    assert len({pid for pid, _ in lines}) == 3
    assert len(json.loads((tmp_path / "study" / "study.json").read_text())["cells"]) == 6


# --- claims


def test_a_claim_is_held_by_one_until_it_is_given_back(tmp_path):
    first = claims.claim(tmp_path)
    assert claims.claim(tmp_path) is None
    with first:
        assert first.mine
    second = claims.claim(tmp_path)
    assert second.mine and not first.mine
    with second:
        assert claims.claim(tmp_path) is None


def test_the_claim_of_a_silent_owner_is_taken_over_by_one(tmp_path, monkeypatch):
    lost = claims.claim(tmp_path)
    owner = json.loads(lost.path.read_text())
    lost.path.write_text(json.dumps({**owner, "host": "elsewhere"}))
    assert claims.claim(tmp_path) is None  # it may live
    past = time.time() - claims.STALE_SECONDS - 1
    os.utime(lost.path, (past, past))
    second, third = claims.claim(tmp_path), claims.claim(tmp_path)
    assert second.mine and third is None and not lost.mine
    with lost:
        pass  # awake again, it gives back what is no longer its own
    assert second.mine and claims.claim(tmp_path) is None
    with second:
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only there a process has its time")
def test_on_one_machine_the_process_counts_and_not_the_time(tmp_path):
    held = claims.claim(tmp_path)
    past = time.time() - claims.STALE_SECONDS - 1
    os.utime(held.path, (past, past))  # the machine was asleep
    assert claims.claim(tmp_path) is None
    owner = json.loads(held.path.read_text())
    held.path.write_text(json.dumps({**owner, "began": "1"}))  # another process had this number
    assert claims.claim(tmp_path).mine and not held.mine


def test_an_owner_that_works_is_not_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    with claims.claim(tmp_path) as held:
        owner = json.loads(held.path.read_text())
        held.path.write_text(json.dumps({**owner, "host": "elsewhere"}))
        past = time.time() - claims.STALE_SECONDS - 1
        os.utime(held.path, (past, past))
        deadline = time.monotonic() + 10
        while held.path.stat().st_mtime < past + 10 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert claims.claim(tmp_path) is None


# --- the plan


def test_minutes_become_epochs_once(tmp_path, monkeypatch, ran):
    speeds = {1e-3: 100.0, 5e-3: 50.0}
    measured = []

    def step(config, **_):
        measured.append(config.lr)
        assert (config.images.channels, config.img_size, config.arch.depth) == (1, 8, 2)
        return {"images_per_s": speeds[config.lr]}

    monkeypatch.setattr(plans, "measure_step", step)
    study = digits(epochs=None, minutes=0.1, seeds=(0,), fields={"batch_size": 16})
    run_study(study, tmp_path)
    # 80 pictures in batches of 16 and 144 for validation, each a third of a training picture; six seconds
    wanted = {"slow": [round(6 / ((80 + 144 / 3) / 100))], "quick": [round(6 / ((80 + 144 / 3) / 50))]}
    assert read_plan(tmp_path).epochs == wanted
    assert read_plan(tmp_path).images_per_s == {"slow": [100.0], "quick": [50.0]}
    assert read_cell(tmp_path, "slow", 0).figures["epochs"] == wanted["slow"]
    speeds |= {1e-3: 1.0, 5e-3: 1.0, 2e-3: 200.0}
    run_study(replace(study, arms={**study.arms, "new": {"lr": 2e-3}}), tmp_path, seeds=(0, 1))
    assert measured == [1e-3, 5e-3, 2e-3]
    assert read_plan(tmp_path).epochs == {**wanted, "new": [round(6 / ((80 + 144 / 3) / 200))]}
    assert read_cell(tmp_path, "slow", 1).figures["epochs"] == wanted["slow"]


def test_a_stage_is_measured_with_the_model_that_it_takes_over(tmp_path, monkeypatch):
    seen = []

    def step(config, **_):
        seen.append((config.arch.depth, config.arch.dim, config.patch_size))
        return {"images_per_s": 100.0}

    monkeypatch.setattr(plans, "measure_step", step)
    own = {"img_size": 8, "batch_size": 32, "split.train_per_class": 8}
    stages = [{"recipe": "mae_digits", "arch.depth": 3, "arch.dim": 48, "patch_size": 2}, {"start_from": "{previous}"}]
    study = Study("two", "What?", recipe("digits"), {"a": stages}, {"": Size((0,), own, minutes=1.0)})
    plans.make_plan(study, "", tmp_path, "", lambda _: None)
    assert seen == [(3, 48, 2)] * 2


def test_asked_to_stop_in_the_last_step_of_a_cell_it_begins_no_other(tmp_path, ran, monkeypatch):
    whole = loop.Trainer._end_epoch

    def asked(self, epoch, lr):
        self.interrupt.asked = self.interrupt.asked or epoch == self.config.epochs
        return whole(self, epoch, lr)

    monkeypatch.setattr(loop.Trainer, "_end_epoch", asked)
    ended = run_study(digits(epochs=1), tmp_path)
    assert ended.interrupted and ended.left == 3 and len(ran) == 1
    assert read_cell(tmp_path, "slow", 0).status == "finished"
    ended = run_study(digits({"two": [{}, {"start_from": "{previous}"}]}, epochs=1), tmp_path / "stages")
    assert ended.interrupted and ended.left == 2 and len(ran) == 2


def test_the_speed_of_a_real_step_is_measured(tmp_path):
    ended = run_study(digits({"one": {}}, epochs=None, seeds=(0,)), tmp_path, minutes=0.005)
    plan = read_plan(tmp_path)
    assert plan.images_per_s["one"][0] > 1
    assert plan.epochs["one"][0] >= 1
    assert plan.measured_on["one"]["threads"] == torch.get_num_threads()
    assert ended.found["budget"] == {"minutes": 0.005}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"base": replace(recipe("digits"), lr=1.0)}, "base.lr was 0.005, now 1.0"),
        ({"arms": {"slow": {"lr": 2e-3}}}, "arms.slow was"),
        ({"name": "other"}, "name was 'digits', now 'other'"),
        ({"sizes": {"": Size((0,), SMALL, epochs=3)}}, "budget.epochs was 1, now 3"),
        ({"sizes": {"": Size((0,), {**SMALL, "batch_size": 16}, epochs=1)}}, "fields.batch_size was 32, now 16"),
    ],
)
def test_another_study_in_the_folder_is_refused(tmp_path, ran, change, place):
    study = digits(seeds=(0,), epochs=1, arms={"slow": {"lr": 1e-3}})
    run_study(study, tmp_path)
    with pytest.raises(RunFolderError, match=place):
        run_study(replace(study, **change), tmp_path)
    assert len(ran) == 1


def test_arms_that_cannot_be_are_refused_before_anything_runs(tmp_path, ran):
    for arms, place in [
        ({"good": {}, "bad": {"optim.nmae": "lion"}}, r"arms.bad, stage 1: no field 'nmae'"),
        ({"bad": {"optim.name": "sgd"}}, r"arms.bad, stage 1: optim.name must be one of"),
        ({"bad": {"epochs": 0}}, r"arms.bad, stage 1: epochs must be at least 1"),
        ({"bad": {"recipe": "none"}}, r"arms.bad, stage 1: unknown recipe"),
        ({"bad": {"seed": 3}}, r"arms.bad.seed"),
        ({"bad": [{"share": 0.5}, {}]}, r"arms.bad: give a share to each"),
        ({"bad": [{"share": 0.5}, {"share": 0.1}]}, r"arms.bad: the shares must add up to 1"),
        ({"bad": []}, r"arms.bad: an arm needs"),
        ({"../bad": {}}, r"cannot name a folder"),
    ]:
        with pytest.raises(ConfigError, match=place):
            run_study(digits(arms), tmp_path)
    with pytest.raises(ConfigError, match=r"fields\.epochs"):
        run_study(digits(fields={"epochs": 3}), tmp_path)
    with pytest.raises(ConfigError, match="two budgets"):
        run_study(digits(minutes=3.0), tmp_path)
    with pytest.raises(ConfigError, match="one size"):
        run_study(digits(), tmp_path, size="gpu")
    assert not ran and not (tmp_path / "plan.json").exists()


# --- files and the grid


def test_a_grid_whose_arms_have_one_name_is_refused():
    with pytest.raises(ConfigError, match="one name"):
        grid(**{"arch.feedforward": [MLP(2.0), MLP(4.0)]})


def test_grid_is_all_combinations():
    arms = grid(**{"optim.name": ["adamw", "muon"], "lr": [0.1, 0.2]})
    assert arms["optim.name=muon,lr=0.1"] == {"optim.name": "muon", "lr": 0.1}
    assert len(arms) == 4
    assert list(grid(**{"arch.feedforward": [MLP(2.0)], "arch.feedforward.experts": [(3, 4)]})) == [
        "arch.feedforward=MLP,arch.feedforward.experts=3-4"
    ]


def test_a_file_says_what_python_says(tmp_path, ran):
    file = tmp_path / "rates.json"
    stages = [{"epochs": 1}, {"start_from": "{previous}", "arch.feedforward.experts": [3, 4, 5]}]
    words = {"recipe": "digits", "question": "Why?", "fields": SMALL, "seeds": [4], "epochs": 1}
    file.write_text(json.dumps({**words, "arms": {"one": {"lr": 2e-3}, "two": stages}}))
    study = named(str(file))
    assert (study.name, study.question, study.base) == ("rates", "Why?", recipe("digits"))
    run_study(study, tmp_path / "a")
    assert ran == ["one/seed-4/1", "two/seed-4/1", "two/seed-4/2"]
    file.write_text(json.dumps({**words, "data": "cifar10", "grid": {"lr": [1, 2]}}))
    assert list(read_study(file).arms) == ["lr=1", "lr=2"]
    assert read_study(file).base.data == "cifar10"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{", "is not a study"),
        ("[1]", "must be an object"),
        ('{"recipe": "digits", "arms": {"a": {}}, "seed": 3}', "unknown field 'seed'"),
        ('{"recipe": "digits", "arms": {"a": {}}, "seeds": ["x"]}', r"seeds\[0\] must be int"),
        ('{"recipe": "digits", "arms": {"a": {}}, "seeds": [1, 1]}', "seeds must be different"),
        ('{"recipe": "digits", "arms": {"a": 3}}', "arms.a must be an object"),
        ('{"recipe": "digits", "arms": {"a": {}}, "grid": {"lr": [1]}}', "either arms or grid"),
        ('{"recipe": "digits"}', "either arms or grid"),
        ('{"recipe": "digits", "grid": {"lr": 3}}', "grid.lr must be a list"),
        ('{"arms": {"a": {}}}', "recipe: name"),
        ('{"recipe": "digits", "arms": {"a": {}}, "epochs": 0}', "epochs must be at least 1"),
        ('{"recipe": "digits", "arms": {"a": {}}, "minutes": -1}', "minutes must be above 0"),
    ],
)
def test_files_that_are_no_study(tmp_path, text, place):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ConfigError, match=place) as error:
        read_study(tmp_path / "s.json")
    assert "s.json" in str(error.value)


def test_unknown_names(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean sharing"):
        named("shering")
    with pytest.raises(ConfigError, match=r"cannot read .*none.json"):
        named(str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="the sizes cpu, gpu, not 'tpu'"):
        run_study(STUDIES["sharing"], tmp_path, size="tpu")

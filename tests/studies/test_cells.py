"""Studies run every cell once, also after kills and in several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from PIL import Image

from feathervit.data import load_data
from feathervit.errors import DataError, RunFolderError
from feathervit.evaluation.inference import load
from feathervit.results import read_result, read_splits
from feathervit.studies import Study
from feathervit.studies import cell as runs
from feathervit.studies.cells import run_study
from feathervit.studies.plan import read_plan
from feathervit.studies.report import cell_folder, read_cell, rebuild, short_table, table
from feathervit.training import loop
from feathervit.training import state as saving

from ..conftest import same_weights
from .example import digits

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")


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


def test_progress_inside_a_cell_is_printed_and_logged(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr("rich.console.Console.print", _recording(printed))
    run_study(digits({"only": {}}, seeds=(0,)), tmp_path)
    lines = [line for line in printed if line.startswith("  epoch ")]
    assert any("2/2" in line for line in lines)
    log = (cell_folder(tmp_path, "only", 0) / "log.txt").read_text()
    assert all(line.removeprefix("  ") in log for line in lines)


def _recording(printed):
    from rich.console import Console

    original = Console.print

    def print(self, *arguments, **rest):
        printed.append(" ".join(map(str, arguments)))
        original(self, *arguments, **rest)

    return print


def test_the_terminal_table_fits_80_columns():
    names = ["short", "a-name-of-forty-letters-" + "x" * 16]
    cells = [
        {"arm": arm, "status": status, "test_top1": 0.5 + seed / 10, "minutes": 123.45}
        for arm in names
        for seed, status in enumerate(("finished", "finished", "failed"))
    ]
    lines = short_table({"arms": dict.fromkeys(names), "cells": cells})
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["short", "55.0", "(50.0", "to", "60.0)", "2", "123.5"] or "123.4" in lines[1]
    assert lines[2].startswith(names[1] + " ")


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
    assert "tensors loaded" in (tmp_path / "cells" / "twice" / "seed-3" / "log.txt").read_text()
    assert config["optim"]["warmup_epochs"] == pytest.approx(5 * 1 / 70)  # a recipe's share: 5 of 70
    assert config["split"]["seed"] == 0
    own = read_cell(tmp_path, "own", 3).stages[1]["config"]
    assert (own["split"]["seed"], own["optim"]["warmup_epochs"]) == (3, 1.5)


def test_flips_are_averaged_if_the_study_requests_it(tmp_path):
    """The accuracy equals that of two averaged logits, computed by hand. The plain figure does not change."""
    plain = run_study(digits({"one": {}}, seeds=(0,)), tmp_path / "plain").found["cells"][0]
    ended = run_study(replace(digits({"one": {}}, seeds=(0,)), flip=True), tmp_path / "flip")
    (cell,) = ended.found["cells"]
    predictor = load(tmp_path / "flip" / "cells" / "one" / "seed-0" / "1")
    test = load_data("digits", img_size=8).test
    x = (test.images.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        logits = predictor.model(x) + predictor.model(x.flip(-1))
    assert cell["flip_test_top1"] == pytest.approx((logits.argmax(1) == test.labels).float().mean().item())
    assert cell["test_top1"] == plain["test_top1"] != cell["flip_test_top1"]
    assert "flip_test_top1" not in plain
    assert "| Test, flip averaged |" in table(ended.found)


def test_a_failed_cell_is_recorded_and_the_study_continues(tmp_path, ran):
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
    assert run_study(study, tmp_path, arms=("quick",)).failed == 0  # only the cells of the call count


def test_missing_data_does_not_fail_a_cell(tmp_path):
    study = digits()
    run_study(study, tmp_path / "study", seeds=(0,))
    with pytest.raises(DataError, match="no folder"):
        run_study(replace(study, base=replace(study.base, data="elsewhere/digits")), tmp_path / "study")
    assert read_cell(tmp_path / "study", "slow", 1) is None
    assert run_study(study, tmp_path / "study").left == 0


def on_folder(folder: Path, arms: dict) -> Study:
    fields = {"model": "mlit_nano", "batch_size": 32, "arch.depth": 1, "arch.dim": 16, "patch_size": 4}
    study = digits(arms, epochs=1)
    study = replace(study, base=replace(study.base, data=str(folder)))
    return replace(study, sizes={"": replace(study.sizes[""], fields=fields)})


def test_changed_pixels_of_any_split_are_refused(folder, tmp_path):
    """A cell of earlier code has the fingerprint of the training images only."""
    study = on_folder(folder, {"a": {"img_size": 16}})
    run_study(study, tmp_path / "study", seeds=(0,))
    file = tmp_path / "study" / "cells" / "a" / "seed-0" / "cell.json"
    splits, text = read_splits(file.parent / "1" / "splits.json"), file.read_text()
    earlier = json.loads(text)
    for name in ("fingerprints", "sources"):
        del earlier["stages"][0]["data"][name]
    for split in ("train", "val", "test"):
        image = folder / splits[split]["sources"][0]
        before = image.read_bytes()
        Image.new("RGB", (16, 16), "red").save(image)
        for content in (text, json.dumps(earlier)) if split == "train" else (text,):
            file.write_text(content)
            with pytest.raises(RunFolderError, match="data has changed since the cell a, seed 0 ended"):
                run_study(study, tmp_path / "study")
        if split != "test":
            image.write_bytes(before)
    file.write_text(json.dumps(earlier))
    assert run_study(study, tmp_path / "study").left == 0


def test_changed_files_are_refused_at_another_image_size(folder, tmp_path):
    study = on_folder(folder, {"a": {"img_size": 16}, "b": {"img_size": 8}})
    run_study(study, tmp_path / "study", arms=["a"], seeds=(0,))
    moved = next((folder / "test" / "flat").iterdir())
    moved.rename(tmp_path / moved.name)
    with pytest.raises(RunFolderError, match="data has changed since the cell a, seed 0 ended"):
        run_study(study, tmp_path / "study", arms=["b"], seeds=(0,))
    (tmp_path / moved.name).rename(moved)
    assert run_study(study, tmp_path / "study", arms=["b"], seeds=(0,)).left == 0


def test_shards_partition_the_cells(tmp_path, ran):
    study = digits({n: {} for n in "abc"}, epochs=1)
    for i in (1, 2):
        run_study(study, tmp_path / f"{i}", shard=f"{i}/2")
    assert len(ran) == 6 and len(set(ran)) == 6
    assert ran[:3] == ["a/seed-0/1", "c/seed-0/1", "b/seed-1/1"]


def test_results_without_their_cells_are_kept(tmp_path):
    study = digits(seeds=(0,))
    run_study(study, tmp_path)
    shutil.rmtree(tmp_path / "cells")
    results = (tmp_path / "study.json").read_bytes()
    for _ in range(2):  # also without plan.json
        for call in (lambda: rebuild(tmp_path), lambda: run_study(study, tmp_path)):
            with pytest.raises(RunFolderError, match="cells"):
                call()
        assert (tmp_path / "study.json").read_bytes() == results
        (tmp_path / "plan.json").unlink(missing_ok=True)


def _killed_at(step: int, study: Study, out: Path) -> None:
    original = saving.RunState.due

    def dying(self, epoch_ended):
        if self.trainer.progress.step == step + 1 and "/quick/" in str(self.folder) and self.folder.name == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, epoch_ended)

    saving.RunState.due = dying
    saving.CHECKPOINT_SECONDS = saving.SHORT_EPOCH_SECONDS = 0.0
    run_study(study, out)


@fork
def test_a_killed_cell_resumes_to_the_same_weights(tmp_path, ran):
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
    assert ran == ["quick/seed-0/2"]  # immediately, because its owner is dead
    for name in ("best.safetensors", "last.safetensors"):
        at = Path("cells", "quick", "seed-0", "2", name)
        assert same_weights(tmp_path / "whole" / at, tmp_path / "cut" / at)
    tops = [read_cell(tmp_path / n, "quick", 0).figures["test_top1"] for n in ("whole", "cut")]
    assert tops[0] == tops[1]


def _worker(study: Study, out: Path, log: Path, together: Barrier) -> None:
    original = runs.train
    first = iter([True])

    def train(*args, out, **kwargs):
        if next(first, False):
            together.wait(timeout=120)  # each process is in its own cell
        with log.open("a") as file:
            file.write(f"{os.getpid()} {'/'.join(Path(out).parts[-3:])}\n")
        return original(*args, out=out, **kwargs)

    runs.train = train
    run_study(study, out)


@fork
def test_processes_over_one_folder_share_the_cells(tmp_path):
    study = digits({n: {} for n in "abc"}, seeds=(0, 1), epochs=1)
    fork = multiprocessing.get_context("fork")
    arguments = (study, tmp_path / "study", tmp_path / "log", fork.Barrier(3))
    workers = [fork.Process(target=_worker, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(cell for _, cell in lines) == sorted(f"{a}/seed-{s}/1" for a in "abc" for s in (0, 1))
    assert len({pid for pid, _ in lines}) == 3
    assert len(json.loads((tmp_path / "study" / "study.json").read_text())["cells"]) == 6


def test_an_interrupt_after_a_cell_stops_the_study(tmp_path, ran, monkeypatch):
    original = loop.Loop._end_epoch

    def asked(self, epoch, lr):
        self.interrupt.asked = self.interrupt.asked or epoch == self.config.epochs
        return original(self, epoch, lr)

    monkeypatch.setattr(loop.Loop, "_end_epoch", asked)
    ended = run_study(digits(epochs=1), tmp_path)
    assert ended.interrupted and ended.left == 3 and len(ran) == 1
    assert read_cell(tmp_path, "slow", 0).status == "finished"
    ended = run_study(digits({"two": [{}, {"start_from": "{previous}"}]}, epochs=1), tmp_path / "stages")
    assert ended.interrupted and ended.left == 2 and len(ran) == 2

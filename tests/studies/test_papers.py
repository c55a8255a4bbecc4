"""The papers' rows as arms of a study, arms that start from other arms, and the tables of the results."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from feathervit.checkpoint import load_weights
from feathervit.cli import main
from feathervit.config import MODELS, MoEConfig
from feathervit.data import load_data
from feathervit.errors import ConfigError, DataError, RunFolderError, UnknownNameError
from feathervit.models import build_model
from feathervit.recipes import recipe
from feathervit.recipes.planning import planned
from feathervit.studies import STUDIES, Size, Study
from feathervit.studies import cell as cell_module
from feathervit.studies.cell import data_note
from feathervit.studies.cells import run_study
from feathervit.studies.definition import Published, check_study
from feathervit.studies.library.papers import TABLES, papers
from feathervit.studies.plan import _stage_configs
from feathervit.studies.report import POINTS, rebuild, training_curve
from feathervit.studies.tables import tables

RESULTS = Path(__file__).resolve().parents[2] / "results"
TINY = {
    "model": "mlit_nano",
    "img_size": 8,
    "patch_size": 4,
    "batch_size": 40,
    "epochs": 1,
    "arch.depth": 1,
    "split.train_per_class": 8,
    "optim.warmup_epochs": 0.0,
}


@pytest.mark.parametrize("arm", papers.arms)
def test_every_row_trains_on_all_of_train(arm: str) -> None:
    """A row uses fields of its recipe and the epochs of its table. The arm it starts from has the same architecture."""
    fields, row = papers.size(None).fields, papers.published[arm]
    (config,) = _stage_configs(papers, fields, arm, 0)
    assert (config.split.val_fraction, config.split.keep, config.data) == (0, "last", row.data)
    wanted = {"table-7": 300, "table-8": 100, "table-9": 300, "poorvits": 300}
    assert {config.epochs} >= {wanted[table] for table in row.tables if table in wanted}
    assert config.model in MODELS or config.model.startswith("timm:")
    for needed in papers.needs(arm):
        (before,) = _stage_configs(papers, fields, needed, 0)
        assert (before.arch, before.patch_size) == (config.arch, config.patch_size)
        if isinstance(config.arch.feedforward, MoEConfig):
            assert before.mae.decoder.feedforward.sharing == config.arch.feedforward.sharing


def test_the_study_is_valid_and_fills_the_tables() -> None:
    check_study(papers, papers.size(None))
    assert set(papers.arms) <= set(papers.published)
    assert {table for row in papers.published.values() for table in row.tables} == set(TABLES)
    assert STUDIES["papers"] is papers


def test_joint_training_uses_timms_vit() -> None:
    """The encoder has the parameters of timm's ViT-T except learned positions. With the decoder it has the paper's 5.8 M."""
    stage = dict(papers.arms["vit-t+ssat-cifar100"])
    config, _ = planned(recipe(stage.pop("recipe")), None, stage.pop("data"), stage)
    with torch.device("meta"):
        whole = build_model(config, 3, 100, train=True)
        theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=100)

    def count(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    ours = count(whole.encoder) - sum(p.numel() for n, p in whole.encoder.named_parameters() if n == "pos_embed")
    missing = theirs.patch_embed.proj.bias.numel() + theirs.head.bias.numel()  # ours have none
    assert ours == count(theirs) - theirs.pos_embed.numel() - missing
    assert count(whole) / 1e6 == pytest.approx(5.8, abs=0.05)


@pytest.mark.parametrize("name", ["vit-t", "swin-t", "resnet-50"])
def test_peers_accept_small_images(name: str) -> None:
    """Their parameters match the paper, except the head and, at another patch size, patches and positions."""
    stage = dict(papers.arms[f"{name}-cifar100"])
    config, _ = planned(recipe(stage.pop("recipe")), None, stage.pop("data"), stage)
    with torch.device("meta"):
        model = build_model(config, 3, 1000)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(papers.published[f"{name}-cifar100"].millions, rel=0.06)
    assert build_model(config, 3, 100).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 100)


# --- running


@pytest.fixture
def tiny() -> Study:
    """Three rows on handwritten digits: from scratch, pre-training, and fine-tuned from it."""
    scratch = {"recipe": "digits", "data": "digits", **TINY}
    arms = {
        "scratch": scratch,
        "mae": {"recipe": "mae_digits", "data": "digits", **TINY},
        "tuned": {**scratch, "arch.readout": "mean", "start_from": "{mae}"},
    }
    published = {
        "scratch": Published("tiny", "digits", 50.0, ("table-8",)),
        "mae": Published("tiny", "digits", 0.5, ("pretraining",), "train_loss"),
        "quoted": Published("other", "digits", 70.0, ("table-8",)),
    }
    sizes = {"": Size((0,), {"split.val_fraction": 0.0, "split.keep": "last"})}
    return Study("tiny", "", recipe("digits"), arms, sizes, published)


TIMES = {"minutes", "images_per_s", "ran_on"}


def cells(found: dict) -> list[dict]:
    return [{k: v for k, v in cell.items() if k not in TIMES} for cell in found["cells"]]


def test_resumed_rows_equal_uninterrupted_ones(tiny: Study, tmp_path: Path) -> None:
    """This also holds if the folder is moved after each call."""
    whole, cut = run_study(tiny, tmp_path / "whole"), tmp_path / "cut"
    assert whole.left == 0
    calls = 1
    while run_study(tiny, cut, max_minutes=1e-9).left:
        calls += 1
        assert calls < 20
        cut = cut.rename(tmp_path / f"moved-{calls}")
    assert calls == 3 * 2  # one step per call
    assert cells(whole.found) == cells(rebuild(cut))
    tuned = next(cell for cell in whole.found["cells"] if cell["arm"] == "tuned")
    assert tuned["epochs"] == [1, 1]  # also those of pre-training
    one, other = (load_weights(out / "cells" / "tuned" / "seed-0" / "1").weights for out in (tmp_path / "whole", cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert str(tmp_path) not in (cut / "study.json").read_text()


def test_a_starting_arm_runs_first_and_once(tiny: Study, tmp_path: Path) -> None:
    found = run_study(tiny, tmp_path, arms=["tuned"], epochs={"mae": 2}, seeds=(3, 4)).found
    assert [(cell["arm"], cell["seed"]) for cell in found["cells"]] == [("mae", 3), ("tuned", 3), ("tuned", 4)]
    assert found["cells"][1]["epochs"] == [2, 1]
    assert found["cells"][0]["train_loss"] > 0 and found["cells"][0]["test_top1"] is None
    with pytest.raises(RunFolderError, match=r"arms\.mae"):
        run_study(tiny, tmp_path, arms=["tuned"], epochs={"mae": 3}, seeds=(3, 4))
    shutil.rmtree(tmp_path / "cells" / "tuned" / "seed-4")
    ended = run_study(
        tiny, tmp_path, arms=["tuned"], epochs={"mae": 2}, seeds=(5,)
    )  # it still uses the first seed's pre-training
    assert [cell["seed"] for cell in ended.found["cells"] if cell["arm"] == "mae"] == [3] and ended.left == 0


def test_an_arm_that_starts_from_a_failed_arm_fails(tiny: Study, tmp_path: Path) -> None:
    arms = {**tiny.arms, "mae": {**tiny.arms["mae"], "lr": 1e30, "epochs": 4}}
    ended = run_study(replace(tiny, arms=arms), tmp_path, arms=["tuned"])
    assert [cell["status"] for cell in ended.found["cells"]] == ["failed", "failed"]
    assert "mae" in ended.found["cells"][1]["message"]


def test_unfinished_pretraining_shows_its_epochs(tiny: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # an epoch has two steps, and the first call does one
    for _ in range(3):
        ended = run_study(tiny, out, arms=["mae"], epochs={"mae": 3}, max_minutes=1e-9)
    (cell,) = ended.found["cells"]
    assert (cell["status"], cell["epochs_run"]) == ("begun", 1)
    assert cell["training"]["train_loss"][-1] == pytest.approx(cell["train_loss"], rel=1e-5)


def test_arms_with_missing_data_are_skipped(tiny: Study, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "sets").mkdir()
    folder.rename(tmp_path / "sets" / "signs")
    signs = {"recipe": "mlit_flowers102", "data": "signs", **TINY, "img_size": 16, "split.train_per_class": 0}
    study = replace(tiny, arms={**tiny.arms, "signs": signs})
    with pytest.raises(DataError, match="digits"):
        run_study(study, tmp_path / "out", data=tmp_path / "sets", arms=["scratch", "tuned"])
    assert not (tmp_path / "out").exists()
    ended = run_study(study, tmp_path / "out", data=tmp_path / "sets")
    assert [cell["arm"] for cell in ended.found["cells"]] == ["signs"] and ended.left == 0
    (tmp_path / "sets").rename(tmp_path / "moved")  # the same study on data in another folder
    assert run_study(study, tmp_path / "out", data=tmp_path / "moved").left == 0


def test_invalid_arms_and_epochs_are_refused(tiny: Study, tmp_path: Path) -> None:
    for options in ({"arms": ["scrach"]}, {"arms": ["quoted"]}, {"epochs": {"quoted": 3}}):
        with pytest.raises(UnknownNameError):
            run_study(tiny, tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="epochs"):
        run_study(tiny, tmp_path / "out", epochs={"mae": 0})
    late = replace(tiny, arms={"tuned": tiny.arms["tuned"], "mae": tiny.arms["mae"]})
    with pytest.raises(ConfigError, match=r"\{mae\}"):
        check_study(late, late.size(None))
    assert not (tmp_path / "out").exists()


def test_the_last_epoch_counts_despite_a_validation_split(tiny: Study, tmp_path: Path, folder: Path) -> None:
    """As with Flowers-102: training uses train alone, and the last epoch is reported."""
    for kind in sorted((folder / "train").iterdir()):
        (folder / "val" / kind.name).mkdir(parents=True)
        for path in sorted(kind.iterdir())[:4]:
            path.rename(folder / "val" / kind.name / path.name)
    fields = {**TINY, "img_size": 16, "batch_size": 20, "split.train_per_class": 0, "epochs": 2}
    study = replace(tiny, arms={"petals": {"recipe": "mlit_flowers102", **fields}})
    run_study(study, tmp_path / "out", data=folder)
    stage = json.loads((tmp_path / "out" / "cells/petals/seed-0/cell.json").read_text())["stages"][0]
    assert (stage["data"]["n_train"], stage["data"]["n_val"], stage["best"]["epoch"]) == (60, 12, 2)
    assert load_data(str(folder), img_size=16).train.images.shape[0] == 60


def test_runs_of_version_0_1_0_are_continued(tiny: Study, tmp_path: Path, monkeypatch) -> None:
    """Its verb `results reproduce` kept a pre-training run in runs/ROW/run, which is moved as docs/studies.md says."""
    run_study(tiny, tmp_path / "a", arms=["mae"], max_minutes=1e-9)
    (tmp_path / "b" / "cells" / "mae" / "seed-0").mkdir(parents=True)
    (tmp_path / "a" / "cells" / "mae" / "seed-0" / "1").rename(tmp_path / "b" / "cells" / "mae" / "seed-0" / "1")
    resumed, original = [], cell_module.train
    monkeypatch.setattr(
        cell_module, "train", lambda *a, resume, **k: resumed.append(resume) or original(*a, resume=resume, **k)
    )
    assert run_study(tiny, tmp_path / "b", arms=["mae"]).left == 0
    assert resumed == [True]
    assert run_study(tiny, tmp_path / "b", arms=["tuned"]).left == 0


def test_lossy_images_are_noted(tmp_path: Path) -> None:
    for name in ("train/a/1.jpg", "train/a/2.png", "train/b/3.JPEG", "test/a/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert data_note(str(tmp_path)).startswith("2 of 3")
    (tmp_path / "train/a/1.jpg").unlink()
    (tmp_path / "train/b/3.JPEG").unlink()
    assert data_note(str(tmp_path)) == ""


def test_a_training_curve_keeps_its_last_point() -> None:
    found = training_curve([{"epoch": n, "lr": 1.0, "train_loss": 1 / n} for n in range(1, 402)])
    assert set(found) == {"epoch", "train_loss"}
    assert len(found["epoch"]) <= POINTS and found["epoch"][-1] == 401
    assert found["train_loss"][-1] == pytest.approx(1 / 401, rel=1e-5)
    assert training_curve([]) == {}


# --- tables


def cell(arm: str, seed: int, top1: float | None, **more) -> dict:
    status = "finished" if top1 is not None else "failed"
    return {
        "arm": arm,
        "seed": seed,
        "status": status,
        "test_top1": top1,
        "epochs": [100],
        "parameters": 662173,
        **more,
    }


def write(results: Path, name: str, *cells: dict) -> Path:
    path = results / name / "study.json"
    path.parent.mkdir(parents=True)
    epochs = {cell["arm"]: [400] for cell in cells}
    path.write_text(json.dumps({"name": "papers", "cells": cells, "epochs": epochs}))
    return path


def line(text: str, *parts: str) -> list[str]:
    (found,) = [row for row in text.splitlines() if row.startswith("|") and all(part in row for part in parts)]
    return [part.strip() for part in found.strip("|").split("|")]


def test_a_table_shows_the_papers_figure_and_ours(tmp_path: Path) -> None:
    runs = [cell("mlit-xxs-cifar100", seed, top1) for seed, top1 in enumerate((0.5512, 0.56, 0.5708))]
    write(tmp_path, "papers", *runs)
    note = "5 of 6 training images are JPEG files"
    write(tmp_path, "papers-2", cell("mlit-xxs-cifar10", 0, 0.8, note=note), cell("mlit-xs-cifar10", 0, None))
    write(tmp_path, "papers-3", cell("mmlit-xs-cifar100-300", 0, 0.7))
    made = tables(tmp_path)
    for name in ("headline", "table-8"):
        found = line(made[name], "| mLiT-XXS |", "CIFAR-100")
        assert found[2:8] == ["0.67", "56.98", "56.07 (55.12 to 57.08)", "3", "100", "662,173"]
        assert found[8] == "`results/papers`"
    number = re.fullmatch(r"80\.00 \[(\d)\]", line(made["table-8"], "| mLiT-XXS |", "CIFAR-10 ")[4])[1]
    assert f"[{number}] CIFAR-10: {note}." in made["table-8"]
    assert line(made["table-8"], "| mLiT-XS |", "CIFAR-10 ")[4] == "failed"
    assert "about 76.8" in line(made["table-7"], "mmLiT-XS |")[3]


def test_rows_not_run_are_collapsed_apart_from_quoted_rows(tmp_path: Path) -> None:
    write(tmp_path, "papers", cell("mlit-s-cifar100", 0, 0.6))
    made = tables(tmp_path)
    not_run, quoted = re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", made["table-8"], re.DOTALL)
    assert "mLiT-S (CIFAR-10 84.03, SVHN 96.01, Flowers-102 34.41)" in not_run[1]
    assert "CVT-13" not in not_run[1] and "CVT-13 (CIFAR-100 73.50" in quoted[1]
    assert quoted[0].startswith("16 rows quoted")
    assert made["table-9"].startswith("<details><summary>3 rows not run here</summary>")
    assert made["headline"].count("\n") == 2  # head, rule, one row


def test_tables_show_the_epochs_of_unfinished_pretraining(tmp_path: Path) -> None:
    last = {"train_loss": 0.05, "train_masked_mse": 0.04, "train_visible_mse": 0.03}
    begun = {"arm": "mae-xxs", "seed": 0, "status": "begun", "stage": 1, "epochs_run": 123, **last}
    write(tmp_path, "papers", begun)
    found = line(tables(tmp_path)["pretraining"], "| mmLiT-XXS |")
    assert found[1:7] == ["0.021514", "0.05000", "0.04000", "0.03000", "", "123 of 400"]


def test_invalid_result_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "papers", cell("mlit-xxs-cifar100", 0, 0.5))
    write(tmp_path, "twice", cell("mlit-xxs-cifar100", 0, 0.5))
    with pytest.raises(RunFolderError, match="twice"):
        tables(tmp_path)
    for text in (
        '{"name": "papers"}',
        "[]",
        json.dumps({"name": "papers", "cells": [cell("mine", 0, 0.1)], "epochs": {}}),
    ):
        path.write_text(text)
        with pytest.raises(RunFolderError, match=r"papers.study\.json"):
            tables(tmp_path)


def test_results_and_study_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "table", str(RESULTS), "--only", "table-9"]) == 0
    assert "mmLiT-S, V, W2 shared" in capsys.readouterr().out
    assert main(["results", "table", str(RESULTS), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {*TABLES, "headline", "claims", "seeds", "weights", "long"}
    assert main(["results", "table", str(RESULTS), "--only", "table-10"]) == 2
    assert main(["results", "table", str(tmp_path / "none")]) == 2
    capsys.readouterr()
    assert main(["study", "papers", "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["arms"]
    assert tuple(found) == tuple(papers.arms)
    assert found["mlit-xxs-cifar100"] == {"name": "mLiT-XXS", "data": "cifar100", "published": 56.98}
    assert main(["study", "papers", "--list"]) == 0
    assert "mlit-xxs-cifar100" in capsys.readouterr().out
    assert main(["study", "papers", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]) == 2  # no data here
    assert main(["study", "papers", "--out", str(tmp_path / "out"), "--epochs", "mae-xxs"]) == 2
    for verb in ("reproduce", "pack"):
        assert main(["results", verb, "next"]) == 2
    assert "study papers --arms" in capsys.readouterr().err

"""The rows of the papers' tables: what is reported, that each can be run, and the tables made of result files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from feathervit.checkpoint import load_weights
from feathervit.cli import main
from feathervit.config import MODELS, MoEConfig
from feathervit.data import load_data
from feathervit.errors import ConfigError, DataError, RunFolderError, UnknownNameError
from feathervit.models import build_model
from feathervit.recipes import RECIPES
from feathervit.recipes.planning import planned
from feathervit.reproduce import reproduce as runs
from feathervit.reproduce import table
from feathervit.reproduce.reproduce import ALL_OF_TRAIN, Place, curve, data_note, is_finished, reproduce
from feathervit.reproduce.rows import ORDER, ROWS, TABLES, Row
from feathervit.reproduce.table import tables
from feathervit.studies import Size, Study
from feathervit.studies.plan import stage_run

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


def here(row: Row) -> bool:
    """Whether its recipe and model are there: both are looked up when a row is run."""
    model = row.fields.get("model", "mlit_xxs")
    return row.recipe in RECIPES and (model in MODELS or model.startswith("timm:"))


def test_ids_and_order():
    assert all(name == row.id for name, row in ROWS.items())
    assert set(ORDER) == {name for name, row in ROWS.items() if row.recipe}
    assert ORDER[:6] == tuple(f"mlit-{size}-{data}" for data in ("cifar100", "cifar10") for size in ("xxs", "xs", "s"))
    for name in ORDER:
        assert not ROWS[name].pretraining or ORDER.index(ROWS[name].pretraining) < ORDER.index(name)
    assert {table for row in ROWS.values() for table in row.tables} == set(TABLES)


@pytest.mark.parametrize("name", [name for name in ORDER if here(ROWS[name])])
def test_every_row_is_a_run_on_all_of_train(name):
    """Its fields are fields of its recipe; its epochs those of its table; what it starts from has its architecture."""
    row = ROWS[name]
    study = Study(name, "", replace(RECIPES[row.recipe].config, data=row.data), {}, {})
    base, data, changes = stage_run(study, ALL_OF_TRAIN, row.fields, 0, "", None)
    config, _ = planned(base, None, data, changes)
    assert (config.split.val_fraction, config.split.keep, config.data) == (0, "last", row.data)
    wanted = {"table-7": 300, "table-8": 100, "table-9": 300, "poorvits": 300}
    assert {config.epochs} >= {wanted[table] for table in row.tables if table in wanted}
    if row.pretraining:
        start = ROWS[row.pretraining]
        base, data, changes = stage_run(
            study, {}, {"recipe": start.recipe, "data": start.data, **start.fields}, 0, "", None
        )
        before, _ = planned(base, None, data, changes)
        assert (before.arch, before.patch_size) == (config.arch, config.patch_size)
        if isinstance(config.arch.feedforward, MoEConfig):
            assert before.mae.decoder.feedforward.sharing == config.arch.feedforward.sharing


@pytest.mark.parametrize("name", ["ViT-T", "Swin-T", "ResNet-50"])
def test_peers_take_small_pictures(name):
    """Their parameters are the paper's, but for the head and, at another patch size, patches and positions."""
    row = ROWS[f"{name.lower()}-cifar100"]
    config, _ = planned(RECIPES[row.recipe].config, None, row.data, dict(row.fields))
    with torch.device("meta"):
        model = build_model(config, 3, 1000)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(row.millions, rel=0.06)
    assert build_model(config, 3, 100).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 100)


# --- running


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Three rows on handwritten digits: from scratch, pre-training, and fine-tuned from it."""
    rows = (
        Row("scratch", ("table-8",), "tiny", "digits", 50.0, "digits", TINY),
        Row("mae-tiny", ("pretraining",), "tiny", "digits", 0.5, "mae_digits", TINY),
        Row("tuned", ("table-8",), "tiny", "digits", 60.0, "digits", TINY | {"arch.readout": "mean"}, "mae-tiny"),
    )
    for row in rows:
        monkeypatch.setitem(ROWS, row.id, row)
    return Place(tmp_path / "whole", seeds=(0,)), Place(tmp_path / "cut", seeds=(0,))


def results_of(place: Place, name: str) -> dict:
    return json.loads((place.out / "results" / f"{name}.json").read_text())


TIMES = {"minutes", "images_per_s", "ran_on"}


def test_rows_in_pieces_end_as_uncut(tiny, tmp_path):
    """Also where the folder is taken to another place after each piece."""
    whole, cut = tiny
    names = ("scratch", "mae-tiny", "tuned")
    assert reproduce(names, whole).finished
    calls = 1
    while not reproduce(names, cut, max_minutes=1e-9).finished:
        calls += 1
        assert calls < 20
        cut = replace(cut, out=cut.out.rename(tmp_path / f"moved-{calls}"))
    assert calls == 3 * 2  # a step each
    for name in ("scratch", "tuned"):
        ours, theirs = results_of(whole, name)["cells"], results_of(cut, name)["cells"]
        assert [{k: v for k, v in c.items() if k not in TIMES} for c in ours] == [
            {k: v for k, v in c.items() if k not in TIMES} for c in theirs
        ]
        assert results_of(whole, name)["curves"] == results_of(cut, name)["curves"]
    assert results_of(whole, "mae-tiny")["curves"] == results_of(cut, "mae-tiny")["curves"]
    assert results_of(cut, "tuned")["cells"][0]["epochs"] == [1, 1]
    paths = [place.runs(ROWS["tuned"]) / "cells" / "tuned" / "seed-0" / "2" for place in (whole, cut)]
    one, other = (load_weights(path).weights for path in paths)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    stopped = json.dumps([results_of(place, name) for place in (whole, cut) for name in names])
    assert str(whole.out.parent) not in stopped  # no path of this machine
    assert is_finished(ROWS["tuned"], cut)


def test_a_row_that_needs_pretraining_runs_it_first_at_the_length_asked_for(tiny, monkeypatch):
    place = replace(tiny[0], pretrain_epochs=2)
    assert not reproduce(["tuned"], place, max_minutes=1e-9).finished
    with pytest.raises(RunFolderError, match=r"begun in .* with 2 epochs, not 3"):
        reproduce(["tuned"], replace(place, pretrain_epochs=3))
    found = results_of(place, "mae-tiny")
    assert (found["finished"], found["epochs_run"], found["epochs"]) == (False, 0, 2)
    assert reproduce(["tuned"], tiny[0]).finished
    assert results_of(place, "tuned")["cells"][0]["epochs"] == [2, 1]
    (place.out / "reproduce").symlink_to(place.out / "results")  # as if they had been copied
    monkeypatch.setattr(table, "SETS", (*table.SETS, "digits"))
    monkeypatch.setitem(table.DATA_NAMES, "digits", "digits")
    made = tables(place.out)
    assert "| 2 + 1 |" in made["table-8"] and "| 2 |" in made["pretraining"]


def test_what_is_not_here_is_passed_over_but_not_when_it_is_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(ROWS, "none", replace(ROWS["scratch"], id="none", fields={"model": "no_such"}))
    place = replace(tiny[0], data=tmp_path)
    (tmp_path / "digits").mkdir()
    found = reproduce(["none", "mlit-s-svhn"], place)
    assert not found.finished and found.passed_over == ["none", "mlit-s-svhn"]
    with pytest.raises(UnknownNameError, match="no_such"):
        reproduce(["none"], place)
    with pytest.raises(DataError, match="no folder svhn"):
        reproduce(["mlit-s-svhn"], place)
    with pytest.raises(ConfigError, match="quoted as published"):
        reproduce(["resnet-56"], place)
    with pytest.raises(ConfigError, match="minutes"):
        reproduce(["scratch"], place, max_minutes=0)
    with pytest.raises(ConfigError, match="pretrain_epochs"):
        reproduce(["scratch"], replace(place, pretrain_epochs=0))
    assert not (place.out / "runs").exists()


def test_a_row_that_failed_is_told_and_starts_anew_when_asked(tiny, monkeypatch, capsys):
    place = tiny[0]
    bad = replace(ROWS["scratch"], id="bad", fields=TINY | {"lr": 1e30, "epochs": 4})
    monkeypatch.setitem(ROWS, "bad", bad)
    monkeypatch.setattr("feathervit.reproduce.rows.ORDER", ("bad", "scratch"))
    words = ["results", "reproduce", "next", "--out", str(place.out), "--seeds", "0"]
    assert main(words) == 1
    assert "failed: bad (--retry-failed" in capsys.readouterr().out
    assert main(words) == 1  # it is still so
    monkeypatch.setitem(ROWS, "bad", replace(bad, fields=TINY))
    with pytest.raises(RunFolderError, match="another study"):
        reproduce(["bad"], replace(place, retry_failed=True))
    monkeypatch.setitem(ROWS, "bad", bad)
    calls = []
    monkeypatch.setattr(runs, "run_study", lambda *_, **words: calls.append(words["retry_failed"]) or Stopped)
    found = reproduce(["bad"], replace(place, retry_failed=True))
    assert calls == [True] and found.interrupted and found.failed == ["bad"]


class Stopped:
    found, left, interrupted = {"cells": []}, 1, True


def test_the_last_epoch_counts_also_where_there_is_a_validation_split(tmp_path, folder, monkeypatch):
    """As Flowers-102 has: it is trained on train alone, and the last epoch is reported."""
    (folder / "val").mkdir()
    for kind in sorted((folder / "train").iterdir()):
        (folder / "val" / kind.name).mkdir()
        for path in sorted(kind.iterdir())[:4]:
            path.rename(folder / "val" / kind.name / path.name)
    root = tmp_path / "sets"
    root.mkdir()
    folder.rename(root / "flowers102")
    fields = {**TINY, "img_size": 16, "batch_size": 20, "split.train_per_class": 0, "epochs": 2}
    monkeypatch.setitem(
        ROWS, "petals", Row("petals", ("table-8",), "tiny", "flowers102", 1.0, "mlit_flowers102", fields)
    )
    place = Place(tmp_path / "out", root, (0,))
    assert reproduce(["petals"], place).finished
    (cell,) = results_of(place, "petals")["cells"]
    stage = json.loads((place.runs(ROWS["petals"]) / "cells/petals/seed-0/cell.json").read_text())["stages"][0]
    assert (stage["data"]["n_train"], stage["data"]["n_val"], stage["best"]["epoch"]) == (60, 12, 2)
    assert cell["test_top1"] == stage["test"]["top1"]
    assert load_data(str(root / "flowers102"), img_size=16).train.images.shape[0] == 60


def test_pictures_stored_with_losses_are_said(tmp_path):
    for name in ("train/a/1.jpg", "train/a/2.png", "train/b/3.JPEG", "test/a/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert data_note(str(tmp_path)) == "2 of 3 training pictures are JPEG files"
    (tmp_path / "train/a/1.jpg").unlink()
    (tmp_path / "train/b/3.JPEG").unlink()
    assert data_note(str(tmp_path)) == ""


def test_a_curve_keeps_its_last_point():
    rows = [{"epoch": n, "lr": 1.0, "train_loss": 1 / n} for n in range(1, 402)]
    found = curve(rows)
    assert set(found) == {"epoch", "train_loss"}
    assert len(found["epoch"]) <= runs.POINTS and found["epoch"][-1] == 401
    assert found["train_loss"][-1] == pytest.approx(1 / 401, rel=1e-5)
    assert curve([]) == {}


# --- tables


def cell(seed: int, top1: float | None, epochs=(100,)) -> dict:
    status = "finished" if top1 is not None else "failed"
    return {"seed": seed, "status": status, "test_top1": top1, "epochs": list(epochs), "parameters": 662173}


def write(results: Path, name: str, **found) -> None:
    (results / "reproduce").mkdir(exist_ok=True)
    text = {"row": name, "note": "", "cells": [], **found}
    (results / "reproduce" / f"{name}.json").write_text(json.dumps(text))


def line(text: str, *words: str) -> list[str]:
    (found,) = [row for row in text.splitlines() if all(word in row for word in words)]
    return [part.strip() for part in found.strip("|").split("|")]


def test_a_table_holds_the_papers_figure_and_ours(tmp_path):
    write(tmp_path, "mlit-xxs-cifar100", cells=[cell(0, 0.5512), cell(1, 0.56), cell(2, 0.5708)])
    write(tmp_path, "mlit-xxs-cifar10", cells=[cell(0, 0.8)], note="5 of 6 training pictures are JPEG files")
    write(tmp_path, "mlit-xs-cifar10", cells=[cell(0, None)])
    made = tables(tmp_path)
    found = line(made["table-8"], "| mLiT-XXS |", "CIFAR-100")
    assert found[2:8] == ["0.67", "56.98", "56.07 (55.12 to 57.08)", "3", "100", "662,173"]
    assert found[8] == "`results/reproduce/mlit-xxs-cifar100.json`"
    found = line(made["table-8"], "| mLiT-XXS |", "CIFAR-10 ")
    number = re.fullmatch(r"80\.00 \[(\d)\]", found[4])[1]
    assert f"[{number}] CIFAR-10: 5 of 6 training pictures are JPEG files." in made["table-8"]
    assert line(made["table-8"], "| mLiT-XS |", "CIFAR-10 ")[4] == "failed"
    assert line(made["table-8"], "| mLiT-S |", "SVHN")[3:5] == ["96.01", "not run"]
    assert "about 76.8" in line(made["table-7"], "mmLiT-XS |")[3]
    assert line(made["table-8"], "CVT-13 |", "CIFAR-100")[4] == ""
    assert made["headline"].count("\n| mLiT") == 3
    assert tables(RESULTS)["table-8"].count("CIFAR-100") >= 15


def test_of_pretraining_that_goes_on_the_epochs_run_are_said(tmp_path):
    last = {"train_loss": 0.05, "train_masked_mse": 0.04, "train_visible_mse": 0.03}
    write(tmp_path, "mae-xxs", last=last, finished=False, epochs=400, epochs_run=123, parameters=651373)
    found = line(tables(tmp_path)["pretraining"], "| mmLiT-XXS |")
    assert found[1:7] == ["0.021514", "0.05000", "0.04000", "0.03000", "", "123 of 400"]


def test_files_that_are_no_rows_are_refused(tmp_path):
    write(tmp_path, "mlit-xxs-cifar100")
    (tmp_path / "reproduce" / "mine.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"mine\.json, which is no row"):
        tables(tmp_path)
    (tmp_path / "reproduce" / "mine.json").rename(tmp_path / "reproduce" / "mlit-xs-cifar100.json")
    with pytest.raises(RunFolderError, match=r"mlit-xs-cifar100\.json is no result"):
        tables(tmp_path)


def test_verbs(tmp_path, capsys):
    assert main(["results", "table", str(RESULTS), "--only", "table-9"]) == 0
    assert "| mmLiT-S, V, W2 shared |" in capsys.readouterr().out
    assert main(["results", "table", str(RESULTS), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {*TABLES, "headline", "seeds", "weights"}
    assert main(["results", "table", str(RESULTS), "--only", "table-10"]) == 2
    assert main(["results", "table", str(tmp_path / "none")]) == 2
    assert main(["results", "reproduce", "list"]) == 0
    assert capsys.readouterr().out.startswith("mlit-xxs-cifar100")
    assert main(["results", "reproduce", "list", "--json"]) == 0
    assert tuple(json.loads(capsys.readouterr().out)) == ORDER
    assert main(["results", "reproduce", "resnet-56"]) == 2
    assert "list` shows them" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "out"), "--data", str(tmp_path), "--json"]
    assert main(["results", "reproduce", "next", *out]) == 1  # no data here: all are passed over
    assert json.loads(capsys.readouterr().out)["finished"] is False


def test_models_of_rows_are_ours_or_will_be():
    named = {row.fields.get("model", "mlit_xxs") for row in ROWS.values() if row.recipe}
    strange = {name for name in named if name not in MODELS and not name.startswith("timm:")}
    assert all(name.startswith("feather_") for name in strange)
    assert Size().seeds == (0, 1, 2) == Place(Path()).seeds

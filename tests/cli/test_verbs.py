"""The verbs, run in this process: output and status."""

from __future__ import annotations

import csv
import io
import json

import pytest

from feathervit.recipes import RECIPES

from .conftest import SMALL


def test_train_evaluate_predict(trained, folder, run):
    result = json.loads((trained / "result.json").read_text())
    assert result["command"].startswith("feathervit")
    status, out, _ = run("evaluate", trained, "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["split"], found["n"]) == ("test", 24)
    assert found["top1"] == result["test"]["top1"]
    status, out, _ = run("evaluate", trained, "--data", folder)
    assert f"top-1 {100 * found['top1']:.2f} %" in out
    assert all(name in out for name in ("flat", "tall", "tiles"))

    status, out, _ = run("predict", trained, folder / "test" / "flat", "--top", 2, "--json")
    predictions = json.loads(out)["predictions"]
    assert len(predictions) == 8
    assert all(len(p["classes"]) == 2 and p["probabilities"][0] >= p["probabilities"][1] for p in predictions)
    _, out, _ = run("predict", trained, folder / "test" / "flat", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 24
    assert sum(float(r["probability"]) for r in rows[:3]) == pytest.approx(1, abs=1e-4)


def test_a_fold_is_chosen_by_flags(folder, tmp_path, run):
    flags = ("--epochs", 1, *SMALL, "--folds", 4, "--fold", 2)
    assert run("train", "--data", folder / "train", "--out", tmp_path / "run", *flags)[0] == 0
    val = json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]["val"]
    assert (val["count"], "fold 2 of 4" in val["how"]) == (18, True)


def test_json_is_the_only_standard_output(folder, tmp_path, run):
    status, out, err = run("train", "--data", folder, "--out", tmp_path / "run", "--epochs", 2, *SMALL, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["finished"]
    assert found["test"].keys() >= {"split", "n", "top1", "top5"}
    assert 0 <= found["test"]["top1"] <= 1
    assert "data" in err  # the banner goes to standard error


def test_predict_continues_after_an_unreadable_file(trained, folder, tmp_path, run):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    arguments = ("predict", trained, bad, folder / "test" / "tall" / "0.png")
    status, out, err = run(*arguments, "--json")
    assert (status, err) == (1, "")
    assert len(json.loads(out)["predictions"]) == 1
    assert "bad.png" in json.loads(out)["unreadable"][0]
    status, out, err = run(*arguments, "--csv")
    assert status == 1 and "bad.png" not in out
    assert len(err.splitlines()) == 1 and "bad.png" in err


def test_demo(tmp_path, run, monkeypatch):
    from feathervit import demo
    from feathervit.config import with_fields

    short = {
        name: with_fields(demo.recipe(name), epochs=epochs) for name, epochs in (("mae_digits", 1), ("few_digits", 2))
    }
    monkeypatch.setattr(demo, "recipe", short.get)
    status, out, err = run("demo", "--out", tmp_path / "demo", "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["labels"], found["n"]) == (100, 360)
    assert found["top1"]["raw_pixel_1nn"] > 0.8
    assert all(0 <= top1 <= 1 for top1 in found["top1"].values())
    assert "with 100 labels" in err
    assert (tmp_path / "demo" / "fine-tuned" / "best.safetensors").exists()


def test_lists(run):
    for argv, name in ((["models"], "mlit_xxs"), (["recipes"], "digits"), (["data", "cache"], "decoded")):
        status, out, _ = run(*argv)
        assert status == 0
        assert name in out
    assert {row["name"] for row in json.loads(run("recipes", "--json")[1])["recipes"]} == set(RECIPES)


def test_models_have_the_published_sizes(run):
    rows = {r["name"]: r for r in json.loads(run("models", "--json")[1])["models"]}
    assert rows["mlit_xxs"]["parameters"] == 651_373 + 108 * 100
    assert rows["mlit_xxs"]["tokens"] == 145
    assert rows["mlit_nano"]["parameters"] <= 150_000


def test_data_check_and_show(folder, tmp_path, run):
    status, out, _ = run("data", "check", folder)
    assert status == 0, out
    (folder / "train" / "flat" / "0.png").write_bytes(b"")
    status, out, _ = run("data", "check", folder, "--json")
    assert status == 1
    assert "0.png" in out
    (folder / "train" / "flat" / "0.png").unlink()
    for extra in ([], ["--recipe", "mlit_cifar10"], ["--recipe", "mae_folder"]):
        png = tmp_path / "samples.png"
        png.unlink(missing_ok=True)
        assert run("data", "show", folder, "--out", png, *extra)[0] == 0
        assert png.read_bytes().startswith(b"\x89PNG")
    assert run("data", "cache", "--clear")[0] == 0


def test_a_run_can_be_repeated_from_its_config(trained, folder, tmp_path, run):
    arguments = ("train", "--config", trained / "config.json", "--out", tmp_path / "again", "--max-minutes", "1e-9")
    assert run(*arguments, "--lr", "0.01")[0] == 0
    before, after = (
        json.loads((run_folder / "config.json").read_text()) for run_folder in (trained, tmp_path / "again")
    )
    assert {name for name in before if before[name] != after[name]} == {"lr"}
    status, _, err = run(*arguments, "--overwrite", "--recipe", "digits")
    assert (status, "exclude" in err) == (2, True)


def test_only_the_first_process_prints_json(folder, tmp_path, run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    status, output = run("train", "--data", folder, "--out", tmp_path / "run", "--epochs", 1, *SMALL, "--json")[:2]
    assert (status, output) == (0, "")

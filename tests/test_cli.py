"""The verbs, run in this process: what they print, what they return."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from dataclasses import fields

import pytest
from rich.console import Console

from feathervit.cli import VERBS, main
from feathervit.cli.printing import new_table
from feathervit.config import list_models, spec
from feathervit.recipes import RECIPES, recipe

SMALL = [
    *("--img-size", "16", "--patch-size", "4", "--batch-size", "32", "--lr", "3e-3", "--model", "mlit_nano"),
    *("--arch.depth", "2", "--arch.dim", "32", "--augment.policy", "none", "--augment.mixup", "0"),
]


@pytest.fixture
def run(capsys):
    """Calls the command line and returns (status, standard output, standard error)."""

    def call(*argv) -> tuple[int, str, str]:
        try:
            status = main([str(a) for a in argv])
        except SystemExit as stop:
            status = stop.code or 0
        out = capsys.readouterr()
        return status, out.out, out.err

    return call


@pytest.fixture
def trained(folder, tmp_path, run):
    out = tmp_path / "run"
    status, *_ = run("train", "--data", folder, "--out", out, "--epochs", 15, *SMALL)
    assert status == 0
    return out


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


def test_evaluate_falls_back_to_the_validation_split(folder, tmp_path, run):
    out = tmp_path / "run"
    assert run("train", "--data", folder / "train", "--out", out, "--epochs", 2, *SMALL)[0] == 0
    for data in ([], ["--data", folder / "train"]):
        found = json.loads(run("evaluate", out, *data, "--json")[1])
        assert (found["split"], found["n"]) == ("val", 7)
        assert found["top1"] == json.loads((out / "result.json").read_text())["val"]["top1"]


def test_flags_accept_underscores(tmp_path, run):
    arguments = ["--recipe", "digits", "--out", tmp_path / "run", "--img_size=16", "--optim.weight_decay", "0.125"]
    assert (
        run("train", *arguments, "--max_minutes", "1e-9", "--arch.feedforward_", "x")[0] == 2
    )  # still an unknown flag
    assert run("train", *arguments, "--max_minutes", "1e-9", "--arch.drop_path_rate", "0.25")[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["optim"]["weight_decay"], config["arch"]["drop_path_rate"]) == (0.125, 0.25)


def test_folds_and_from(folder, trained, tmp_path, run):
    fold = ["train", "--data", folder / "train", "--epochs", 1, *SMALL, "--folds", 4]
    held_out = []
    for i in range(4):
        assert run(*fold, "--fold", i, "--out", tmp_path / f"fold{i}", "--from", trained)[0] == 0
        splits = json.loads((tmp_path / f"fold{i}" / "splits.json").read_text())["splits"]
        held_out += splits["val"]["sources"]
    assert len(held_out) == len(set(held_out)) == 72


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


def test_resume_and_its_messages(folder, tmp_path, run):
    out = tmp_path / "run"
    train = ["train", "--data", folder, "--out", out, *SMALL]
    status, output, _ = run(*train, "--epochs", 3, "--max-minutes", "0.000001")
    assert status == 0
    assert "--resume" in output
    status, _, err = run(*train, "--epochs", 3)
    assert status == 2
    assert "--resume" in err
    assert run("train", "--resume", "--out", out, "--lr", "0.5")[0] == 2
    assert run("train", "--resume", "--out", out)[0] == 0
    assert json.loads((out / "result.json").read_text())["epochs"][-1]["epoch"] == 3


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


def test_parts_are_chosen_by_flags(folder, tmp_path, run):
    out = tmp_path / "run"
    parts = ["--arch.attention", "latent", "--arch.attention.rank", 8, "--arch.patches=conv-stem"]
    parts += ["--arch.feedforward", "conv-mlp", "--arch.feedforward.ratio", 1.5, "--arch.readout", "class"]
    assert run("train", "--data", folder, "--out", out, "--epochs", 1, *SMALL, *parts)[0] == 0
    arch = json.loads((out / "config.json").read_text())["arch"]
    assert arch["attention"] == {"kind": "Latent", "heads": 4, "rank": 8, "low_rank": "qkv"}  # the model's own heads
    assert (arch["feedforward"]["kind"], arch["feedforward"]["ratio"]) == ("ConvMLP", 1.5)
    assert (arch["patches"], arch["readout"]) == ({"kind": "ConvStem", "layers": 2}, "class")
    assert json.loads(run("evaluate", out, "--json")[1])["n"] == 24
    assert run("train", "--resume", "--out", out, "--epochs", 2)[0] == 0
    assert "--arch.attention.rank" in run("train", "--arch.attention", "latent", "--help-all")[1]


@pytest.mark.parametrize("model", list_models())
def test_every_model_part_has_flags(model, tmp_path, run):
    flags = run("train", "--model", model, "--help-all")[1]
    parts = spec(model).config
    for field in ("attention", "feedforward", "patches"):
        for f in fields(getattr(parts, field)):
            negated = "no-" if f.default is True else ""  # the flag changes the default
            assert f"--arch.{field}.{negated}{f.name.replace('_', '-')}" in flags


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, run):
    status, out, _ = run(*verb.split(), "--help")
    assert status == 0
    assert "--help" in out


def test_names_are_not_truncated_in_a_narrow_terminal():
    table = new_table("name", "what it is")
    table.add_row("a_long_name.of_weights", "words " * 30)
    out = io.StringIO()
    Console(file=out, width=40).print(table)
    assert "a_long_name.of_weights" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 40


def test_short_help_fits_80_columns_and_shows_recipe_defaults(run):
    for verb in ("train", "pretrain"):
        status, out, _ = run(verb, "--help")
        flags = [line.split()[0] for line in out.splitlines() if line.startswith("  --")]
        assert status == 0
        assert max(map(len, out.splitlines())) <= 80
        assert 18 <= len(flags) == len(set(flags)) <= 22
        assert "chosen by the images" in out
    defaults = run("train", "--recipe", "digits", "--help")[1]
    assert "chosen by the images" not in defaults
    assert f"(default: {recipe('digits').epochs})" in defaults
    assert f"(default: {recipe('digits').lr})" in defaults


def test_every_flag_in_the_long_help_has_a_description(run):
    """The line below a flag does not begin with its default."""
    for arguments in ([], ["--arch.attention", "latent"], ["--model", "feather_nano"], ["--recipe", "mae_digits"]):
        lines = [line.strip("│ ") for line in run("train", *arguments, "--help-all")[1].splitlines()]
        flags = [(a, b) for a, b in itertools.pairwise(lines) if a.startswith("--")]
        assert len(flags) > 80
        assert [a for a, b in flags if b.startswith("(default")] == []


def test_a_run_can_be_repeated_from_its_config(trained, folder, tmp_path, run):
    arguments = ("train", "--config", trained / "config.json", "--out", tmp_path / "again", "--max-minutes", "1e-9")
    assert run(*arguments, "--lr", "0.01")[0] == 0
    before, after = (
        json.loads((run_folder / "config.json").read_text()) for run_folder in (trained, tmp_path / "again")
    )
    assert {name for name in before if before[name] != after[name]} == {"lr"}
    status, _, err = run(*arguments, "--overwrite", "--recipe", "digits")
    assert (status, "exclude" in err) == (2, True)


def test_unavailable_published_weights_give_a_one_line_error(folder, tmp_path, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = ["--data", folder, "--out", tmp_path / "run", "--img-size", 32, "--epochs", 1]
    for start in (["--from", "timm:resnet10t"], ["--model", "timm:resnet10t", "--pretrained"]):
        status, _, err = run("train", *arguments, *start)
        assert status == 2
        assert "Hugging Face hub" in err
        assert len(err.splitlines()) == 1
    status, _, err = run("train", *arguments, "--model", "vit_lite_7", "--pretrained")
    assert (status, "no weights of vit_lite_7" in err) == (2, True)


MISTAKES = {
    "unknown verb": (["trian"], "train"),
    "unknown subverb": (["data", "chekc"], "check"),
    "unknown flag": (["train", "--epoch", "3"], "--epochs"),
    "not a number": (["train", "--epochs", "many"], "epochs"),
    "missing value": (["train", "--epochs"], "epochs"),
    "not a choice": (["train", "--precision", "float8"], "bfloat16"),
    "unknown model": (["train", "--model", "mlit_xss", "--data", "digits", "--out", "OUT"], "mlit_xs"),
    "unknown recipe": (["train", "--recipe", "digit", "--out", "OUT"], "digits"),
    "unknown dataset": (["train", "--data", "cifar11", "--out", "OUT"], "cifar1"),
    "missing folder": (["train", "--data", "no/such/folder", "--out", "OUT"], "no/such/folder"),
    "no data": (["train", "--out", "OUT"], "data"),
    "no out": (["train", "--data", "digits"], "--out"),
    "patch that does not divide": (["train", "--recipe", "digits", "--patch-size", "3", "--out", "OUT"], "16"),
    "heads that do not divide": (["train", "--recipe", "digits", "--arch.attention.heads", "5", "--out", "OUT"], "5"),
    "unknown kind of part": (["train", "--recipe", "digits", "--arch.patches", "conv", "--out", "OUT"], "conv-stem"),
    "missing checkpoint": (["evaluate", "none.safetensors"], "none.safetensors"),
    "no images named": (["predict", "none.safetensors"], "images"),
    "two formats": (["predict", "none.safetensors", "a.png", "--json", "--csv"], "--csv"),
    "flag without effect": (
        ["train", "--model", "timm:resnet10t", "--data", "digits", "--arch.depth", "2", "--out", "OUT"],
        "arch",
    ),
    "nothing to resume": (["train", "--resume", "--out", "OUT"], "--resume"),
    "resume and overwrite": (["train", "--resume", "--overwrite", "--out", "OUT"], "exclude"),
    "fold out of range": (["train", "--recipe", "digits", "--folds", "3", "--fold", "3", "--out", "OUT"], "fold"),
    "threads": (["train", "--recipe", "digits", "--threads", "0", "--out", "OUT"], "--threads"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_give_a_one_line_error_and_status_2(name, run, tmp_path):
    argv, word = MISTAKES[name]
    status, out, err = run(*[str(tmp_path / "run") if a == "OUT" else a for a in argv])
    assert status == 2
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("feathervit: ")
    assert word in lines[0]
    assert "Traceback" not in out + err


def test_checkpoint_and_data_must_match(trained, folder, tmp_path, run):
    (folder / "test" / "flat").rename(folder / "test" / "round")
    status, _, err = run("evaluate", trained, "--data", folder)
    assert status == 2
    assert "round" in err
    status, _, err = run("evaluate", trained, "--data", "digits")
    assert status == 2


def test_debug_shows_the_traceback(run):
    from feathervit.errors import FeatherVitError

    with pytest.raises(FeatherVitError):
        run("evaluate", "none.safetensors", "--debug")


def test_flags_of_train_are_frozen(run):
    """Notices flags that were added by accident. Dotted fields of the recipe are not included."""
    import re

    flags = set(re.findall(r"^\W*(--[a-z][\w-]*)(?= |$)", run("train", "--help-all")[1], flags=re.MULTILINE))
    assert flags == {
        *("--config", "--pretrained"),
        *(
            "--out",
            "--resume",
            "--overwrite",
            "--minutes",
            "--max-minutes",
            "--config",
            "--pretrained",
            "--skip-unreadable",
            "--threads",
            "--json",
        ),
        *(
            "--recipe",
            "--objective",
            "--model",
            "--data",
            "--start-from",
            "--teacher",
            "--img-size",
            "--patch-size",
            "--epochs",
            "--batch-size",
            "--lr",
            "--seed",
        ),
        *("--device", "--precision", "--compile", "--patience", "--on-nonfinite", "--accumulate"),
        "--log",
    }


def test_names_with_brackets_or_invalid_unicode(folder, tmp_path, run, monkeypatch):
    root = (folder / "train").rename(tmp_path / "pets [old]")
    (root / "flat").rename(root / "red [bold] fox")
    name = b"\xff.png" if os.name == "posix" else "ü.png".encode()
    (root / "tall" / "0.png").rename(root / "tall" / os.fsdecode(name))
    out = tmp_path / "run"
    status, output, _ = run("train", "--data", root, "--out", out, "--epochs", 1, *SMALL)
    assert status == 0
    assert "pets [old]" in output
    splits = json.loads((out / "splits.json").read_text(encoding="utf-8"))["splits"]
    sources = [source for split in splits.values() for source in split["sources"]]
    assert f"tall/{os.fsdecode(name)}" in sources
    assert "red [bold] fox" in run("evaluate", out)[1]
    status, output, _ = run("predict", out, root / "red [bold] fox")
    lines = output.splitlines()
    assert len(lines) == 25
    assert all(
        "pets [old]/red [bold] fox/" in line for line in lines[1:]
    )  # not truncated, so that programs can parse it
    strict = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr("sys.stdout", strict)
    assert main(["predict", str(out), str(root / "tall"), "--csv"]) == 0


def test_a_late_error_leaves_existing_files_unchanged(folder, tmp_path, run):
    out = tmp_path / "run"
    train = ["train", "--data", folder, "--out", out, "--epochs", 1, *SMALL]
    (folder / "train" / "flat" / "0.png").write_bytes(b"no image")
    assert run(*train)[0] == 2
    assert run(*train, "--skip-unreadable")[0] == 0  # the refused run left no folder
    before = (out / "best.safetensors").read_bytes()
    assert run(*train, "--overwrite")[0] == 2
    assert (out / "best.safetensors").read_bytes() == before


def test_a_relative_path_does_not_evaluate_on_training_images(folder, tmp_path, run, monkeypatch):
    monkeypatch.chdir(folder)
    assert run("train", "--data", "train", "--out", tmp_path / "run", "--epochs", 1, *SMALL)[0] == 0
    for cwd, names in ((folder, ["train/", "../set/train", folder / "train"]), (tmp_path, ["set/train"])):
        monkeypatch.chdir(cwd)
        for data in ([], *(["--data", name] for name in names)):
            found = json.loads(run("evaluate", tmp_path / "run", *data, "--json")[1])
            assert (found["split"], found["n"]) == ("val", 7)
    monkeypatch.chdir(folder)
    assert run("train", "--resume", "--out", tmp_path / "run", "--data", "train")[0] == 0


def test_a_renamed_verb_names_its_replacement(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pictures", "routing", "run"]) == 2
    assert "feathervit plot" in capsys.readouterr().err


def test_internal_errors_are_one_line_and_save_a_traceback(run, tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of two\nlines")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(VERBS, "models", (VERBS["models"][0], broken))
    status, out, err = run("models", "--json")
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    (kept,) = tmp_path.iterdir()
    assert "ZeroDivisionError: of two lines" in line and str(kept) in line
    text = kept.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text and "in broken" in text
    assert "feathervit models --json" in text
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    status, _, err = run("models")
    assert status == 1 and len(err.splitlines()) == 1 and "--debug" in err

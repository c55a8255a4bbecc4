"""Errors of the command line: one line and a status."""

from __future__ import annotations

import json

import pytest

from feathervit.cli import VERBS

from .conftest import SMALL


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


def test_debug_shows_the_traceback(run):
    from feathervit.errors import FeatherVitError

    with pytest.raises(FeatherVitError):
        run("evaluate", "none.safetensors", "--debug")


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
    top1 = json.loads((tmp_path / "run" / "result.json").read_text())["val"]["top1"]
    for cwd, names in ((folder, ["train/", "../set/train", folder / "train"]), (tmp_path, ["set/train"])):
        monkeypatch.chdir(cwd)
        for data in ([], *(["--data", name] for name in names)):
            found = json.loads(run("evaluate", tmp_path / "run", *data, "--json")[1])
            assert (found["split"], found["n"], found["top1"]) == ("val", 7, top1)
    monkeypatch.chdir(folder)
    assert run("train", "--resume", "--out", tmp_path / "run", "--data", "train")[0] == 0


@pytest.mark.parametrize(
    ("verb", "successor"),
    [("pictures", "feathervit plot"), ("results reproduce", "study papers"), ("results pack", "git archive")],
)
def test_a_renamed_verb_names_its_successor(verb, successor, run):
    status, _, err = run(*verb.split(), "run")
    assert status == 2
    assert successor in err


def test_internal_errors_are_one_line_and_save_a_traceback(run, tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of two\nlines")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(VERBS["models"], "execute", broken)
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

"""How a folder is read and which files are skipped. Each case runs `data check` and `train`, which must agree."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from feathervit.data.names import find_splits

from .commands import TINY, paint

PAIR = "{0}/a/1.png {0}/a/2.png {0}/b/1.png {1}/a/3.png {1}/b/2.png"
TWO = {"train": {"a": 2, "b": 1}}


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("train", "dev", "val"),
        ("train", "eval", "val"),
        ("TRAIN", "Validation_Set", "val"),
        ("pets_train", "pets_test", "test"),
        ("01-train", "02-test", "test"),
        ("01_pets-train", "02_pets-TEST", "test"),
        ("train2017", "val2017", "val"),
        ("trainset", "testset", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("pets/pets/train", "pets/pets/testing", "test"),
        ("trainval", "test", "test"),
        ("train_val", "Test Set", "test"),
        ("\uff34\uff32\uff21\uff29\uff2e", "\uff36\uff41\uff4c", "val"),  # full-width letters
    ],
)
def test_split_folders_may_have_many_names(command, tmp_path, train, other, split):
    counts, line = command.counts(paint(tmp_path / "set", [name.format(train, other) for name in PAIR.split()]))
    assert counts == TWO | {split: {"a": 1, "b": 1}}
    assert f"train is {train}/" in line and f"{split} is {other}/" in line and "2 classes: a, b" in line


@pytest.mark.parametrize(
    ("names", "messages"),
    [
        (PAIR.format("train", "holdout"), ["holdout/ (2 images) is not"]),
        (PAIR.format("train", "test") + " extra/1.png", ["extra/ (1 images)"]),
        (PAIR.format("part1", "part2"), ["part1/, part2/", "all hold the same folders (a, b)"]),
        (PAIR.format("entrenamiento", "prueba"), ["all hold the same folders"]),
        ("one/cat/1.png one/dog/2.png two/cat/3.png two/bird/4.png", ["one/, two/", "all hold the same folders (cat)"]),
        (
            "train/a/1.png train/b/2.png train/val/a/3.png train/val/b/4.png",
            ["val/ (2 images) is", "a/ (1 images), b/ (1 images) are not"],
        ),
        (
            "train/train/a/1.png train/train/b/2.png train/test/a/3.png train/test/b/4.png",
            ["train/ (2 images)", "test/"],
        ),
        ("cat/train/1.png cat/test/2.png dog/train/3.png dog/test/4.png", ["cat/ holds test, train"]),
        ("cat/old/train/1.png cat/old/val/2.png dog/3.png", ["cat/old/ holds train, val"]),
        ("cat/1.png cat/testing/2.png dog/3.png", ["cat/ holds testing"]),
        ("cat/1.png dog/2.png test/3.png", ["test/ (1 images) is named"]),
        ("train/1.png test/2.png", ["train", "no class folders"]),
    ],
)
def test_ambiguous_folders_are_an_error_that_names_the_layouts(command, tmp_path, names, messages):
    output = command.refusal(paint(tmp_path / "set", names))
    for word in (*messages, "ROOT/CLASS/1.jpg", "ROOT/train|val|test/CLASS/1.jpg", "a table", "--classes", "--ignore"):
        assert word in output


@pytest.mark.parametrize(
    ("names", "flags", "want"),
    [
        (PAIR.format("train", "holdout"), ["--ignore", "holdout"], TWO),
        (PAIR.format("train", "test") + " extra/1.png", ["--classes", "a,b"], TWO | {"test": {"a": 1, "b": 1}}),
        (PAIR.format("part1", "part2"), ["--classes", "part1,part2"], {"train": {"part1": 3, "part2": 2}}),
        (
            "cat/train/1.png cat/test/2.png dog/train/3.png dog/test/4.png dog/test/5.png",
            ["--classes", "cat,dog"],
            {"train": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 2}},
        ),
        ("cat/1.png dog/2.png test/3.png", ["--classes", "cat,dog"], {"train": {"cat": 1, "dog": 1}}),
        ("cat/1.png dog/2.png test/3.png", ["--classes", "cat,dog,test"], {"train": {"cat": 1, "dog": 1, "test": 1}}),
        ("a,b/1.png c/2.png d/3.png", ["--classes", "a,b", "--classes", "c"], {"train": {"a,b": 1, "c": 1}}),
        ("a/1.png a/bad_2.png b/3.png b/x/bad_4.png", ["--ignore", "bad_*"], {"train": {"a": 1, "b": 1}}),
        ("a/1.png a/x/2.png b/3.png b/x/4.png", ["--ignore", "a/x"], {"train": {"a": 1, "b": 2}}),
    ],
)
def test_classes_and_ignore_resolve_ambiguity(command, tmp_path, names, flags, want):
    counts, line = command.counts(paint(tmp_path / "set", names), *flags)
    assert counts == want
    skipped = len(names.split()) - sum(sum(by_class.values()) for by_class in counts.values())
    assert ("skipped: " in line) == (skipped > 0)


@pytest.mark.parametrize(
    ("names", "want", "note"),
    [
        ("bus/1.png car/2.png train/3.png", {"train": {"bus": 1, "car": 1, "train": 1}}, "3 classes"),
        (
            "train/a/1.png train/b/2.png test/3.png test/4.png",
            {"train": {"a": 1, "b": 1}},
            "2 images of test outside",
        ),
        *(
            (
                f"x_train/a/1.png x_train/b/2.png x_test/{inner}/3.png",
                {"train": {"a": 1, "b": 1}},
                "1 images of test outside",
            )
            for inner in ("x_test", "test", "images", "Test Data")
        ),
        ("a/1.png a/deep/2.png b/3.png b/deep/4.png", {"train": {"a": 2, "b": 2}}, "folders 'deep' of the classes"),
        (
            "cat/images/1.png dog/images/2.png labels/1.txt",
            {"train": {"cat": 1, "dog": 1}},
            "without images (1: labels/)",
        ),
    ],
)
def test_clear_layouts_are_read_and_reported(command, tmp_path, names, want, note):
    counts, line = command.counts(paint(tmp_path / "set", re.split(r"(?<=png|txt) ", names)))
    assert counts == want
    assert note in line


def test_flags_without_a_match(command, tmp_path):
    root = paint(tmp_path / "set", "cat/1.png dog/2.png")
    assert "unknown class 'bird'; known: cat, dog" in command.refusal(root, "--classes", "cat,bird")
    assert "nothing that matches '*.bmp'" in command.counts(root, "--ignore", "*.bmp")[1]


def test_the_choice_of_classes_is_stored_with_the_weights(command, tmp_path):
    root = paint(tmp_path / "set", "cat/1.png dog/2.png bird/3.png bird/4.png")
    command.counts(root, "--classes", "cat,dog")
    run = command.out / "1"
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 2
    assert command("train", "--resume", "--out", run)[0] == 0
    status, _, output = command("evaluate", run, "--classes", "bird,cat")
    assert status == 2 and "'bird'" in output
    assert json.loads(command("evaluate", run, "--classes", "cat", "--json")[1])["n"] == 1


def test_pretraining_never_uses_test_images(command, tmp_path):
    root = paint(tmp_path / "set", "cat/train/1.png cat/test/2.png dog/3.png Testing/4.png dog/@eaDir/5.png")
    tiny = [word for word in TINY if word not in ("--split.val-fraction", "0")]
    status, _, error = command("pretrain", "--data", root, "--out", tmp_path / "run", *tiny)
    assert status == 0, error
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]
    assert sorted(splits["train"]["sources"]) == ["cat/train/1.png", "dog/3.png"]
    assert sorted(splits["test"]["sources"]) == ["Testing/4.png", "cat/test/2.png"]
    report = json.loads(command("data", "check", root, "--unlabelled", "--json")[1])
    assert report["counts"] == {"train": {"": 2}, "test": {"": 2}}


@pytest.mark.parametrize(
    "name", ["test tube", "bullet_train", "contest", "trainers", "evaluations of", "retrain", "Attest"]
)
def test_names_that_are_not_splits(name):
    assert find_splits([name, "cat"]) == {}


def test_runs_inside_the_data_are_skipped(command, tmp_path, monkeypatch):
    root = paint(tmp_path / "pets", "cat/1.png cat/2.png dog/3.png dog/4.png")
    monkeypatch.chdir(root)
    assert command("train", "--data", ".", "--out", "run", *TINY)[0] == 0
    paint(root, "run/report/curves.png web/export.json web/examples/1.png env/pyvenv.cfg env/lib/icon.png")
    paint(root, "studies/one/plan.json studies/one/study.json studies/one/chart.png runs/a/config.json")
    paint(root, "runs/a/metrics.csv runs/a/reconstructions/1.png")
    counts, line = command.counts(".")
    assert counts == {"train": {"cat": 2, "dog": 2}}
    for kind in ("a run (2: ", "an export (1: web)", "a study (1: one)", "a virtual environment (1: env)"):
        assert f"folders that hold {kind}" in line
    assert json.loads(command("evaluate", "run", "--json")[1])["n"] == 4
    assert len(json.loads(command("predict", "run", ".", "--json")[1])["predictions"]) == 4


def test_a_run_in_the_data_folder_is_skipped(command, tmp_path):
    root = paint(tmp_path / "pets", "cat/1.png dog/2.png config.json metrics.csv report/a.png reconstructions/1.png")
    counts, line = command.counts(root)
    assert counts == {"train": {"cat": 1, "dog": 1}}
    assert "folders of a run (2: " in line


def test_the_cache_inside_the_data_is_skipped(command, tmp_path, monkeypatch):
    root = paint(tmp_path / "pets", "cat/1.png dog/2.png kept/downloads/x/3.png")
    monkeypatch.setenv("FEATHERVIT_CACHE", str(root / "kept"))
    counts, line = command.counts(root)
    assert counts == {"train": {"cat": 1, "dog": 1}}
    assert "folders that hold the cache (1: kept)" in line


LEFT = "@eaDir @Recycle #recycle #snapshot $RECYCLE.BIN lost+found __MACOSX __pycache__ RECYCLER .Trash-1000 .Trashes"
LEFT += " .thumbnails .git FOUND.000 ~snapshot"


@pytest.mark.parametrize("left", ["System Volume Information", *LEFT.split()])
def test_files_of_operating_systems_are_skipped(command, tmp_path, left):
    root = tmp_path / "set"
    for parent in (root, root / "train", root / "train" / "a", root / "val" / "b" / "deep"):
        paint(parent / left, "a/1.png 2.png")
    paint(root, "train/a/1.png train/b/2.png val/a/3.png val/b/4.png val/b/deep/5.png")
    status, output, _ = command("data", "check", root, "--json")
    report = json.loads(output)
    assert report["counts"] == {"train": {"a": 1, "b": 1}, "val": {"a": 1, "b": 2}}
    assert f"(4: {left})" in report["notes"][0]
    assert status == 0


def test_thumbnails_of_validation_images_are_not_trained_on(command, tmp_path):
    root = paint(tmp_path / "set", "cat/1.png cat/2.png dog/3.png cat/._1.png cat/~$x.png")
    for image in list(root.rglob("[0-9].png")):
        for size in ("SM", "XL"):
            thumb = image.parent / "@eaDir" / image.name / f"SYNOPHOTO_THUMB_{size}.png"
            thumb.parent.mkdir(parents=True, exist_ok=True)
            thumb.write_bytes(image.read_bytes())
    paint(root, "dog/SYNOPHOTO_THUMB_M.jpg")
    counts, line = command.counts(root)
    assert counts == {"train": {"cat": 2, "dog": 1}}
    assert Counter(line.split())["@eaDir),"] == 1
    for part in (
        "folders that operating systems create (2: ",
        "hidden images (1: ",
        "files that operating systems create (2: ",
    ):
        assert part in line
    counts, _ = command.counts(paint(tmp_path / "named", "@eaDir/1.png dog/2.png"), "--classes", "@eaDir,dog")
    assert counts == {"train": {"@eaDir": 1, "dog": 1}}  # requested classes are not skipped


def test_a_split_may_hold_one_class_with_a_number_as_name(command, tmp_path):
    files = ["train/0/1.png", "train/0/2.png", "train/1/3.png", "train/1/4.png", "test/1/5.png"]
    counts, _ = command.counts(paint(tmp_path / "set", files))
    assert counts == {"train": {"0": 2, "1": 2}, "test": {"1": 1}}

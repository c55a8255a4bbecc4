"""What a user's data is taken for: every case through `data check` and `train`, which must agree."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feathervit.cli import main
from feathervit.data.names import find_splits
from feathervit.data.opening import SUFFIXES as IMAGE_SUFFIXES
from feathervit.files import cache_folder
from feathervit.text import REPLACED

TINY = [
    *("--model", "mlit_nano", "--img-size", "16", "--patch-size", "8", "--arch.depth", "1", "--arch.dim", "16"),
    *("--epochs", "1", "--split.val-fraction", "0", "--augment.policy", "none", "--threads", "1"),
]


def paint(root: Path, names: str | list[str]) -> Path:
    """Files of these names, images all different by their suffix and texts else."""
    for number, name in enumerate(names.split() if isinstance(names, str) else names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            pixels = np.random.default_rng(number + 1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        else:
            path.write_text("{}")
    return root


class Command:
    """The two verbs in this process."""

    def __init__(self, capsys, tmp_path):
        self.capsys, self.out, self.number = capsys, tmp_path / "runs", 0

    def __call__(self, *argv) -> tuple[int, str, str]:
        status = main([str(word) for word in argv])
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def counts(self, data, *flags) -> tuple[dict[str, dict[str, int]], str]:
        """split -> class -> images, alike for both verbs, and the line on what the data was taken for."""
        status, said, error = self("data", "check", data, "--json", *flags)
        assert status in (0, 1), error
        report = json.loads(said)
        self.number += 1
        out = self.out / str(self.number)
        status, said, error = self("train", "--data", data, "--out", out, *TINY, *flags)
        assert status == 0, error
        (line,) = report["notes"]
        assert any(line in printed for printed in said.splitlines())
        splits = json.loads((out / "splits.json").read_text())["splits"]
        assert {name: part["count"] for name, part in splits.items()} == {
            name: sum(by_class.values()) for name, by_class in report["counts"].items()
        }
        known = json.loads((out / "result.json").read_text())["data"]["classes"]
        assert known == len({name for by_class in report["counts"].values() for name in by_class})
        return report["counts"], line

    def refusal(self, data, *flags) -> str:
        """What both verbs say of data that they refuse, in the same words."""
        status, _, first = self("data", "check", data, *flags)
        assert status == 2
        status, _, second = self("train", "--data", data, "--out", self.out / "refused", *TINY, *flags)
        assert status == 2
        assert first == second
        assert not (self.out / "refused").exists()
        return first


@pytest.fixture
def command(capsys, tmp_path) -> Command:
    return Command(capsys, tmp_path)


# --- 1. splits and classes

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
        ("train2017", "val2017", "val"),
        ("trainset", "testset", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("pets/pets/train", "pets/pets/testing", "test"),
    ],
)
def test_splits_by_many_names(command, tmp_path, train, other, split):
    counts, line = command.counts(paint(tmp_path / "set", PAIR.format(train, other)))
    assert counts == TWO | {split: {"a": 1, "b": 1}}
    assert f"train is {train}/" in line and f"{split} is {other}/" in line and "2 classes: a, b" in line


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (PAIR.format("train", "holdout"), ["holdout/ (2 images)", "neither a split nor a class"]),
        (PAIR.format("train", "test") + " extra/1.png", ["extra/ (1 images)"]),
        (PAIR.format("part1", "part2"), ["part1/, part2/", "all hold the same folders (a, b)"]),
        (PAIR.format("entrenamiento", "prueba"), ["all hold the same folders"]),
        ("cat/train/1.png cat/test/2.png dog/train/3.png dog/test/4.png", ["cat/ holds test, train"]),
        ("cat/old/train/1.png cat/old/val/2.png dog/3.png", ["cat/old/ holds train, val"]),
        ("cat/1.png cat/testing/2.png dog/3.png", ["cat/ holds testing"]),
        ("cat/1.png dog/2.png test/3.png", ["test/ (1 images) is a split by name"]),
        ("train/1.png test/2.png", ["train", "no class folders"]),
    ],
)
def test_what_may_be_several_things_is_an_error_that_names_the_known_layouts(command, tmp_path, names, words):
    said = command.refusal(paint(tmp_path / "set", names))
    for word in (*words, "ROOT/CLASS/1.jpg", "ROOT/train|val|test/CLASS/1.jpg", "a table", "--classes", "--ignore"):
        assert word in said


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
def test_two_flags_settle_it(command, tmp_path, names, flags, want):
    counts, line = command.counts(paint(tmp_path / "set", names), *flags)
    assert counts == want
    skipped = len(names.split()) - sum(sum(by_class.values()) for by_class in counts.values())
    assert ("skipped: " in line) == (skipped > 0)


@pytest.mark.parametrize(
    ("names", "want", "said"),
    [
        ("bus/1.png car/2.png train/3.png", {"train": {"bus": 1, "car": 1, "train": 1}}, "3 classes"),
        (
            "train/a/1.png train/b/2.png test/3.png test/4.png",
            {"train": {"a": 1, "b": 1}},
            "2 images of test in no class",
        ),
        ("a/1.png a/deep/2.png b/3.png b/deep/4.png", {"train": {"a": 2, "b": 2}}, "folders 'deep' of the classes"),
        (
            "cat/images/1.png dog/images/2.png labels/1.txt",
            {"train": {"cat": 1, "dog": 1}},
            "without images (1: labels/)",
        ),
    ],
)
def test_what_is_clear_is_taken_and_said(command, tmp_path, names, want, said):
    counts, line = command.counts(paint(tmp_path / "set", names))
    assert counts == want
    assert said in line


def test_flags_that_fit_nothing(command, tmp_path):
    root = paint(tmp_path / "set", "cat/1.png dog/2.png")
    assert "unknown class 'bird'; known: cat, dog" in command.refusal(root, "--classes", "cat,bird")
    assert "nothing by the pattern '*.bmp'" in command.counts(root, "--ignore", "*.bmp")[1]


def test_the_choice_is_kept_with_the_weights(command, tmp_path):
    root = paint(tmp_path / "set", "cat/1.png dog/2.png bird/3.png bird/4.png")
    command.counts(root, "--classes", "cat,dog")
    run = command.out / "1"
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 2
    assert command("train", "--resume", "--out", run)[0] == 0
    status, _, said = command("evaluate", run, "--classes", "bird,cat")
    assert status == 2 and "'bird'" in said
    assert json.loads(command("evaluate", run, "--classes", "cat", "--json")[1])["n"] == 1


def test_pretraining_keeps_test_images_out_however_they_lie(command, tmp_path):
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
def test_names_that_are_no_splits(name):
    assert find_splits([name, "cat"]) == {}


# --- 2. and 3. what else lies there


def test_runs_inside_the_data(command, tmp_path, monkeypatch):
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


def test_a_run_in_the_very_folder_of_the_data(command, tmp_path):
    root = paint(tmp_path / "pets", "cat/1.png dog/2.png config.json metrics.csv report/a.png reconstructions/1.png")
    counts, line = command.counts(root)
    assert counts == {"train": {"cat": 1, "dog": 1}}
    assert "folders of a run (2: " in line


def test_the_cache_inside_the_data(command, tmp_path, monkeypatch):
    root = paint(tmp_path / "pets", "cat/1.png dog/2.png kept/downloads/x/3.png")
    monkeypatch.setenv("FEATHERVIT_CACHE", str(root / "kept"))
    counts, line = command.counts(root)
    assert counts == {"train": {"cat": 1, "dog": 1}}
    assert "folders that hold the cache (1: kept)" in line


@pytest.mark.parametrize(
    "left",
    [
        *("@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
        *(
            "__MACOSX",
            "__pycache__",
            "RECYCLER",
            ".Trash-1000",
            ".Trashes",
            ".thumbnails",
            ".git",
            "FOUND.000",
            "~snapshot",
        ),
    ],
)
def test_what_systems_leave_behind(command, tmp_path, left):
    root = tmp_path / "set"
    for place in (root, root / "train", root / "train" / "a", root / "val" / "b" / "deep"):
        paint(place / left, "a/1.png 2.png")
    paint(root, "train/a/1.png train/b/2.png val/a/3.png val/b/4.png val/b/deep/5.png")
    status, said, _ = command("data", "check", root, "--json")
    report = json.loads(said)
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
        "folders that systems leave behind (2: ",
        "hidden images (1: ",
        "files that systems leave behind (2: ",
    ):
        assert part in line
    counts, _ = command.counts(paint(tmp_path / "named", "@eaDir/1.png dog/2.png"), "--classes", "@eaDir,dog")
    assert counts == {"train": {"@eaDir": 1, "dog": 1}}  # what is asked for is not skipped


# --- 7. hub sets


@pytest.fixture
def hub_set(tmp_path, monkeypatch):
    """Writes parquet files: write(features, split=[column values...], ...), the images added."""
    hub = pytest.importorskip("datasets")
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    hub.disable_progress_bars()

    def write(features: dict, images: tuple[str, ...] = ("img",), **splits: dict[str, list]) -> str:
        for split, columns in splits.items():
            count = len(next(iter(columns.values())))
            names = [f"{split}{i}.png" for i in range(count)]
            paint(tmp_path / "raw", " ".join(names))
            cells = [{"bytes": (tmp_path / "raw" / name).read_bytes(), "path": None} for name in names]
            kinds = hub.Features(dict.fromkeys(images, hub.Image()) | features)
            table = hub.Dataset.from_dict(dict.fromkeys(images, cells) | columns, features=kinds)
            (tmp_path / "set").mkdir(exist_ok=True)
            table.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
        return f"hf:{tmp_path / 'set'}"

    return write


def test_hub_splits_and_columns_are_said(command, hub_set):
    import datasets as hub

    kinds = {"id": hub.Value("int64"), "fine_label": hub.ClassLabel(names=["rose", "daisy"])}
    columns = {"id": [1, 2, 3], "fine_label": [1, 0, 1]}
    source = hub_set(kinds, train=columns, valid=columns, test=columns)
    counts, line = command.counts(source)
    assert counts == {split: {"daisy": 2, "rose": 1} for split in ("train", "val", "test")}
    assert "train is train, val is val" in line.replace("validation", "val")
    assert "images in the column img, labels in the column fine_label; 2 classes: rose, daisy" in line


def test_hub_splits_of_other_names():
    from feathervit.data.columns import splits_of

    assert splits_of("x", ["valid", "train", "dev_extra"]) == {"train": "train", "val": "valid"}
    assert splits_of("x", ["test", "dev", "train"]) == {"train": "train", "val": "dev", "test": "test"}


COLUMNS = {
    "two class labels": (("fine_label", "coarse_label"), "class", ([0, 1, 2, 2], [0, 0, 1, 2])),
    "two texts": (("class_name", "category"), "string", (["a", "b", "a", "b"], ["x", "x", "y", "y"])),
    "numbers": (("label", "target"), "int64", ([1, 2, 1, 2], [1, 1, 1, 2])),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_several_columns_of_labels_are_an_error_that_names_the_flag(command, hub_set, name):
    import datasets as hub

    (first, second), kind, values = COLUMNS[name]
    kind = hub.ClassLabel(names=["a", "b", "c"]) if kind == "class" else hub.Value(kind)
    source = hub_set({first: kind, second: kind}, train=dict(zip((first, second), values, strict=True)))
    said = command.refusal(source)
    assert f"{first}, {second}" in said and "--label-column" in said
    assert "unknown column 'labl'" in command.refusal(source, "--label-column", "labl")
    counts, line = command.counts(source, "--label-column", second)
    assert f"labels in the column {second}" in line
    assert sorted(counts["train"].values()) == sorted(Counter(values[1]).values())


def test_columns_that_say_the_same_are_one(command, hub_set):
    import datasets as hub

    kinds = {"label": hub.ClassLabel(names=["rose", "daisy"]), "class_name": hub.Value("string")}
    counts, _ = command.counts(hub_set(kinds, train={"label": [0, 1, 1], "class_name": ["r", "d", "d"]}))
    assert counts == {"train": {"rose": 1, "daisy": 2}}


def test_several_columns_of_images(command, hub_set):
    import datasets as hub

    source = hub_set({"label": hub.Value("int64")}, ("photo", "mask"), train={"label": [1, 2, 2]})
    assert "photo, mask; name one: --image-column photo" in command.refusal(source)
    counts, line = command.counts(source, "--image-column", "mask")
    assert counts == {"train": {"1": 1, "2": 2}} and "images in the column mask" in line


@pytest.mark.parametrize("missing", [-1, None])
@pytest.mark.parametrize("kind", ["class", "int64", "string"])
def test_hub_splits_and_images_without_labels(command, hub_set, kind, missing):
    import datasets as hub

    values = ["a", "b"] if kind == "string" else [0, 1]
    missing = "" if kind == "string" and missing == -1 else missing
    kind = hub.ClassLabel(names=["a", "b"]) if kind == "class" else hub.Value(kind)
    train, test = {"label": values * 2}, {"label": [missing] * 3}
    source = hub_set({"label": kind}, train=train, test=test, validation={"label": [*values, missing]})
    counts, line = command.counts(source)
    assert [list(by_class.values()) for by_class in counts.values()] == [[2, 2], [1, 1]]
    assert "test has no labels (3 images): left out" in line
    assert "1 of 3 images of val have no label: left out" in line


def test_hub_set_whose_labels_are_all_missing(command, hub_set, tmp_path):
    import datasets as hub

    source = hub_set({"label": hub.ClassLabel(names=["a", "b"])}, train={"label": [-1] * 3})
    assert "no label in train: all 3 are missing" in command.refusal(source)
    report = json.loads(command("data", "check", source, "--unlabelled", "--json")[1])
    assert report["counts"] == {"train": {"": 3}}


def test_minus_one_is_a_class_where_train_says_so(command, hub_set):
    import datasets as hub

    counts, _ = command.counts(hub_set({"label": hub.Value("int64")}, train={"label": [-1, 1, 1]}))
    assert counts == {"train": {"-1": 1, "1": 2}}


# --- 15. labels in a table


def write_table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def flat(tmp_path) -> Path:
    """Eight images beside each other, whose labels no folder says."""
    return paint(tmp_path / "flat", " ".join(f"{i}.png" for i in range(8)))


LABELLED = {"train": {"cat": 4, "dog": 4}}
ROWS = [(f"{i}.png", "dog" if i % 2 else "cat") for i in range(8)]


def joined(mark: str, header: str, rows=ROWS) -> str:
    return "\n".join([header.replace(",", mark), *(mark.join(row) for row in rows)]) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("images.csv", joined(",", "path,label")),
        ("images.tsv", joined("\t", "path,label")),
        ("images.csv", joined(";", "Filename,Class")),
        ("images.CSV", "\ufeff" + joined(",", "file_name,category").replace("\n", "\r\n")),
        ("images.csv", joined(",", '"image","class name"').replace("class name", "class-name")),
        ("images.csv", joined(",", ",path,label", [("", *row) for row in ROWS])),  # as pandas writes its index
    ],
)
def test_a_table_of_labels(command, flat, name, text):
    counts, line = command.counts(write_table(flat / name, text))
    assert counts == LABELLED
    assert "a table of 8 rows" in line and "2 classes: cat, dog" in line
    paths, labels = next(line.split("; ")[1] for _ in [0]).split(", ")
    assert paths.startswith("paths in the column ") and labels.startswith("labels in ")


def test_a_parquet_table(command, flat):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    names, labels = zip(*ROWS, strict=True)
    table = pandas.DataFrame({"path": names, "label": [None, *labels[1:]], "weight": 1.0})
    table.to_parquet(flat / "images.parquet")
    counts, line = command.counts(flat / "images.parquet")
    assert counts == {"train": {"cat": 3, "dog": 4}}
    assert "1 of 8 images of train have no label: left out" in line


def test_a_table_with_splits_and_a_root(command, flat, tmp_path):
    splits = ["train"] * 4 + ["Validation", "dev", "test", "Testing"]
    rows = [(*row, split) for row, split in zip(ROWS, splits, strict=True)]
    table = write_table(tmp_path / "elsewhere.csv", joined(",", "path,label,split", rows))
    assert "--root" in command.refusal(table)
    want = {"train": {"cat": 2, "dog": 2}, "val": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 1}}
    assert command.counts(table, "--root", flat)[0] == want
    run = command.out / str(command.number)
    assert json.loads((run / "config.json").read_text())["reading"]["root"] == str(flat)
    assert json.loads((run / "splits.json").read_text())["splits"]["val"]["sources"] == ["4.png", "5.png"]
    assert json.loads(command("evaluate", run, "--json")[1])["split"] == "test"
    flat.rename(tmp_path / "moved")
    assert command("evaluate", run)[0] == 2
    assert command("evaluate", run, "--root", tmp_path / "moved")[0] == 0
    assert command("train", "--resume", "--out", run, "--root", tmp_path / "moved", "--epochs", "2")[0] == 0
    other = write_table(tmp_path / "moved" / "other.csv", joined(",", "path,label", ROWS[:2]))
    assert (
        json.loads(command("evaluate", run, "--data", other, "--json")[1])["n"] == 2
    )  # the root was the first table's


def test_paths_of_a_table_lie_anywhere(command, tmp_path):
    paint(tmp_path / "a", "x/1.png 2.png")
    paint(tmp_path / "b", "3.png 4.png")
    text = f"path,label\nx\\1.png,l\n./2.png,l\n../b/3.png,m\n{tmp_path / 'b' / '4.png'},m\n"
    counts, _ = command.counts(write_table(tmp_path / "a" / "images.csv", text))
    assert counts == {"train": {"l": 2, "m": 2}}
    sources = json.loads((command.out / "1" / "splits.json").read_text())["splits"]["train"]["sources"]
    assert sources == ["a/x/1.png", "a/2.png", "b/3.png", "b/4.png"]
    assert command("report", command.out / "1")[0] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
        (joined(",", "where,what"), "where, what and none of paths"),
        (joined(",", "path,what"), "path, what and none of labels"),
        (
            joined(",", "path,label,category", [(*row, "x") for row in ROWS]),
            "label, category; name one: --label-column label",
        ),
        (joined(",", "path,image,label", [("x", *row) for row in ROWS]), "path, image; name one: --image-column path"),
        (joined(",", "path,label,path", [(*row, "x") for row in ROWS]), "the column 'path' twice"),
        (joined(",", "path,label") + "0.png\n", "line 10: 1 values, and 2 columns"),
        (joined(",", "path,label") + ",cat\n", "row 10 has no path"),
        (joined(",", "path,label") + "0.png,dog\n", "rows 2 and 10"),
        (joined(",", "path,label,split", [(*row, "train") for row in ROWS]) + "1.png,dog,test\n", "in train and test"),
        (joined(",", "path,label,split", [(*row, "left") for row in ROWS]), "unknown split 'left'"),
        (joined(",", "path,label,split", [(*row, "") for row in ROWS]), "unknown split ''"),
        (joined(",", "path,label", [(f"no/{path}", label) for path, label in ROWS]), "none of its 8 images is there"),
        (joined(",", "path,label", [(path, "") for path, _ in ROWS]), "no label in train"),
        ("path,label\n\udcff.png,cat\n", "not UTF-8"),
    ],
)
def test_tables_that_cannot_be(command, flat, text, words):
    (flat / "images.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert words in command.refusal(flat / "images.csv")


def test_flags_settle_a_table(command, flat):
    rows = [(path, label, f"c{i % 3}", "x.png") for i, (path, label) in enumerate(ROWS)]
    table = write_table(flat / "images.csv", joined(",", "path,label,category,image", rows))
    counts, line = command.counts(table, "--image-column", "path", "--label-column", "category")
    assert counts == {"train": {"c0": 3, "c1": 3, "c2": 2}} and "labels in category" in line
    counts, line = command.counts(
        table, "--image-column=path", "--label-column=category", "--classes", "c0,c2", "--ignore", "0.*"
    )
    assert counts == {"train": {"c0": 2, "c2": 2}} and "skipped: 1 rows, ignored" in line


def test_images_that_a_table_names_and_that_are_not_there(command, flat):
    table = write_table(flat / "images.csv", joined(",", "path,label") + "gone.png,cat\n0.png,cat\n")
    status, said, _ = command("data", "check", table, "--json")
    report = json.loads(said)
    assert status == 1 and list(report["unreadable"]) == ["gone.png"]
    assert "1 images are not there" in report["notes"][0] and "1 rows repeat another" in report["notes"][0]
    status, _, said = command("train", "--data", table, "--out", command.out / "none", *TINY)
    assert status == 2 and "gone.png: no such file" in said
    assert command("train", "--data", table, "--out", command.out / "some", "--skip-unreadable", *TINY)[0] == 0


def test_pretraining_needs_no_labels_in_a_table(command, flat, tmp_path):
    table = write_table(flat / "images.csv", joined(",", "path", [row[:1] for row in ROWS]))
    tiny = [word for word in TINY if word not in ("--split.val-fraction", "0")]
    assert command("pretrain", "--data", table, "--out", tmp_path / "run", *tiny)[0] == 0
    assert json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]["train"]["count"] == 8


def test_a_folder_of_images_beside_their_table_names_it(command, flat):
    table = write_table(flat / "labels.csv", joined(",", "path,label"))
    assert f"--data {table}" in command.refusal(flat)


# --- 17. groups


def test_groups_are_never_on_both_sides(command, flat, tmp_path):
    """Twelve people with four images each, in either class, by a column or by their names."""
    names = [f"{kind}/p{person:02d}_{n}.png" for person in range(12) for kind in ("yes", "no") for n in range(2)]
    root = paint(tmp_path / "people", " ".join(names))
    rows = [(name, name.split("/")[0], name[name.index("/") + 1 :][:3]) for name in names]
    table = write_table(root / "people.csv", joined(",", "path,label,person", rows))
    held = {}
    tiny = [*TINY, "--split.val-fraction", "0.25"]
    for data, groups in ((root, r"/(p\d+)_"), (table, "person"), (table, r"p\d\d")):
        for flags in ([], ["--split.seed", "1"], ["--folds", "3", "--fold", "1"], ["--split.val-fraction", "0.75"]):
            out = tmp_path / f"run{len(held)}"
            status, said, error = command("train", "--data", data, "--out", out, "--groups", groups, *tiny, *flags)
            assert status == 0, error
            splits = json.loads((out / "splits.json").read_text())["splits"]
            people = {split: {Path(s).name[:3] for s in part["sources"]} for split, part in splits.items()}
            assert people["train"] | people["val"] == {f"p{i:02d}" for i in range(12)}
            assert not people["train"] & people["val"]
            share = len(people["val"]) / 12
            assert share == pytest.approx(
                {"--folds": 1 / 3, "--split.val-fraction": 0.75}.get(*flags[:1] or [""], 0.25)
            )
            assert {s.split("/")[0] for s in splits["val"]["sources"]} == {"yes", "no"}
            assert "by whole groups" in said
            held[out] = people["val"]
    assert len({frozenset(people) for people in held.values()}) > 3
    run = next(iter(held))
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 12  # of the same people
    assert command("train", "--resume", "--out", run, "--groups", "other")[0] == 2


def test_a_class_that_one_group_alone_holds_stays_in_train():
    from feathervit.config import SplitConfig
    from feathervit.data.splits import hold_out

    labels = np.array([0] * 12 + [1] * 8 + [2] * 4)
    groups = [f"g{i // 4}" for i in range(24)]
    for seed in range(5):
        kept, held, _, _ = hold_out(labels, SplitConfig(val_fraction=0.4, seed=seed), groups)
        assert set(labels[kept]) == {0, 1, 2}
        assert not {groups[i] for i in kept} & {groups[i] for i in held}
    assert len(hold_out(labels, SplitConfig(), ["one"] * 24)[1]) == 0


def test_a_group_in_two_splits_is_an_error(command, tmp_path):
    root = paint(tmp_path / "set", "train/a/p1_1.png train/b/p2_1.png test/a/p1_2.png test/b/p3_1.png")
    status, said, _ = command("data", "check", root, "--groups", r"p\d")
    assert status == 1 and "p1 (train, test)" in said
    status, _, said = command("train", "--data", root, "--out", tmp_path / "run", "--groups", r"p\d", *TINY)
    assert status == 2 and "'p1' in train and test" in said


@pytest.mark.parametrize(("groups", "words"), [("(", "regular expression"), ("q", "no group in 2 paths")])
def test_groups_that_are_none(command, tmp_path, groups, words):
    root = paint(tmp_path / "set", "a/1.png b/2.png")
    assert words in command.refusal(root, "--groups", groups)


def test_groups_of_data_without_paths(command, tmp_path):
    status, _, said = command("train", "--data", "digits", "--out", tmp_path / "run", "--groups", "x", *TINY)
    assert status == 2 and "--groups has no effect on digits" in said


@pytest.mark.parametrize(
    "form",
    [
        *("{kind}/person{p}_{n}.png", "{kind}/{p:03d}-{n}.png", "{kind}/dog{p}/{n}.png", "{kind}/clip{p} frame{n}.png"),
        *("{kind}/{p}_smile{n}x.png", "train/{kind}/vid{p}.{n:04d}.png"),
    ],
)
def test_names_that_suggest_groups(command, tmp_path, form):
    names = [form.format(kind=kind, p=p, n=n) for kind in ("a", "b") for p in range(4) for n in range(3)]
    root = paint(tmp_path / "set", names)
    flags = ["--classes", "a,b"]
    said = command("data", "check", root, *flags)[1]
    assert "suggest 4 groups" in said
    pattern = said.split("--groups '")[1].split("'")[0]
    flags += ["--groups", pattern]
    out = tmp_path / "run"
    assert command("train", "--data", root, "--out", out, *TINY, *flags, "--folds", "4")[0] == 0
    splits = json.loads((out / "splits.json").read_text())["splits"]
    assert {name: part["count"] for name, part in splits.items()} == {"train": 18, "val": 6}
    assert json.loads(command("data", "check", root, *flags, "--json")[1])["suggested_groups"] == ""


@pytest.mark.parametrize(
    "form", ["{kind}/{n}.png", "{kind}/{kind}_{n:03d}.png", "{kind}/IMG_{n}.png", "{kind}/x{n}a.png"]
)
def test_names_that_suggest_none(command, tmp_path, form):
    root = paint(tmp_path / "set", [form.format(kind=kind, n=n) for kind in "ab" for n in range(12)])
    assert "--groups" not in command("data", "check", root)[1]


# --- 13. names

NAMES = [":cat:", "[bold]x", "dog😀", "new\nline", "esc\x1b[31mred", "a,b", "<b>&amp;", "-dash", "$x^2$_{y}", "نص"]
NAMES += ["=1+1", "%s{0}"]


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes")
def test_every_name_is_trained_on_printed_and_drawn(command, tmp_path):
    names = [*NAMES, os.fsdecode(b"bad\xff")]
    root = paint(tmp_path / "set", [f"{name}/{i}.png" for name in names for i in range(3)])
    paint(root, [f":cat:/{name}.png" for name in names])
    run, png = tmp_path / "run", tmp_path / "samples.png"
    status, said, error = command("train", "--data", root, "--out", run, *TINY, "--split.val-fraction", "0.3")
    assert status == 0, error
    assert ":cat:" in said and "\x1b[31m" not in said
    assert command("report", run)[0] == 0
    assert "[bold]x" in (run / "report.html").read_text(encoding="utf-8")
    status, said, error = command("evaluate", run)
    assert status == 0, error
    rows = [line.strip() for line in said.splitlines()]
    for name in NAMES:
        assert any(row.startswith(name.replace("\n", "\\n").replace("\x1b", "\\x1b")) for row in rows), name
    assert any(row.startswith("bad\ufffd") for row in rows)
    assert json.loads(command("evaluate", run, "--json")[1])["per_class"].keys() == {*names}
    status, said, _ = command("predict", run, root, "--csv")
    assert status == 0 and "\r" not in said
    table = list(csv.DictReader(io.StringIO(said)))
    assert len({row["file"] for row in table}) == 4 * len(names)
    assert {row["class"] for row in table} <= {*names[:-1], "bad\ufffd"}
    for verb in (
        ["data", "check", root],
        ["data", "show", root, "--out", png],
        ["report", run],
        ["predict", run, root],
    ):
        status, said, error = command(*verb)
        assert status == 0, error
        assert "\x1b[31m" not in said and len(said.splitlines()) < 80
    said.encode("utf-8")


ENCODED = {"utf-8": "é\ufffd😀", "ascii": "\\xe9?\\U0001f600", "latin-1": "é?\\U0001f600"}


@pytest.mark.parametrize("encoding", ENCODED)
def test_output_in_any_encoding(encoding):
    assert "é\udcff😀".encode(encoding, REPLACED).decode(encoding) == ENCODED[encoding]


def test_names_are_compared_in_one_unicode_form(command, tmp_path):
    """Mac writes é as e and an accent, others as one letter."""
    one, two = "caf\u00e9", "cafe\u0301"
    root = paint(tmp_path / "set", [f"train/{one}/1.png", "train/dog/2.png", f"val/{two}/3.png", "val/dog/4.png"])
    counts, _ = command.counts(root)
    assert counts == {split: {one: 1, "dog": 1} for split in ("train", "val")}
    assert command.counts(root, "--classes", f"{two},dog")[0] == counts
    assert command.counts(root, "--ignore", "4.png", "--ignore", f"val/{one}/*")[0] == {"train": counts["train"]}
    both = paint(tmp_path / "both", [f"{one}/1.png", f"{two}/2.png", "dog/3.png"])
    counts, line = command.counts(both)
    assert counts == {"train": {one: 2, "dog": 1}} and f"2 folders are the class {one}" in line
    table = write_table(both / "t.csv", f"path,label\n{two}/1.png,{two}\n{one}/2.png,{one}\ndog/3.png,dog\n")
    assert command.counts(table)[0] == {"train": {one: 2, "dog": 1}}
    assert json.loads(command("evaluate", command.out / "1", "--data", both, "--json")[1])["n"] == 3


# --- 12. large files, and files of other kinds


def test_a_large_sound_file_is_read_and_a_bomb_is_not(command, tmp_path, monkeypatch):
    """More pixels than PIL's own limit of errors are read, a JPEG at an eighth; a limit of memory refuses other formats."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    root = paint(tmp_path / "set", "a/1.png b/2.png")
    large = Image.new("RGB", (1_200, 900), (200, 30, 60))
    large.save(root / "a" / "large.jpg")
    counts, _ = command.counts(root)
    assert counts == {"train": {"a": 2, "b": 1}}
    large.save(root / "b" / "large.png", compress_level=1)
    assert json.loads(command("data", "check", root, "--json")[1])["counts"] == {"train": {"a": 2, "b": 2}}
    few = ["--max-image-gib", "0.001"]
    report = json.loads(command("data", "check", root, "--json", *few)[1])
    assert list(report["unreadable"]) == ["b/large.png"] and "--max-image-gib" in report["unreadable"]["b/large.png"]
    status, _, said = command("train", "--data", root, "--out", tmp_path / "run", *TINY, *few)
    assert status == 2 and "b/large.png" in said and "a/large.jpg" not in said
    assert command("train", "--data", root, "--out", tmp_path / "run", *TINY, *few, "--skip-unreadable")[0] == 0
    status, said, error = command("predict", tmp_path / "run", root, "--json")
    assert status == 1 and len(json.loads(said)["predictions"]) == 3 and "b/large.png" in said + error
    assert command("predict", tmp_path / "run", root, "--max-image-gib", "1")[0] == 0
    assert command("predict", tmp_path / "run", root, "--max-image-gib", "0")[0] == 2


@pytest.mark.parametrize("suffix", [".dng", ".CR2", ".svg", ".jxl"])
def test_images_of_kinds_that_are_not_read_are_counted_and_a_class_is_not_lost(command, tmp_path, suffix):
    root = paint(tmp_path / "set", f"train/a/1.png train/a/2{suffix} train/b/3.png val/a/4.png val/b/5.png val/b/6.txt")
    counts, line = command.counts(root)
    assert counts["train"] == {"a": 1, "b": 1}
    assert (
        f"images of kinds that are not read here (1: 1 {suffix.lower()}), files that are not images (1: 1 .txt)" in line
    )
    paint(root, f"train/c/1{suffix} train/c/deep/2{suffix}")
    status, said, _ = command("data", "check", root)
    assert status == 1 and f"train/c/ (2 {suffix.lower()})" in said.split("must be")[1]
    status, _, said = command("train", "--data", root, "--out", tmp_path / "run", *TINY)
    assert status == 2 and f"train/c/ (2 {suffix.lower()})" in said and "--ignore train/c" in said
    assert command.counts(root, "--ignore", "train/c")[0]["train"] == {"a": 1, "b": 1}
    status, _, said = command("train", "--data", root, "--out", tmp_path / "run", *TINY, "--classes", "a,b,c")
    assert status == 2 and "train/c/" in said


def test_a_folder_of_photographs_in_another_format_only(command, tmp_path):
    root = paint(tmp_path / "set", "cat/1.cr3 dog/2.cr3")
    assert command("data", "check", root)[0] == 1
    status, _, said = command("train", "--data", root, "--out", tmp_path / "run", *TINY)
    assert status == 2 and "cat/ (1 .cr3)" in said and "conversion to JPEG or PNG" in said


def test_formats_that_pillow_has_are_read_by_name(command, tmp_path):
    suffixes = [suffix for suffix in (".avif", ".jp2", ".heic") if suffix in IMAGE_SUFFIXES]
    root = paint(tmp_path / "set", "a/1.png b/2.png")
    for suffix in suffixes:
        Image.open(root / "a" / "1.png").save(root / "b" / f"3{suffix}")
    assert command.counts(root)[0] == {"train": {"a": 1, "b": 1 + len(suffixes)}}


# --- 16. archives


def archive(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A .zip or a .tar of any compression, with these members."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in files.items():
                out.writestr(name, content)
            for name, target in (links or {}).items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                out.writestr(info, target)
        return path
    compression = {".tgz": "gz", ".gz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{compression}") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            out.addfile(info)
    return path


@pytest.fixture
def members(tmp_path) -> dict[str, bytes]:
    """The files of pets/cat and pets/dog."""
    root = paint(
        tmp_path / "made", "pets/cat/1.png pets/cat/2.png pets/dog/3.png pets/__MACOSX/cat/._1.png pets/read.me"
    )
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["pets.zip", "PETS.ZIP", "pets.tar", "pets.tgz", "pets.tar.gz", "pets.tar.bz2", "pets.tar.xz"]
)
def test_an_archive_is_unpacked_once(command, tmp_path, members, name, monkeypatch):
    path = archive(tmp_path / name.lower(), members).rename(tmp_path / name)
    counts, line = command.counts(path)
    assert counts == {"train": {"cat": 2, "dog": 1}}
    assert f"unpacked from {name} into {cache_folder() / 'unpacked'}" in line
    assert (tmp_path / name).exists() and sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "made", "runs"])
    run = command.out / "1"
    assert json.loads((run / "splits.json").read_text())["splits"]["train"]["sources"][0] == "pets/cat/1.png"
    written = {p: p.stat().st_mtime_ns for p in (cache_folder() / "unpacked").rglob("*.png")}
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 3
    assert {p: p.stat().st_mtime_ns for p in (cache_folder() / "unpacked").rglob("*.png")} == written
    next(iter(written)).unlink()  # by what cleans caches
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 3
    other = archive(
        tmp_path / f"other{Path(name).suffix.lower()}", {"pets/x/4.png": members["pets/cat/1.png"], **members}
    )
    other.replace(path)
    assert json.loads(command("data", "check", path, "--json")[1])["counts"] == {"train": {"cat": 2, "dog": 1, "x": 1}}
    assert command("data", "cache", "--clear")[0] == 0
    assert not (cache_folder() / "unpacked").exists()


EVIL = ["../out.png", "a/../../out.png", "/tmp/out.png", "C:\\out.png", "..\\out.png", "a\\..\\..\\out.png"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("evil", EVIL)
def test_nothing_is_written_outside(command, tmp_path, members, kind, evil):
    path = archive(tmp_path / f"set.{kind}", {**members, evil: b"x"})
    before = sorted(tmp_path.rglob("*"))
    assert "leads outside" in command.refusal(path)
    assert sorted(p for p in tmp_path.rglob("*") if "runs" not in p.parts) == before
    assert not [p for p in (cache_folder() / "unpacked").rglob("*") if p.suffix == ".png"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_links_are_skipped(command, tmp_path, members, kind):
    path = archive(tmp_path / f"set.{kind}", members, {"pets/dog/up": "../../..", "pets/dog/9.png": "/etc/passwd"})
    counts, line = command.counts(path)
    assert counts == {"train": {"cat": 2, "dog": 1}} and "but for 2 links and devices" in line


def test_a_member_below_a_link_goes_nowhere(command, tmp_path, members):
    with tarfile.open(tmp_path / "set.tar", "w") as out:
        link = tarfile.TarInfo("pets/way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        out.addfile(link)
        for name, content in {**members, "pets/way/out.png": members["pets/cat/1.png"]}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    assert command.counts(tmp_path / "set.tar")[0] == {"train": {"cat": 2, "dog": 1, "way": 1}}
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_what_grows_too_far_is_refused(command, tmp_path, members, kind, monkeypatch):
    monkeypatch.setattr("feathervit.data.archive._SMALL", 1_000_000)
    path = archive(tmp_path / f"set.{kind}", {**members, "pets/dog/bomb.bmp": bytes(5_000_000)})
    assert "becomes more than" in command.refusal(path)
    monkeypatch.setattr("feathervit.data.archive._FILES", 3)
    assert "more than 3 files" in command.refusal(archive(tmp_path / f"many.{kind}", members))
    assert not list((cache_folder() / "unpacked").rglob("*.bmp"))


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tgz", "set.tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
def test_damaged_archives(command, tmp_path, members, name, damage):
    path = archive(tmp_path / name, members)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.find(b"IDAT") + 20 if name == "set.tar" else len(whole) // 3] ^= 0xFF
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"x", "flipped": bytes(flipped)}[damage])
    if name == "set.tar" and damage == "flipped":  # it has no checksum of its content: the image is found to be damaged
        assert command("data", "check", path)[0] == 1
    else:
        assert "cannot unpack" in command.refusal(path)

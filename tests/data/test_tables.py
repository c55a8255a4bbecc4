"""Labels in a table."""

from __future__ import annotations

import json

import pytest

from .commands import ROWS, TINY, joined, paint, write_table

LABELLED = {"train": {"cat": 4, "dog": 4}}


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
def test_csv_tables(command, flat, name, text):
    counts, line = command.counts(write_table(flat / name, text))
    assert counts == LABELLED
    assert "a table of 8 rows" in line and "2 classes: cat, dog" in line
    paths, labels = next(line.split("; ")[1] for _ in [0]).split(", ")
    assert paths.startswith("paths in the column ") and labels.startswith("labels in ")


def test_parquet_tables(command, flat):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    names, labels = zip(*ROWS, strict=True)
    for column, want in (
        ([None, *labels[1:]], {"cat": 3, "dog": 4}),
        ([None, *[1, 2, 3] * 2, 1], {"1": 3, "2": 2, "3": 2}),  # pandas stores these as floats
    ):
        table = pandas.DataFrame({"path": names, "label": column, "weight": 1.0})
        table.to_parquet(flat / "images.parquet")
        counts, line = command.counts(flat / "images.parquet")
        assert counts == {"train": want}
        assert "1 of 8 images of train have no label: left out" in line


@pytest.mark.parametrize("missing", ["-1", ""])
def test_table_splits_without_labels_are_left_out(command, flat, missing):
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    rows = [
        (path, missing if split == "test" else label, split) for (path, label), split in zip(ROWS, splits, strict=True)
    ]
    counts, line = command.counts(write_table(flat / "images.csv", joined(",", "path,label,split", rows)))
    assert counts == {"train": {"cat": 2, "dog": 2}, "val": {"cat": 1, "dog": 1}}
    assert "test has no labels (2 images): left out" in line


def test_tables_with_splits_and_a_root(command, flat, tmp_path):
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
    )  # the root belongs to the first table


def test_paths_of_a_table_may_be_anywhere(command, tmp_path):
    paint(tmp_path / "a", "x/1.png 2.png")
    paint(tmp_path / "b", "3.png 4.png")
    text = f"path,label\nx\\1.png,l\n./2.png,l\n../b/3.png,m\n{tmp_path / 'b' / '4.png'},m\n"
    counts, _ = command.counts(write_table(tmp_path / "a" / "images.csv", text))
    assert counts == {"train": {"l": 2, "m": 2}}
    sources = json.loads((command.out / "1" / "splits.json").read_text())["splits"]["train"]["sources"]
    assert sources == ["a/x/1.png", "a/2.png", "b/3.png", "b/4.png"]
    assert command("report", command.out / "1")[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
        (joined(",", "where,what"), "no column of paths"),
        (joined(",", "path,what"), "no column of labels"),
        (
            joined(",", "path,label,category", [(*row, "x") for row in ROWS]),
            "label, category; name one: --label-column label",
        ),
        (joined(",", "path,image,label", [("x", *row) for row in ROWS]), "path, image; name one: --image-column path"),
        (joined(",", "path,label,path", [(*row, "x") for row in ROWS]), "the column 'path' twice"),
        (joined(",", "path,label") + "0.png\n", "line 10: 1 values"),
        (joined(",", "path,label") + ",cat\n", "row 10 has no path"),
        (joined(",", "path,label") + "0.png,dog\n", "rows 2 and 10"),
        (joined(",", "path,label,split", [(*row, "train") for row in ROWS]) + "1.png,dog,test\n", "train and test"),
        (joined(",", "path,label,split", [(*row, "left") for row in ROWS]), "unknown split 'left'"),
        (joined(",", "path,label,split", [(*row, "") for row in ROWS]), "unknown split ''"),
        (joined(",", "path,label", [(f"no/{path}", label) for path, label in ROWS]), "all its 8 images"),
        (joined(",", "path,label", [(path, "") for path, _ in ROWS]), "no label in train"),
        ("path,label\n\udcff.png,cat\n", "not UTF-8"),
    ],
)
def test_invalid_tables_are_refused(command, flat, text, message):
    (flat / "images.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message in command.refusal(flat / "images.csv")


def test_flags_choose_columns_and_rows(command, flat):
    rows = [(path, label, f"c{i % 3}", "x.png") for i, (path, label) in enumerate(ROWS)]
    table = write_table(flat / "images.csv", joined(",", "path,label,category,image", rows))
    counts, line = command.counts(table, "--image-column", "path", "--label-column", "category")
    assert counts == {"train": {"c0": 3, "c1": 3, "c2": 2}} and "labels in category" in line
    counts, line = command.counts(
        table, "--image-column=path", "--label-column=category", "--classes", "c0,c2", "--ignore", "0.*"
    )
    assert counts == {"train": {"c0": 2, "c2": 2}} and "skipped: 1 rows" in line


def test_missing_images_of_a_table_are_reported(command, flat):
    table = write_table(flat / "images.csv", joined(",", "path,label") + "gone.png,cat\n0.png,cat\n")
    status, output, _ = command("data", "check", table, "--json")
    report = json.loads(output)
    assert status == 1 and list(report["unreadable"]) == ["gone.png"]
    assert "1 images are missing" in report["notes"][0] and "1 rows repeat another" in report["notes"][0]
    status, _, output = command("train", "--data", table, "--out", command.out / "none", *TINY)
    assert status == 2 and "gone.png: no such file" in output
    assert command("train", "--data", table, "--out", command.out / "some", "--skip-unreadable", *TINY)[0] == 0


def test_pretraining_needs_no_labels_in_a_table(command, flat, tmp_path):
    table = write_table(flat / "images.csv", joined(",", "path", [row[:1] for row in ROWS]))
    tiny = [word for word in TINY if word not in ("--split.val-fraction", "0")]
    assert command("pretrain", "--data", table, "--out", tmp_path / "run", *tiny)[0] == 0
    assert json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]["train"]["count"] == 8


def test_a_folder_with_a_table_suggests_the_table(command, flat):
    table = write_table(flat / "labels.csv", joined(",", "path,label"))
    assert f"--data {table}" in command.refusal(flat)

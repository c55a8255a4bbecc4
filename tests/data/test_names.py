"""Names of files and classes: Unicode forms, undecodable bytes, output on consoles and in plots, the home folder."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest

import feathervit
from feathervit.cli import main
from feathervit.text import REPLACED

from .commands import TINY, paint, write_table

NAMES = [":cat:", "[bold]x", "dog😀", "new\nline", "esc\x1b[31mred", "a,b", "<b>&amp;", "-dash", "$x^2$_{y}", "نص"]
NAMES += ["=1+1", "%s{0}"]


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes")
def test_any_name_can_be_trained_on_printed_and_drawn(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # a narrow terminal would shorten the paths
    names = [*NAMES, os.fsdecode(b"bad\xff")]
    root = paint(tmp_path / "pets [old]", [f"{name}/{i}.png" for name in names for i in range(3)])
    paint(root, [f":cat:/{name}.png" for name in names])
    run, png = tmp_path / "run", tmp_path / "samples.png"
    status, output, error = command("train", "--data", root, "--out", run, *TINY, "--split.val-fraction", "0.3")
    assert status == 0, error
    assert ":cat:" in output and "pets [old]" in output and "\x1b[31m" not in output
    assert command("report", run)[0] == 0
    assert "[bold]x" in (run / "report.html").read_text(encoding="utf-8")
    status, output, error = command("evaluate", run)
    assert status == 0, error
    rows = [line.strip() for line in output.splitlines()]
    for name in NAMES:
        assert any(row.startswith(name.replace("\n", "\\n").replace("\x1b", "\\x1b")) for row in rows), name
    assert any(row.startswith("bad\ufffd") for row in rows)
    assert json.loads(command("evaluate", run, "--json")[1])["per_class"].keys() == {*names}
    status, output, _ = command("predict", run, root, "--csv")
    assert status == 0 and "\r" not in output
    table = list(csv.DictReader(io.StringIO(output)))
    assert len({row["file"] for row in table}) == 4 * len(names)
    assert {row["class"] for row in table} <= {*names[:-1], "bad\ufffd"}
    for verb in (
        ["data", "check", root],
        ["data", "show", root, "--out", png],
        ["report", run],
        ["predict", run, root],
    ):
        status, output, error = command(*verb)
        assert status == 0, error
        assert "\x1b[31m" not in output and len(output.splitlines()) < 80
        if verb[0] == "predict":  # paths are not truncated, so that programs can parse them
            assert all("pets [old]/" in line for line in output.splitlines()[1:])
    strict = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr("sys.stdout", strict)
    assert main(["predict", str(run), str(root), "--csv"]) == 0


ENCODED = {"utf-8": "é\ufffd😀", "ascii": "\\xe9?\\U0001f600", "latin-1": "é?\\U0001f600"}


@pytest.mark.parametrize("encoding", ENCODED)
def test_output_in_any_encoding(encoding):
    assert "é\udcff😀".encode(encoding, REPLACED).decode(encoding) == ENCODED[encoding]


def test_names_are_compared_in_one_unicode_form(command, tmp_path):
    """macOS writes é as e and an accent, other systems as one letter."""
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


def test_the_home_folder_and_moved_data(command, tmp_path, monkeypatch):
    """~ is the home folder in every path, also after "=", where the shell does not expand it. An error names --data."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(paint(tmp_path, ["home/.keep"]))
    paint(tmp_path / "home" / "pets", "a/1.png a/2.png b/1.png b/2.png")
    commands = [
        ["train", "--data=~/pets", "--out=~/run", *TINY],
        ["data", "check", "~/pets"],
        ["evaluate", "~/run", "--data", "~/pets"],
        ["predict", "~/run", "~/pets/a/1.png", "~/pets/b"],
        ["train", "--from=~/run", "--data=~/pets", "--out", "~/more", *TINY],
        ["train", "--resume", "--out", "~/more", "--epochs", "2"],
        ["export", "~/run", "--to=huggingface", "--out=~/hub"],
        ["data", "show", "~/pets", "--out", "~/samples.png"],
        ["plot", "patches", "~/run", "--out=~/patches.png"],
    ]
    for argv in commands:
        status, _, error = command(*argv)
        assert status == 0, (argv, error)
    assert feathervit.load("~/run").class_names == ("a", "b")
    feathervit.load("~/run").predict("~/pets/a/1.png")
    assert not (tmp_path / "~").exists()
    made = {path.name for path in (tmp_path / "home").iterdir()}
    assert made >= {"pets", "run", "more", "hub", "samples.png", "patches.png"}
    (tmp_path / "home" / "pets").rename(tmp_path / "home" / "dogs")
    for argv in (["evaluate", "~/run"], ["train", "--resume", "--out", "~/run", "--epochs", "2"], ["probe", "~/run"]):
        status, _, error = command(*argv)
        assert status == 2 and "--data" in error
    assert command("evaluate", "~/run", "--data", "~/dogs")[0] == 0
    assert command("train", "--resume", "--out", "~/run", "--epochs", "2", "--data", "~/dogs")[0] == 0

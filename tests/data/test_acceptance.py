"""Every kind of user data once, as a user tries it, with `data check` and `train` side by side. Nothing is skipped silently.

Each case writes its input into a folder and returns the value of --data, followed by flags. `images`: the images to train on,
by split and class. `says`: texts that both verbs print. `fails`: texts in the one error of both. `check`: faults that
`data check` reports and for which `train` stops. The other files of this folder have more cases of each kind.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import feathervit
from feathervit.data import load_data
from feathervit.errors import ConfigError

from .commands import TINY, joined, paint, write_table
from .test_damage import cut, encoded, half_zero, zeros

Counts = dict[str, dict[str, int]]
TWO: Counts = {"train": {"a": 2, "b": 2}}
BOTH: Counts = TWO | {"test": {"a": 1, "b": 1}}


def pair(train: str, test: str) -> list[str]:
    """Files of classes a and b in two folders."""
    return [f"{train}/{k}/{n}.png" for k in "ab" for n in (1, 2)] + [f"{test}/{k}/3.png" for k in "ab"]


PETS = [f"{k}/{n}.png" for k in "ab" for n in (1, 2)]


@dataclass
class Input:
    """`make(root)` writes the input and returns the arguments after --data."""

    make: Callable[[Path], list[Any]]
    images: Counts = field(default_factory=lambda: TWO)
    says: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    check: tuple[str, ...] = ()


def files(names: list[str], *flags: str) -> Callable[[Path], list[Any]]:
    return lambda root: [paint(root / "set", names), *flags]


# --- 1. structure

LAYOUTS = ("ROOT/CLASS/1.jpg", "ROOT/train|val|test/CLASS/1.jpg", "a table")
INSIDE = [f"{k}/{split}/{n}.png" for k in "ab" for split, n in (("train", 1), ("train", 2), ("test", 3))]
INPUTS = {
    "1 Training and Testing": Input(
        files(pair("Training", "Testing")), BOTH, ("train is Training/, test is Testing/",)
    ),
    "1 prefixes": Input(files(pair("01_pets-train", "02_pets-TEST")), BOTH),
    "1 train and dev": Input(files(pair("train", "dev")), TWO | {"val": {"a": 1, "b": 1}}, ("val is dev/",)),
    "1 train and eval": Input(files(pair("train", "eval")), TWO | {"val": {"a": 1, "b": 1}}, ("val is eval/",)),
    "1 train and something else": Input(files(pair("train", "more")), fails=("more/ (2 images) is not", *LAYOUTS)),
    "1 resolved by --ignore": Input(files(pair("train", "more"), "--ignore", "more"), TWO, ("--ignore",)),
    "1 unknown names of splits": Input(files(pair("one", "two")), fails=("all hold the same folders", *LAYOUTS)),
    "1 splits in classes": Input(files(INSIDE), fails=("a/ holds test, train", *LAYOUTS)),
    "1 resolved by --classes": Input(files(INSIDE, "--classes", "a,b"), BOTH),
    "1 a split in a split": Input(files(pair("train", "train/val")), fails=("val/ (2 images) is named", *LAYOUTS)),
    "1 test images outside the classes": Input(
        files([*pair("train", "t")[:4], "test/1.png"]), TWO, ("1 images of test outside",)
    ),
}

# --- 2, 3. files that are not data


def run_inside(root: Path) -> list[Any]:
    paint(
        root / "set", [*PETS, "run/config.json", "run/metrics.csv", "run/report/1.png", "web/export.json", "web/2.png"]
    )
    return [root / "set"]


SYSTEM_FILES = [f"{k}/@eaDir/{n}.png/SYNOPHOTO_THUMB_M.jpg" for k in "ab" for n in (1, 2)]
SYSTEM_FILES += [
    "#recycle/a/9.png",
    "a/__pycache__/9.png",
    "b/deep/.Trash-1000/9.png",
    "__MACOSX/a/._1.png",
    "a/._1.png",
]
INPUTS |= {
    "2 runs and exports": Input(run_inside, TWO, ("folders that hold a run (1: run)", "hold an export (1: web)")),
    "3 files of operating systems": Input(
        files([*PETS, *SYSTEM_FILES]), TWO, ("folders that systems leave behind (5:", "hidden")
    ),
}

# --- 4. one scale


def deep(dtype: type, top: float, other: float | None = None) -> Callable[[Path], list[Any]]:
    """Images with values from 0 to `top`, or to `other` in class b."""

    def make(root: Path) -> list[Any]:
        for k, most in (("a", top), ("b", other or top)):
            for n in (1, 2):
                (root / "set" / k).mkdir(parents=True, exist_ok=True)
                ramp = np.linspace(0, most, 256).reshape(16, 16) * (1 if n == 1 else 0.9)
                Image.fromarray(ramp.astype(dtype)).save(root / "set" / k / f"{n}.tif")
        return [root / "set"]

    return make


INPUTS |= {
    "4 12 bits in 16": Input(deep(np.uint16, 4095), TWO, ("white is 4095",)),
    "4 8 bits in int32": Input(deep(np.int32, 255), TWO, ("white is 255",)),
    "4 floats up to 1 and 1.02": Input(deep(np.float32, 1, 1.02), TWO, ("white is 1 ",)),
    "4 under a quarter of the range": Input(
        deep(np.uint16, 65535, 4095), TWO, ("2 of 4 images of over 8 bits use under",)
    ),
    "4 under a quarter of 8 bits": Input(deep(np.uint8, 255, 1), TWO, ("2 of 4 images are nearly black",)),
}

# --- 6. damage


def damaged(suffix: str, data: bytes) -> Callable[[Path], list[Any]]:
    def make(root: Path) -> list[Any]:
        paint(root / "set", PETS)
        (root / "set" / "a" / f"case.{suffix}").write_bytes(data)
        return [root / "set"]

    return make


INPUTS |= {
    "6 a JPEG cut in half": Input(damaged("jpg", cut(encoded("JPEG"))), check=("a/case.jpg",)),
    "6 zeros in a JPEG": Input(damaged("jpg", zeros(encoded("JPEG"))), check=("a/case.jpg",)),
    "6 a BMP half zero": Input(damaged("bmp", half_zero(encoded("BMP"))), check=("a/case.bmp",)),
    "6 zeros in a PNG": Input(damaged("png", zeros(encoded("PNG"))), check=("a/case.png",)),
    "6 a text": Input(damaged("jpg", b"not found"), check=("a/case.jpg",)),
}

# --- 7. hub datasets


def hub(flags: tuple[str, ...] = (), **splits: dict[str, list]) -> Callable[[Path], list[Any]]:
    def make(root: Path) -> list[Any]:
        sets = pytest.importorskip("datasets")
        sets.disable_progress_bars()
        (root / "set").mkdir()
        for split, columns in splits.items():
            names = [f"{split}{n}.png" for n in range(len(next(iter(columns.values()))))]
            paint(root / "raw", names)
            cells = [{"bytes": (root / "raw" / name).read_bytes(), "path": None} for name in names]
            table = sets.Dataset.from_dict({"image": cells, **columns}).cast_column("image", sets.Image())
            table.to_parquet(str(root / "set" / f"{split}.parquet"))
        return [f"hf:{root / 'set'}", *flags]

    return make


LABELS, OTHER = {"label": ["a", "a", "b", "b"]}, {"coarse": ["x", "y", "y", "y"]}
INPUTS |= {
    "7 a split called valid": Input(hub(train=LABELS, valid={"label": ["a", "b"]}), TWO | {"val": {"a": 1, "b": 1}}),
    "7 a split called dev": Input(hub(train=LABELS, dev={"label": ["a", "b"]}), TWO | {"val": {"a": 1, "b": 1}}),
    "7 columns are named": Input(hub(train=LABELS), TWO, ("images in the column image, labels in the column label",)),
    "7 two columns": Input(
        hub(train={"label": ["a", "a", "b", "b"], "category": ["x", "y", "y", "y"]}), fails=("--label-column",)
    ),
    "7 one of two columns": Input(
        hub(("--label-column", "coarse"), train=LABELS | OTHER), {"train": {"x": 1, "y": 3}}, ("column coarse",)
    ),
    "7 test without labels": Input(
        hub(train=LABELS, test={"label": [None, None]}), TWO, ("test has no labels (2 images)",)
    ),
    "7 test of -1": Input(
        hub(train={"label": [0, 0, 1, 1]}, test={"label": [-1, -1]}),
        {"train": {"0": 2, "1": 2}},
        ("test has no labels",),
    ),
}

# --- 11 to 19. reading


def table(header: str, rows: list[tuple], *flags: str) -> Callable[[Path], list[Any]]:
    def make(root: Path) -> list[Any]:
        paint(root / "set", [f"{n}.png" for n in range(4)])
        return [write_table(root / "set" / "images.csv", joined(",", header, rows)), *flags]

    return make


def zipped(root: Path) -> list[Any]:
    paint(root / "made", [f"pets/{name}" for name in PETS])
    return [shutil.make_archive(str(root / "set"), "zip", root / "made")]


def alike(root: Path) -> list[Any]:
    for split, image in (("train", encoded("PNG")), ("test", encoded("JPEG"))):
        paint(root / "set", [f"{split}/{k}/{n}.png" for k in "ab" for n in ((1, 2) if split == "train" else (3,))])
        (root / "set" / split / "a" / f"photo.{'png' if split == 'train' else 'jpg'}").write_bytes(image)
    return [root / "set"]


FOUR = [(f"{n}.png", "ab"[n // 2]) for n in range(4)]
PEOPLE = [f"{split}/{k}/p{p}_1.png" for k in "ab" for split, p in (("train", 1), ("train", 2), ("test", 1))]
INPUTS |= {
    "12 a class of unsupported images": Input(files([*PETS, "c/1.cr3"]), check=("c/ (1 .cr3)",)),
    "13 two Unicode forms": Input(
        files(["caf\u00e9/1.png", "cafe\u0301/2.png", "b/1.png", "b/2.png"]), {"train": {"caf\u00e9": 2, "b": 2}}
    ),
    "15 a table": Input(table("path,label", FOUR), TWO, ("a table of 4 rows",)),
    "16 a zip archive": Input(zipped, TWO, ("unpacked from set.zip",)),
    "17 groups on both sides": Input(files(PEOPLE, "--groups", "p[0-9]"), check=("p1",)),
    "18 near-duplicates": Input(alike, {"train": {"a": 3, "b": 2}, "test": {"a": 2, "b": 1}}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_both_verbs_agree(command, tmp_path, name):
    case = INPUTS[name]
    data, *flags = case.make(tmp_path)
    if case.fails:
        output = command.refusal(data, *flags)
        assert all(expected in output for expected in case.fails), output
    elif case.check:
        status, output, _ = command("data", "check", data, *flags)
        assert status == 1 and all(expected in output.partition("must be fixed")[2] for expected in case.check), output
        status, _, error = command("train", "--data", data, "--out", tmp_path / "run", *TINY, *flags)
        assert status == 2 and all(expected.split(" ")[0] in error for expected in case.check), error
        assert not (tmp_path / "run").exists()
    else:
        counts, _ = command.counts(data, *flags)
        assert counts == case.images
        for output in (command.checked, command.trained):
            assert all(expected in output for expected in case.says), output


def test_5_exchanged_files_are_read_again(command, tmp_path):
    """The files have one size and keep their times. Training still sees the new pixels."""
    root = tmp_path / "set"
    for k, level in (("a", 30), ("b", 200)):
        (root / k).mkdir(parents=True)
        for n in range(4):
            Image.new("RGB", (16, 16), (level + n,) * 3).save(root / k / f"{n}.bmp")
    assert command("train", "--data", root, "--out", tmp_path / "one", *TINY)[0] == 0
    first, second = root / "a" / "0.bmp", root / "b" / "0.bmp"
    times = first.stat(), second.stat()
    first.rename(root / "x"), second.rename(first), (root / "x").rename(second)
    for path, stat in zip((first, second), times, strict=True):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert command("data", "check", root)[0] == 0
    assert command("train", "--data", root, "--out", tmp_path / "two", *TINY)[0] == 0
    prints = [json.loads((tmp_path / run / "result.json").read_text())["data"]["fingerprint"] for run in ("one", "two")]
    assert prints[0] != prints[1]
    assert load_data(root, img_size=16).train.images[0, 0, 0, 0] in (200, 31)


def test_8_and_10_arrays_and_other_inputs_in_python(command, tmp_path):
    """Training and prediction use one rule for the channels. Other inputs are accepted or give a clear error."""
    root = paint(tmp_path / "set", PETS)
    assert command("train", "--data", root, "--out", tmp_path / "run", *TINY)[0] == 0
    predictor = feathervit.load(tmp_path / "run")
    for shape in ((3, 16, 3), (4, 3, 16, 3)):
        with pytest.raises(ConfigError, match="first or last"):
            predictor.predict(np.zeros(shape, np.uint8))
    with pytest.raises(ConfigError, match="first or last"):
        feathervit.train(data=(np.zeros((4, 3, 16, 3), np.uint8), [0, 0, 1, 1]), out=tmp_path / "x")
    last = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    both = [predictor.predict(x) for x in (last, last.transpose(0, 3, 1, 2))]
    assert both[0] == both[1]
    paths = sorted(root.rglob("*.png"))
    want = [p.classes for p in predictor.predict(paths)]
    accepted = (
        iter(paths),
        np.array(list(map(str, paths))),
        [p.read_bytes() for p in paths],
        [p.open("rb") for p in paths],
    )
    for images in accepted:
        assert [p.classes for p in predictor.predict(images)] == want
    for images in (set(paths), [[[1, 2], [3]]], None, io.StringIO("x")):
        with pytest.raises(ConfigError):
            predictor.predict(images)


def test_18_near_duplicates_are_reported(command, tmp_path):
    report = json.loads(command("data", "check", *alike(tmp_path), "--json")[1])
    assert report["near_duplicates"] == [["train/a/photo.png", "test/a/photo.jpg"]]


def test_11_home_folder_and_moved_data(command, tmp_path, monkeypatch):
    """~ is the home folder in every path, also after "=", where the shell does not expand it. An error names --data."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(paint(tmp_path, ["home/.keep"]))
    paint(tmp_path / "home" / "pets", PETS)
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

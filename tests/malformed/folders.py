"""Folders of images that cannot be trained on, and invalid names of data."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..data.commands import paint
from .case import Case, Make

SIZES = "--img-size 16 --patch-size 8 --model mlit_nano --arch.depth 1 --arch.dim 16 --epochs 1"
TRAIN = f"train --data {{here}}/set --out {{here}}/out {SIZES}"
PRETRAIN = f"pretrain --data {{here}}/set --out {{here}}/out {SIZES}"
SHOW = "data show {here}/set --out {here}/a.png"
CHECK = "data check {here}/set"
EVALUATE = "evaluate {world}/run --data {here}/set"
PROBE = "probe {world}/run --data {here}/set"
EXPORT = "export {world}/run --data {here}/set --out {here}/out --to huggingface"


def tree(*names: str) -> Make:
    """Writes files of these names. A name with a final / is an empty folder."""

    def make(here: Path, world: Path) -> None:
        paint(here / "set", [name for name in names if not name.endswith("/")])
        for name in ("", *names):
            if not (here / "set" / name).exists():
                (here / "set" / name).mkdir(parents=True)

    return make


def damaged(share: float, *names: str) -> Make:
    """Truncates some images, or all images of a folder, in a copy of the world's dataset."""

    def make(here: Path, world: Path) -> None:
        shutil.copytree(world / "set", here / "set")
        for name in names:
            path = here / "set" / name
            for file in path.rglob("*.png") if path.is_dir() else [path]:
                file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return make


def links(*pairs: tuple[str, str]) -> Make:
    def make(here: Path, world: Path) -> None:
        for name, target in pairs:
            (here / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "set" / name).symlink_to(target)

    return make


EACH = {"train": TRAIN, "pretrain": PRETRAIN, "show": SHOW, "check": CHECK}
EACH |= {"evaluate": EVALUATE, "probe": PROBE, "export": EXPORT}
TRAINING = ("train/flat", "train/tall", "train/tiles")

INVALID_SETS = [  # (what, how to make it, text of the error, verbs)
    ("nothing", lambda here, world: None, "no folder", EACH),
    ("a file", lambda here, world: (here / "set").write_text("x"), "is not a folder", ["train"]),
    ("a link to itself", lambda here, world: (here / "set").symlink_to(here / "set"), "set", ["train", "check"]),
    ("an empty folder", tree(), "no images", EACH),
    ("empty class folders", tree("a/", "b/"), "no images", ["train"]),
    ("hidden images only", tree("a/.1.png", ".b/2.png"), "no images", ["train", "pretrain", "check"]),
    ("images beside each other", tree("1.png", "2.png"), "2 images", ["train", "show", "evaluate"]),
    ("links to nothing", links(("a/1.png", "gone"), ("b/2.png", "gone")), "no images", ["train", "pretrain"]),
    ("a class that is a link to its root", links(("a", "."), ("b", "..")), "no images", ["train", "pretrain"]),
    ("one class", tree("a/1.png", "a/2.png"), "one class", ["train"]),
    ("test without train", tree("test/a/1.png", "test/b/2.png"), "train", ["train", "show", "probe"]),
    ("an empty train", tree("train/", "test/a/1.png"), "train", ["train", "evaluate"]),
    ("empty classes in train", tree("train/a/", "train/b/", "test/a/1.png"), "train", ["train", "check"]),
    ("two folders of validation", tree("train/a/1.png", "val/a/2.png", "valid/a/3.png"), "two folders", ["train"]),
    ("a class that train lacks", tree("train/a/1.png", "train/b/1.png", "test/c/2.png"), "'c'", ["evaluate"]),
    ("classes the model lacks", tree("x/1.png", "y/2.png"), "'x'", ["evaluate"]),
]
SKIPPED = " --skip-unreadable"
UNREADABLE = [
    ("an empty image", TRAIN, damaged(0, "train/flat/0.png"), "flat/0.png"),
    ("a half image in test", TRAIN, damaged(0.5, "test/tall/1.png"), "test/tall/1.png"),
    ("empty images only", TRAIN, damaged(0, *TRAINING), "can be read"),
    ("a class of empty images, skipped", TRAIN + SKIPPED, damaged(0, *TRAINING[:2]), "one class"),
    ("a half image to evaluate on", EVALUATE, damaged(0.5, "test/flat/1.png"), "flat/1.png"),
    ("empty images only to evaluate on", EVALUATE + SKIPPED, damaged(0, "test"), "can be read"),
    ("a half image to probe on", PROBE, damaged(0.5, "train/flat/1.png"), "flat/1.png"),
]

NAMES = [
    ("an unknown dataset", "cifar11", "cifar10"),
    ("a dataset's name in capitals", "CIFAR-10", "no folder"),
    ("an empty name", "", "no data named"),
    ("a name of 5000 letters", "d" * 5000, "name too long"),
    ("a missing user", "~nobody-of-that-name/set", "nobody-of-that-name"),
    ("a hub folder without a dataset", "hf:{here}", "hf:"),
    ("an archive", "{here}/set.zip", "no folder"),
]

CASES = [
    *(
        Case(f"data: {what}, for {verb}", EACH[verb], [text], make)
        for what, make, text, verbs in INVALID_SETS
        for verb in verbs
    ),
    *(Case(f"data: {what}", argv, [text], make) for what, argv, make, text in UNREADABLE),
    *(Case(f"data: {what}", ["train", "--data", name, "--out", "{here}/out"], [text]) for what, name, text in NAMES),
    Case("data: checked, a name of 5000 letters", ["data", "check", "d" * 5000], ["name too long"]),
]

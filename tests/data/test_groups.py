"""Groups are never on both sides of a split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .commands import TINY, joined, paint, write_table


def test_groups_are_never_on_both_sides(command, flat, tmp_path):
    """Twelve people with four images each, two per class. A column or the file names give the groups."""
    names = [f"{kind}/p{person:02d}_{n}.png" for person in range(12) for kind in ("yes", "no") for n in range(2)]
    root = paint(tmp_path / "people", " ".join(names))
    rows = [(name, name.split("/")[0], name[name.index("/") + 1 :][:3]) for name in names]
    table = write_table(root / "people.csv", joined(",", "path,label,person", rows))
    held = {}
    tiny = [*TINY, "--split.val-fraction", "0.25"]
    ways = ([], ["--split.seed", "1"], ["--folds", "3", "--fold", "1"], ["--split.val-fraction", "0.75"])
    for data, groups in ((root, r"/(p\d+)_"), (table, "person"), (table, r"p\d\d")):
        for flags in ways if data == root else ways[:1]:
            out = tmp_path / f"run{len(held)}"
            status, output, error = command("train", "--data", data, "--out", out, "--groups", groups, *tiny, *flags)
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
            assert "by whole groups" in output
            held[out] = people["val"]
    assert len({frozenset(people) for people in held.values()}) > 3
    run = next(iter(held))
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 12  # of the same people
    assert command("train", "--resume", "--out", run, "--groups", "other")[0] == 2


def test_a_class_with_a_single_group_stays_in_train():
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
    status, output, _ = command("data", "check", root, "--groups", r"p\d")
    assert status == 1 and "p1 (train, test)" in output
    status, _, output = command("train", "--data", root, "--out", tmp_path / "run", "--groups", r"p\d", *TINY)
    assert status == 2 and "'p1' in train and test" in output


@pytest.mark.parametrize(("groups", "message"), [("(", "regular expression"), ("q", "no group in 2 paths")])
def test_invalid_groups_are_refused(command, tmp_path, groups, message):
    root = paint(tmp_path / "set", "a/1.png b/2.png")
    assert message in command.refusal(root, "--groups", groups)


def test_groups_need_data_with_paths(command, tmp_path):
    status, _, output = command("train", "--data", "digits", "--out", tmp_path / "run", "--groups", "x", *TINY)
    assert status == 2 and "--groups has no effect on digits" in output


@pytest.mark.parametrize(
    "form",
    [
        *("{kind}/person{p}_{n}.png", "{kind}/{p:03d}-{n}.png", "{kind}/dog{p}/{n}.png", "{kind}/clip{p} frame{n}.png"),
        *("{kind}/{p}_smile{n}x.png", "train/{kind}/vid{p}.{n:04d}.png"),
    ],
)
def test_groups_are_suggested_from_names(command, tmp_path, form):
    names = [form.format(kind=kind, p=p, n=n) for kind in ("a", "b") for p in range(4) for n in range(3)]
    root = paint(tmp_path / "set", names)
    flags = ["--classes", "a,b"]
    output = command("data", "check", root, *flags)[1]
    assert "suggest 4 groups" in output
    pattern = output.split("--groups '")[1].split("'")[0]
    flags += ["--groups", pattern]
    out = tmp_path / "run"
    assert command("train", "--data", root, "--out", out, *TINY, *flags, "--folds", "4")[0] == 0
    splits = json.loads((out / "splits.json").read_text())["splits"]
    assert {name: part["count"] for name, part in splits.items()} == {"train": 18, "val": 6}
    assert json.loads(command("data", "check", root, *flags, "--json")[1])["suggested_groups"] == ""


@pytest.mark.parametrize(
    "form",
    [
        *("{kind}/{n}.png", "{kind}/{kind}_{n:03d}.png", "{kind}/IMG_{n}.png", "{kind}/x{n}a.png"),
        *("{split}/{kind}/{kind}_{split}.{n}.png", "{kind}/{kind}_{split}_{n}.png"),
    ],
)
def test_no_groups_are_suggested_from_plain_names(command, tmp_path, form):
    splits = [*["train"] * 9, *["val"] * 3]
    names = [form.format(kind=kind, n=n, split=splits[n]) for kind in "abc" for n in range(12)]
    root = paint(tmp_path / "set", names)
    assert "--groups" not in command("data", "check", root)[1]

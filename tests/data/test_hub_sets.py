"""Datasets of the Hugging Face hub: splits, label and image columns, missing labels."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from .commands import paint


def test_hub_splits_and_columns_are_named(command, hub_set):
    import datasets as hub

    kinds = {"id": hub.Value("int64"), "fine_label": hub.ClassLabel(names=["rose", "daisy"])}
    columns = {"id": [1, 2, 3], "fine_label": [1, 0, 1]}
    source = hub_set(kinds, train=columns, valid=columns, test=columns)
    counts, line = command.counts(source)
    assert counts == {split: {"daisy": 2, "rose": 1} for split in ("train", "val", "test")}
    assert "train is train, val is val" in line.replace("validation", "val")
    assert "images in the column img, labels in the column fine_label; 2 classes: rose, daisy" in line


def test_hub_splits_with_other_names():
    from feathervit.data.columns import splits_of

    assert splits_of("x", ["valid", "train", "dev_extra"]) == {"train": "train", "val": "valid"}
    assert splits_of("x", ["test", "dev", "train"]) == {"train": "train", "val": "dev", "test": "test"}


COLUMNS = {
    "two class labels": (("fine_label", "coarse_label"), "class", ([0, 1, 2, 2], [0, 0, 1, 2])),
    "two texts": (("class_name", "category"), "string", (["a", "b", "a", "b"], ["x", "x", "y", "y"])),
    "numbers": (("label", "target"), "int64", ([1, 2, 1, 2], [1, 1, 1, 2])),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_several_label_columns_need_a_choice(command, hub_set, name):
    import datasets as hub

    (first, second), kind, values = COLUMNS[name]
    kind = hub.ClassLabel(names=["a", "b", "c"]) if kind == "class" else hub.Value(kind)
    source = hub_set({first: kind, second: kind}, train=dict(zip((first, second), values, strict=True)))
    output = command.refusal(source)
    assert f"{first}, {second}" in output and "--label-column" in output
    assert "unknown column 'labl'" in command.refusal(source, "--label-column", "labl")
    counts, line = command.counts(source, "--label-column", second)
    assert f"labels in the column {second}" in line
    assert sorted(counts["train"].values()) == sorted(Counter(values[1]).values())


def test_equal_label_columns_count_as_one(command, hub_set):
    import datasets as hub

    kinds = {"label": hub.ClassLabel(names=["rose", "daisy"]), "class_name": hub.Value("string")}
    counts, _ = command.counts(hub_set(kinds, train={"label": [0, 1, 1], "class_name": ["r", "d", "d"]}))
    assert counts == {"train": {"rose": 1, "daisy": 2}}


def test_several_image_columns_need_a_choice(command, hub_set):
    import datasets as hub

    source = hub_set({"label": hub.Value("int64")}, ("photo", "mask"), train={"label": [1, 2, 2]})
    assert "photo, mask; name one: --image-column photo" in command.refusal(source)
    counts, line = command.counts(source, "--image-column", "mask")
    assert counts == {"train": {"1": 1, "2": 2}} and "images in the column mask" in line


@pytest.mark.parametrize("missing", [-1, None])
@pytest.mark.parametrize("kind", ["class", "int64", "string"])
def test_hub_splits_and_images_without_labels_are_left_out(command, hub_set, kind, missing):
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


def test_integer_labels_stored_as_floats_are_read(command, hub_set):
    import datasets as hub

    labels = {"label": [0.0, 1.0, float("nan"), 1.0]}
    counts, line = command.counts(hub_set({"label": hub.Value("float64")}, train=labels))
    assert counts == {"train": {"0": 1, "1": 2}} and "1 of 4 images of train have no label" in line


def test_fractional_labels_and_other_columns_are_refused(command, hub_set):
    import datasets as hub

    kinds = {"label": hub.Value("float32"), "species": hub.Value("string")}
    source = hub_set(kinds, train={"label": [0.5, 1.5], "species": ["cat", "dog"]})
    assert "the column label holds fractions" in command.refusal(source)
    assert command.counts(source, "--label-column", "species")[0] == {"train": {"cat": 1, "dog": 1}}
    other = hub_set({"species": hub.Value("string")}, train={"species": ["cat", "dog"]})
    assert "--label-column species" in command.refusal(other)


def test_files_outside_any_split_are_named(command, hub_set):
    import datasets as hub

    columns = {"label": [0, 1]}
    counts, line = command.counts(hub_set({"label": hub.Value("int64")}, train=columns, unsupervised=columns))
    assert counts == {"train": {"0": 1, "1": 1}}
    assert "files that are not in a split (1: unsupervised-00000-of-00001.parquet)" in line


def test_replaced_files_are_read_again(command, hub_set):
    import datasets as hub

    def write(labels):
        return hub_set({"label": hub.Value("int64")}, train={"label": labels})

    source = write([0, 1, 1, 1])
    (file,) = Path(source[3:]).glob("*.parquet")
    before = file.stat()
    assert command.counts(source)[0] == {"train": {"0": 1, "1": 3}}
    write([0, 0, 0, 1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert command.counts(source)[0] == {"train": {"0": 3, "1": 1}}


def test_several_configurations_need_a_choice(command, tmp_path, hub_set):
    source = tmp_path / "set"
    paint(source, "one/a/1.png one/b/2.png two/a/3.png two/c/4.png")
    parts = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("one", "two"))
    (source / "README.md").write_text(f"---\nconfigs:\n{parts}---\n")
    assert "name one: hf:" in command.refusal(f"hf:{source}")
    assert command.counts(f"hf:{source}:two")[0] == {"train": {"a": 1, "c": 1}}


def test_a_dataset_with_only_test_images_is_evaluated(command, hub_set):
    import datasets as hub

    kinds = {"label": hub.ClassLabel(names=["a", "b"])}
    command.counts(hub_set(kinds, train={"label": [0, 1]}))
    Path(tmp := hub_set(kinds, test={"label": [1, 1, 0]})[3:])
    next(Path(tmp).glob("train*")).unlink()
    status, output, error = command("evaluate", command.out / "1", "--data", f"hf:{tmp}", "--json")
    assert status == 0, error
    assert json.loads(output)["n"] == 3 and json.loads(output)["split"] == "test"


def test_a_hub_dataset_without_any_labels_is_refused(command, hub_set, tmp_path):
    import datasets as hub

    source = hub_set({"label": hub.ClassLabel(names=["a", "b"])}, train={"label": [-1] * 3})
    assert "no label in train: all 3 are missing" in command.refusal(source)
    report = json.loads(command("data", "check", source, "--unlabelled", "--json")[1])
    assert report["counts"] == {"train": {"": 3}}


def test_minus_one_can_be_a_class(command, hub_set):
    import datasets as hub

    counts, _ = command.counts(hub_set({"label": hub.Value("int64")}, train={"label": [-1, 1, 1]}))
    assert counts == {"train": {"-1": 1, "1": 2}}

"""Large images, and files of kinds that are not read everywhere."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from feathervit.data.opening import SUFFIXES as IMAGE_SUFFIXES

from .commands import TINY, paint


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
    assert f"images that cannot be read here (1: 1 {suffix.lower()}), files that are not images (1: 1 .txt)" in line
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

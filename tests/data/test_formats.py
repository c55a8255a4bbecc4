"""Large images, and files of formats that are not read everywhere."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from feathervit.data.opening import SUFFIXES as IMAGE_SUFFIXES

from .commands import TINY, paint


def test_large_files_are_read_but_bombs_are_not(command, tmp_path, monkeypatch):
    """Images above PIL's own pixel limit are read, a JPEG at an eighth of its size. The memory limit refuses other formats."""
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
    status, _, output = command("train", "--data", root, "--out", tmp_path / "run", *TINY, *few)
    assert status == 2 and "b/large.png" in output and "a/large.jpg" not in output
    assert command("train", "--data", root, "--out", tmp_path / "run", *TINY, *few, "--skip-unreadable")[0] == 0
    status, output, error = command("predict", tmp_path / "run", root, "--json")
    assert status == 1 and len(json.loads(output)["predictions"]) == 3 and "b/large.png" in output + error
    assert command("predict", tmp_path / "run", root, "--max-image-gib", "1")[0] == 0
    assert command("predict", tmp_path / "run", root, "--max-image-gib", "0")[0] == 2


@pytest.mark.parametrize("suffix", [".CR2", ".svg"])
def test_unsupported_formats_are_counted_and_no_class_is_lost(command, tmp_path, suffix):
    root = paint(tmp_path / "set", f"train/a/1.png train/a/2{suffix} train/b/3.png val/a/4.png val/b/5.png val/b/6.txt")
    counts, line = command.counts(root)
    assert counts["train"] == {"a": 1, "b": 1}
    assert f"images that cannot be read here (1: 1 {suffix.lower()}), files that are not images (1: 1 .txt)" in line
    paint(root, f"train/c/1{suffix} train/c/deep/2{suffix}")
    status, output, _ = command("data", "check", root)
    assert status == 1 and f"train/c/ (2 {suffix.lower()})" in output.split("must be")[1]
    assert f"train/a/2{suffix} (needs " in output and "train/b/6.txt (needs" not in output
    status, _, output = command("train", "--data", root, "--out", tmp_path / "run", *TINY)
    assert status == 2 and f"train/c/ (2 {suffix.lower()})" in output and "--ignore train/c" in output
    assert command.counts(root, "--ignore", "train/c")[0]["train"] == {"a": 1, "b": 1}
    status, _, output = command("train", "--data", root, "--out", tmp_path / "run", *TINY, "--classes", "a,b,c")
    assert status == 2 and "train/c/" in output


def test_a_folder_with_only_unsupported_formats_is_refused(command, tmp_path):
    root = paint(tmp_path / "set", "cat/1.cr3 dog/2.cr3")
    assert command("data", "check", root)[0] == 1
    status, _, output = command("train", "--data", root, "--out", tmp_path / "run", *TINY)
    assert status == 2 and "cat/ (1 .cr3)" in output and "conversion to JPEG or PNG" in output


def test_formats_of_pillow_are_read_by_suffix(command, tmp_path):
    suffixes = [suffix for suffix in (".avif", ".jp2", ".heic") if suffix in IMAGE_SUFFIXES]
    root = paint(tmp_path / "set", "a/1.png b/2.png")
    for suffix in suffixes:
        Image.open(root / "a" / "1.png").save(root / "b" / f"3{suffix}")
    assert command.counts(root)[0] == {"train": {"a": 1, "b": 1 + len(suffixes)}}

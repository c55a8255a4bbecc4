"""`data check` and the grid of samples, on folders with known faults."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from feathervit.data import ImageSet
from feathervit.data.check import check_data
from feathervit.data.finding import find
from feathervit.errors import DataError, RunFolderError, UnknownNameError
from feathervit.plots.samples import sample_grid

from ..conftest import write_images


def test_a_valid_folder_has_no_faults(folder):
    report = check_data(folder)
    assert not report.must_fix
    assert report.counts == {s: dict.fromkeys(("flat", "tall", "tiles"), n) for s, n in (("train", 24), ("test", 8))}
    assert report.sizes == {"width": (16, 16, 16), "height": (16, 16, 16)}
    assert report.modes == {"RGB": 96}
    assert report.imbalance == 1.0
    lines = "\n".join(report.lines())
    assert "train: 72 images in 3 classes" in lines
    assert "nothing must be fixed" in lines
    assert "worth knowing" not in lines


def test_unreadable_truncated_and_empty_files_must_be_fixed(folder):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    for name, options in (("half.jpg", {}), ("half.png", {}), ("half.webp", {}), ("prog.jpg", {"progressive": True})):
        path = folder / "train" / "flat" / name
        Image.fromarray(noise).save(path, **options)
        path.write_bytes(path.read_bytes()[:-200])  # the header is valid, and nearly all pixels exist
    (folder / "train" / "tall" / "text.jpg").write_text("hello")
    (folder / "test" / "tall" / "none.gif").write_bytes(b"")
    report = check_data(folder)
    assert report.must_fix
    broken = set(report.truncated) | set(report.unreadable)
    assert broken == {f"train/flat/{n}" for n in ("half.jpg", "half.png", "half.webp", "prog.jpg")} | {
        "train/tall/text.jpg"
    }
    assert {"train/flat/half.jpg", "train/flat/half.png", "train/flat/prog.jpg"} <= set(report.truncated)
    assert "train/tall/text.jpg" in report.unreadable
    assert report.empty == ["test/tall/none.gif"]
    assert report.counts["train"]["flat"] == 24
    lines = "\n".join(report.lines())
    assert "must be fixed" in lines and "train/tall/text.jpg (not an image of a known format" in lines


def test_duplicates_are_found_by_pixels(folder):
    def copy(source, target):
        target = folder / target
        if target.suffix == (folder / source).suffix:
            shutil.copy(folder / source, target)
        else:
            Image.open(folder / source).save(target, lossless=True)

    copy("train/flat/0.png", "train/flat/again.webp")  # other bytes, equal pixels
    report = check_data(folder)
    assert report.duplicates == [["train/flat/0.png", "train/flat/again.webp"]]
    assert not report.must_fix  # within a split a duplicate is harmless
    copy("train/tall/1.png", "train/tiles/wrong.png")
    copy("train/tall/1.png", "train/tiles/wrong2.png")
    copy("train/tall/2.png", "test/tall/leak.png")
    report = check_data(folder)
    assert report.two_labels == [["train/tall/1.png", "train/tiles/wrong.png", "train/tiles/wrong2.png"]]
    assert len(report.duplicates) == 1  # each group is listed once
    assert report.across_splits == [["train/tall/2.png", "test/tall/leak.png"]]
    assert report.must_fix
    (folder / "test/tall/leak.png").unlink()
    assert not check_data(folder).must_fix


def test_a_turned_or_reshaped_image_is_not_a_duplicate(tmp_path):
    write_images(tmp_path, 1, classes=("a", "b"))
    for name, size in (("wide", (8, 4)), ("high", (4, 8)), ("other", (16, 2))):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a" / f"{name}.png")
    assert check_data(tmp_path).duplicates == []


def test_small_missing_unequal_and_single_classes(tmp_path):
    write_images(tmp_path / "train", 20, classes=("a", "b"))
    write_images(tmp_path / "test", 3, classes=("a", "b"), seed=1)
    for i in range(5, 20):
        (tmp_path / "train" / "b" / f"{i}.png").unlink()
    report = check_data(tmp_path)
    assert report.small_classes == {"b": 5}
    assert report.imbalance == 4.0
    assert "imbalance: the largest class has 4.0 times" in "\n".join(report.lines())
    assert not report.must_fix
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "B")
    assert "differs only in case" in "\n".join(check_data(tmp_path).lines())
    with pytest.raises(UnknownNameError, match="differs only in case"):
        find(tmp_path)
    (tmp_path / "test" / "B").rename(tmp_path / "test" / "c")
    report = check_data(tmp_path)
    assert "case" not in "\n".join(report.lines())
    assert report.not_in_train == {"c": ["test"]}
    assert report.must_fix
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "train" / "b" / "readme.txt").write_text("x")
    assert not check_data(tmp_path).must_fix
    for path in (tmp_path / "train" / "b").glob("*.png"):
        path.unlink()
    report = check_data(tmp_path)
    assert report.one_class and report.must_fix
    assert report.empty_classes == ["train/b/"]
    assert report.not_images == ["train/b/readme.txt"]
    assert "only one class" in "\n".join(report.lines())


def test_sizes_and_modes(tmp_path):
    for i, (size, mode) in enumerate([((10, 30), "L"), ((20, 20), "RGB"), ((60, 10), "RGBA")]):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new(mode, size, 5 * i).save(path)
    report = check_data(tmp_path)
    assert report.sizes == {"width": (10, 20, 60), "height": (10, 20, 30)}
    assert report.modes == {"L": 1, "RGB": 1, "RGBA": 1}


def test_the_report_is_json_and_long_lists_are_truncated(folder):
    for i in range(15):
        (folder / "train" / "flat" / f"{i}.png").write_bytes(b"x")
    report = check_data(folder)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["must_fix"] is True and data["one_class"] is False
    assert len(data["unreadable"]) == 15
    assert data["sizes"]["width"] == [16, 16, 16]
    assert "    and 5 more" in report.lines()


def test_images_without_classes(folder, tmp_path):
    """As for pre-training: images in one folder, or in folders that are not classes."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(flat / f"{i}.png")
    with pytest.raises(DataError, match="--unlabelled"):
        check_data(flat)
    report = check_data(flat, labelled=False)
    assert report.counts == {"train": {"": 3}} and not report.must_fix
    assert "  train: 3 images" in report.lines()
    (flat / "3.png").write_bytes(b"x")
    assert list(check_data(flat, labelled=False).unreadable) == ["3.png"]
    labelled, report = check_data(folder), check_data(folder, labelled=False)
    assert {s: sum(c.values()) for s, c in report.counts.items()} == {
        s: sum(c.values()) for s, c in labelled.counts.items()
    }
    assert not report.small_classes and not report.two_labels


# --- the grid


@pytest.fixture
def coloured() -> ImageSet:
    """Two classes of four images, 16 px: class 0 red, class 1 blue; class 2 has none."""
    images = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    images[:4, 0] = 200
    images[4:, 2] = 200
    labels = torch.arange(8) // 4
    return ImageSet(images, labels, ("красный", "blue", "none"), [str(i) for i in range(8)], "set")


def colours(path, colour) -> int:
    return int((np.array(Image.open(path)) == colour).all(-1).sum())


def test_grid_shows_samples_of_each_class(coloured, tmp_path):
    path = sample_grid(coloured, tmp_path / "a.png", per_class=3)
    assert colours(path, (200, 0, 0)) == 3 * 64 * 64
    assert colours(path, (0, 0, 200)) == 3 * 64 * 64
    assert colours(path, (0, 0, 0)) > 20  # the names
    path = sample_grid(coloured, tmp_path / "b.png", per_class=9, augmented=lambda x: 255 - x[..., :8, :8])
    assert colours(path, (200, 0, 0)) == 4 * 64 * 64
    assert colours(path, (55, 255, 255)) == 4 * 64 * 64


def test_grid_depends_on_its_seed(tmp_path):
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8)
    grey = ImageSet(images, torch.arange(50) % 2, ("a", "b"), [""] * 50, "set")
    files = [sample_grid(grey, tmp_path / f"{i}.png", seed=seed).read_bytes() for i, seed in enumerate((0, 0, 1))]
    assert files[0] == files[1] != files[2]


def test_invalid_grids_are_refused(coloured, tmp_path):
    with pytest.raises(DataError, match="no images to show"):
        sample_grid(coloured.subset([]), tmp_path / "a.png")
    with pytest.raises(RunFolderError, match="missing"):
        sample_grid(coloured, tmp_path / "missing" / "a.png")

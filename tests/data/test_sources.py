"""Every kind of source is found, split, stored and recorded, and user errors are reported."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from feathervit.config import ImageConfig, SplitConfig
from feathervit.data import ImageSet, load_data, load_split
from feathervit.data.image import to_stored
from feathervit.data.sources import summarise
from feathervit.data.splits import hold_out
from feathervit.errors import ConfigError, DataError, UnknownNameError

from ..conftest import write_images
from .images import counts, noise

# --- folders


def test_train_val_and_test_folders(folder):
    shutil.copytree(folder / "test", folder / "validation")
    data = load_data(folder, img_size=16)
    assert [counts(s) for s in (data.train, data.val, data.test)] == [[24] * 3, [8] * 3, [8] * 3]
    assert data.train.class_names == ("flat", "tall", "tiles")
    assert data.train.sources[0] == "train/flat/0.png"
    assert data.val.sources[0] == "validation/flat/0.png"
    for images in (data.train, data.val, data.test):
        for i in (0, len(images) - 1):
            assert torch.equal(images.images[i], to_stored(folder / images.sources[i], 16, 3, "crop"))
            assert images.class_names[images.labels[i]] == images.sources[i].split("/")[1]
    assert json.loads(json.dumps(data.record))["splits"]["val"]["sources"] == data.val.sources
    assert data.skipped == []


def test_a_single_root_is_split_stratified_and_seeded(tmp_path):
    write_images(tmp_path / "set", 40)
    before = sorted(tmp_path.rglob("*"))
    data = load_data(str(tmp_path / "set"), img_size=16)
    assert counts(data.train) == [36] * 3
    assert counts(data.val) == [4] * 3
    assert data.test is None
    assert not set(data.train.sources) & set(data.val.sources)
    assert sorted(data.train.sources + data.val.sources) == sorted(
        p.relative_to(tmp_path / "set").as_posix() for p in before if p.is_file()
    )
    assert sorted(tmp_path.rglob("*")) == before
    again = load_data(tmp_path / "set", img_size=16)
    assert again.val.sources == data.val.sources
    assert again.train.fingerprint() == data.train.fingerprint()
    other = load_data(tmp_path / "set", img_size=16, split=SplitConfig(seed=1))
    assert other.val.sources != data.val.sources
    assert any("12 of 120" in note for note in data.notes)


def test_folds_partition_train(tmp_path):
    write_images(tmp_path / "set", 10)
    held = []
    for fold in range(5):
        data = load_data(tmp_path / "set", img_size=16, split=SplitConfig(folds=5, fold=fold))
        assert counts(data.val) == [2, 2, 2]
        assert f"fold {fold} of 5" in data.record["splits"]["val"]["how"]
        assert not set(data.val.sources) & set(data.train.sources)
        held += data.val.sources
    assert len(held) == len(set(held)) == 30


def test_classes_are_sorted_and_images_may_be_nested(tmp_path):
    for name in ("b", "B", "a1", "a10", "a2"):
        noise(tmp_path / name / "deep" / "er" / "x.PNG", 20, 20)
        noise(tmp_path / name / "y.png", 20, 20)
    data = load_data(tmp_path, img_size=16, split=SplitConfig(val_fraction=0))
    assert data.train.class_names == ("B", "a1", "a10", "a2", "b")
    assert data.train.sources[:2] == ["B/deep/er/x.PNG", "B/y.png"]


def test_links_hidden_files_and_other_files_are_handled(tmp_path):
    root = write_images(tmp_path / "parent" / "set", 5)
    noise(tmp_path / "parent" / "other" / "z.png", 16, 16)
    (root / "flat" / "loop").symlink_to(root / "flat", target_is_directory=True)
    (root / "tall" / "up").symlink_to(root, target_is_directory=True)
    (root / "tall" / "further").symlink_to(root.parent, target_is_directory=True)
    (root / "tall" / "self.png").symlink_to(root / "tall" / "self.png")
    (root / "tall" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "flat" / "linked.png").symlink_to(root / "flat" / "0.png")
    (root / "flat" / "notes.txt").write_text("hello")
    (root / "flat" / "photo.dng").write_bytes(b"x")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "a.png").write_bytes(b"x")
    (root / "flat" / "._0.png").write_bytes(b"x")
    (root / "__MACOSX").mkdir()
    (root / "README.md").write_text("hello")
    (root / "empty").mkdir()
    noise(root / "loose.png", 16, 16)
    data = load_data(root, img_size=16, split=SplitConfig(val_fraction=0))
    assert data.train.class_names == ("flat", "tall", "tiles")
    assert counts(data.train) == [6, 5, 5]
    assert "flat/linked.png" in data.train.sources
    notes = "\n".join(data.notes)
    assert "files that are not images (2: " in notes and "cannot be read here (1: 1 .dng)" in notes
    for part in ("broken links (2: ", "hidden folders (1: .hidden)", "outside of the class folders (1: loose.png)"):
        assert part in notes
    assert "folders without images (1: empty/)" in notes


def test_a_class_called_train_is_not_a_split(tmp_path):
    write_images(tmp_path, 4, classes=("bus", "car", "train"))
    assert load_data(tmp_path, img_size=16).train.class_names == ("bus", "car", "train")


@pytest.mark.parametrize("native", [True, False])
def test_stored_sizes(tmp_path, native):
    for split in ("train", "test"):
        for name in "ab":
            noise(tmp_path / split / name / "0.png", 60, 60)
            noise(tmp_path / split / name / "1.png", 60, 60 if native else 61)
    data = load_data(tmp_path, img_size=48, split=SplitConfig(val_fraction=0.5))
    sizes = [s.images.shape[-1] for s in (data.train, data.val, data.test)]
    assert sizes == ([60, 60, 60] if native else [56, 48, 48])  # 1.15 x 48 = 55.2
    chosen = load_data(tmp_path, img_size=48, images=ImageConfig(stored_size=80), split=SplitConfig(val_fraction=0.5))
    sizes = [s.images.shape[-1] for s in (chosen.train, chosen.val, chosen.test)]
    assert sizes == ([80, 60, 60] if native else [80, 48, 48])
    assert load_split(tmp_path, "val", img_size=48, split=SplitConfig(val_fraction=0.5)).sources == data.val.sources
    assert load_split(tmp_path, "train", img_size=48).images.shape[-1] == (60 if native else 48)


def test_fit_and_channels_equal_a_single_image(tmp_path):
    for name in "ab":
        noise(tmp_path / name / "0.png", 130, 70)
    for fit in ("crop", "pad", "stretch"):
        images = ImageConfig(fit=fit, channels=1)
        data = load_data(tmp_path, img_size=20, images=images, split=SplitConfig(val_fraction=0))
        assert torch.equal(data.train.images[0], to_stored(tmp_path / "a" / "0.png", 23, 1, fit))


def test_progress_covers_all_splits(folder):
    calls = []
    load_data(folder, img_size=16, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (96, 96)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


# --- invalid folders


def test_unreadable_files_stop_before_training(folder):
    for i in range(12):
        (folder / "train" / "flat" / f"{i}.png").write_bytes(b"broken")
    (folder / "test" / "tall" / "3.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load_data(folder, img_size=16, split=SplitConfig(val_fraction=0))
    message = str(error.value)
    assert "13 unreadable images" in message
    assert "train/flat/0.png: not an image of a known format" in message
    assert "and 3 more" in message
    assert "feathervit data check" in message and "--skip-unreadable" in message
    data = load_data(folder, img_size=16, split=SplitConfig(val_fraction=0), skip_unreadable=True)
    assert counts(data.train) == [12, 24, 24]
    assert counts(data.test) == [8, 7, 8]
    assert len(data.skipped) == len(data.record["skipped"]) == 13
    assert "test/tall/3.png" not in data.test.sources
    assert data.train.sources[0] == "train/flat/12.png"
    assert torch.equal(data.train.images[0], to_stored(folder / "train/flat/12.png", 16, 3, "crop"))
    with pytest.raises(DataError, match="13 unreadable"):  # the cache remembers unreadable files
        load_data(folder, img_size=16, split=SplitConfig(val_fraction=0))


def test_a_missing_folder_suggests_the_nearest_name(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(DataError, match=r"no folder .*flower; did you mean .*flowers"):
        load_data(tmp_path / "flower", img_size=16)
    with pytest.raises(DataError, match="--data"):  # runs store absolute paths
        load_data(tmp_path / "xyz", img_size=16)
    with pytest.raises(DataError, match="no folder xyz") as raised:
        load_data("xyz", img_size=16)
    assert "--data" not in str(raised.value)
    with pytest.raises(DataError, match="did you mean cifar10"):
        load_data("cifar-10", img_size=16)
    (tmp_path / "set.rar").write_bytes(b"")
    with pytest.raises(DataError, match="is not a folder"):
        load_data(tmp_path / "set.rar", img_size=16)


def test_classes_missing_from_train_are_refused(folder):
    (folder / "test" / "tall").rename(folder / "test" / "tal")
    with pytest.raises(UnknownNameError, match="unknown class 'tal'; did you mean tall"):
        load_data(folder, img_size=16)


@pytest.mark.parametrize(
    "split",
    [
        SplitConfig(val_fraction=1.0),
        SplitConfig(val_fraction=-0.1),
        SplitConfig(folds=1),
        SplitConfig(folds=3, fold=3),
        SplitConfig(fold=1),
        SplitConfig(folds=30),
        SplitConfig(train_per_class=-1),
    ],
)
def test_invalid_splits_are_refused(folder, split):
    with pytest.raises(ConfigError, match="split"):
        load_data(folder, img_size=16, split=split)


def test_folds_are_refused_for_a_dataset_with_val(folder):
    (folder / "test").rename(folder / "val")
    with pytest.raises(DataError, match="validation split of its own"):
        load_data(folder, img_size=16, split=SplitConfig(folds=3))


# --- holding out


def test_hold_out_of_very_small_classes():
    labels = np.array([0] * 30 + [1] * 2 + [2])
    kept, held, _, notes = hold_out(labels, SplitConfig(val_fraction=0.1))
    assert sorted([*kept, *held]) == list(range(33))
    assert 32 not in held
    assert any("single image" in note for note in notes)
    kept, held, how, _ = hold_out(np.array([0, 1, 2]), SplitConfig())
    assert len(held) == 0 and "no class has two" in how


def test_hold_out_less_than_one_image_per_class():
    labels = np.repeat(np.arange(50), 4)  # a tenth is 20 images, for 50 classes
    kept, held, _, notes = hold_out(labels, SplitConfig(val_fraction=0.1))
    assert np.bincount(labels[held], minlength=50).tolist() == [1] * 50
    assert len(kept) == 150
    assert any("50 images instead of 20" in note for note in notes)


def test_folds_keep_single_images_in_train():
    labels = np.array([0] * 9 + [1] * 9 + [2])
    for fold in range(3):
        kept, held, _, _ = hold_out(labels, SplitConfig(folds=3, fold=fold))
        assert 18 in kept
        assert np.bincount(labels[held]).tolist() == [3, 3]


# --- one split, for evaluation


def test_load_split_prefers_test_then_val_then_everything(folder, tmp_path):
    assert load_split(folder, img_size=16).name == "set/test"
    (folder / "test").rename(folder / "val")
    assert load_split(folder, img_size=16).name == "set/val"
    root = write_images(tmp_path / "flat root", 10)
    assert len(load_split(root, img_size=16)) == 30
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        load_split(root, "test", img_size=16)
    whole = load_data(root, img_size=16)
    assert load_split(root, "val", img_size=16).sources == whole.val.sources
    assert load_split(root, "train", img_size=16).sources == whole.train.sources
    (folder / "train").rename(tmp_path / "elsewhere")
    assert load_split(folder, "val", img_size=16).class_names == ("flat", "tall", "tiles")


def test_load_split_uses_the_models_classes(folder):
    expected = load_split(folder, img_size=16)
    names = ("tiles", "other", "flat", "tall")
    images = load_split(folder, "test", names, img_size=16)
    assert images.class_names == names
    assert [names[i] for i in images.labels] == [expected.class_names[i] for i in expected.labels]
    shutil.rmtree(folder / "test" / "tall")
    shutil.rmtree(folder / "test" / "flat")
    assert counts(load_split(folder, "test", names, img_size=16)) == [8, 0, 0, 0]
    with pytest.raises(UnknownNameError, match="unknown class 'tiles'"):
        load_split(folder, "test", ("tile", "flat", "tall"), img_size=16)


# --- ImageSet and summaries


def test_subset_and_fingerprint():
    images = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8)
    whole = ImageSet(images, torch.arange(10) % 3, ("a", "b", "c"), [f"s{i}" for i in range(10)], "set")
    part = whole.subset([7, 2])
    assert part.sources == ["s7", "s2"]
    assert part.labels.tolist() == [1, 2]
    assert torch.equal(part.images, images[[7, 2]])
    assert len(whole) == 10
    print_ = whole.fingerprint()
    assert whole.subset(range(10)).fingerprint() == print_
    assert whole.subset(torch.arange(10).flip(0)).fingerprint() != print_
    changes = [
        ImageSet(images + 1, whole.labels, whole.class_names, whole.sources, "set"),
        ImageSet(images, whole.labels.roll(1), whole.class_names, whole.sources, "set"),
        ImageSet(images, whole.labels, ("a", "b", "d"), whole.sources, "set"),
        ImageSet(images, whole.labels, whole.class_names, ["t", *whole.sources[1:]], "set"),
        ImageSet(images.view(10, 3, 2, 8), whole.labels, whole.class_names, whole.sources, "set"),
    ]
    assert len({print_, *(other.fingerprint() for other in changes)}) == 6


def test_fingerprint_changes_with_one_pixel_of_a_large_dataset():
    images = torch.zeros(6000, 3, 64, 64, dtype=torch.uint8)  # 74 MB
    large = ImageSet(images, torch.zeros(6000, dtype=torch.int64), ("a", "b"), ["s"] * 6000, "set")
    before = large.fingerprint()
    images[77, 1, 2, 3] = 1
    assert large.fingerprint() != before


def test_summarise_reads_only_headers(folder):
    for path in (folder / "train" / "flat").iterdir():
        path.write_bytes(path.read_bytes()[:60])  # a complete header, no pixels
    summary = summarise(folder)
    assert summary.class_names == ("flat", "tall", "tiles")
    assert summary.counts == {s: dict.fromkeys(summary.class_names, n) for s, n in (("train", 24), ("test", 8))}
    assert summary.totals == {"train": 72, "test": 24}
    assert summary.median_short_side == 16


def test_summarise_oblong_images_and_named_sets(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (20, 30)).save(tmp_path / name / "0.png")
    assert summarise(tmp_path).median_short_side == 20
    digits = summarise("digits")
    assert (digits.median_short_side, digits.totals) == (8, {"train": 1437, "test": 360})


# --- a subset of train


def test_train_per_class_keeps_val_and_test(tmp_path):
    write_images(tmp_path / "set" / "train", 40)
    write_images(tmp_path / "set" / "test", 8, seed=1)
    whole = load_data(tmp_path / "set", img_size=16)
    split = SplitConfig(train_per_class=5)
    part = load_data(tmp_path / "set", img_size=16, split=split)
    assert counts(part.train) == [5, 5, 5]
    assert part.val.sources == whole.val.sources
    assert part.test.sources == whole.test.sources
    assert set(part.train.sources) < set(whole.train.sources)
    assert part.record["splits"]["train"]["sources"] == part.train.sources
    assert "5 per class, seed 0" in part.record["splits"]["train"]["how"]
    assert any("15 of 108 images" in note for note in part.notes)
    assert load_split(tmp_path / "set", "train", img_size=16, split=split).sources == part.train.sources
    other = load_data(tmp_path / "set", img_size=16, split=SplitConfig(train_per_class=5, seed=1))
    assert counts(other.train) == [5, 5, 5]
    assert set(other.train.sources) != set(part.train.sources)


def test_train_per_class_with_val_and_small_classes(folder):
    shutil.copytree(folder / "test", folder / "val")
    for n in range(20):
        (folder / "train" / "tall" / f"{n}.png").unlink()
    data = load_data(folder, img_size=16, split=SplitConfig(train_per_class=10))
    assert counts(data.train) == [10, 4, 10]
    assert counts(data.val) == [8, 8, 8]
    assert any("1 classes have fewer than 10" in note for note in data.notes)


def test_the_same_subset_of_train_is_decoded_once(folder, monkeypatch):
    from feathervit.data import cache

    built, original = [], cache._build
    monkeypatch.setattr(cache, "_build", lambda *args: (built.append(len(args[1].items)), original(*args)))
    for _ in range(2):
        load_data(folder, img_size=16, split=SplitConfig(train_per_class=5))
    assert sorted(built) == [7, 15, 24]  # val, train, test


@pytest.mark.parametrize("sizes", [(500, 4), (200, 3, 3, 3), (*[1000] * 9, 2)])
def test_small_classes_are_held_out_too(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    kept, held, _, notes = hold_out(labels, SplitConfig())
    assert set(labels[kept]) == set(labels[held]) == set(range(len(sizes)))
    assert len(kept) + len(held) == len(labels) and not set(kept) & set(held)
    assert len(held) == round(0.1 * len(labels)) or notes

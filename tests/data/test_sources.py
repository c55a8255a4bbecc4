"""Every kind of source, found, split, stored and recorded; what a user can get wrong."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from feathervit.config import ImageConfig, SplitConfig
from feathervit.data import ImageSet, load_data, load_split
from feathervit.data.arrays import channels_first
from feathervit.data.cache import cache_folder
from feathervit.data.picture import to_stored
from feathervit.data.sources import summarise
from feathervit.data.splits import hold_out
from feathervit.errors import ConfigError, DataError, UnknownNameError

from ..conftest import write_pictures


def noise(path: Path, width: int, height: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def counts(images: ImageSet) -> list[int]:
    return torch.bincount(images.labels, minlength=len(images.class_names)).tolist()


# --- digits


def test_digits_are_scikit_learns():
    data = load_data("digits", img_size=8)
    pixels, labels = load_digits(return_X_y=True)
    assert [len(s) for s in (data.train, data.val, data.test)] == [1293, 144, 360]
    assert data.test.class_names == tuple("0123456789")
    seen = []
    for images in (data.train, data.val, data.test):
        assert images.images.dtype == torch.uint8
        assert images.labels.dtype == torch.int64
        assert images.images.shape[1:] == (1, 8, 8)
        index = [int(source.removeprefix("digits[").removesuffix("]")) for source in images.sources]
        seen += index
        assert images.labels.tolist() == labels[index].tolist()
        want = pixels[index].reshape(-1, 1, 8, 8) * 255 / 16
        assert np.abs(images.images.numpy() - want).max() <= 0.5
    assert sorted(seen) == list(range(1797))
    assert data.train.images.max() == 255
    for images, total in ((data.val, 144), (data.test, 360)):
        assert max(abs(n - total * np.mean(labels == k)) for k, n in enumerate(counts(images))) <= 1.0


def test_the_digits_test_split_never_moves():
    splits = [
        load_data("digits", img_size=8, split=SplitConfig(seed=s, val_fraction=f)) for s, f in ((0, 0.1), (5, 0.3))
    ]
    assert splits[0].test.sources == splits[1].test.sources
    assert set(splits[0].val.sources) != set(splits[1].val.sources)
    assert splits[0].test.fingerprint() == splits[1].test.fingerprint()
    assert splits[0].train.fingerprint() != splits[1].train.fingerprint()


def test_digits_in_three_channels():
    data = load_data("digits", img_size=8, images=ImageConfig(channels=3), split=SplitConfig(val_fraction=0))
    assert data.val is None
    assert len(data.train) == 1437
    assert data.train.images.shape[1] == 3
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])


# --- torchvision's sets, in their real formats, laid out here


def cifar_batch(path: Path, labels: list[int], key: str, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        pickle.dump({"data": x, key: labels, "filenames": ["x.png"] * len(labels)}, file)
    return x.reshape(-1, 3, 32, 32)


@pytest.fixture
def cifar10(monkeypatch) -> np.ndarray:
    """Five batches of twenty, a test batch, the names; returns train's pixels."""
    folder = cache_folder() / "downloads" / "cifar10" / "cifar-10-batches-py"
    labels = [i % 10 for i in range(20)]
    parts = [cifar_batch(folder / f"data_batch_{i}", labels, "labels", i) for i in range(1, 6)]
    cifar_batch(folder / "test_batch", labels, "labels", 6)
    with open(folder / "batches.meta", "wb") as file:
        pickle.dump({"label_names": [f"kind{i}" for i in range(10)]}, file)
    md5 = {f.name: calculate_md5(f) for f in folder.iterdir()}
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]})
    monkeypatch.setattr(kind, "url", (folder / "nowhere.tar.gz").as_uri())
    return np.concatenate(parts)


def test_cifar10(cifar10):
    data = load_data("cifar10", img_size=32, split=SplitConfig(val_fraction=0))
    assert torch.equal(data.train.images, torch.from_numpy(cifar10))
    assert data.train.labels.tolist() == [i % 10 for i in range(20)] * 5
    assert data.train.class_names == tuple(f"kind{i}" for i in range(10))
    assert data.train.sources[17] == "cifar10/train[17]"
    assert len(data.test) == 20
    assert data.record["splits"]["test"]["how"] == "official split"
    held = load_data("cifar10", img_size=32)
    assert [len(held.train), len(held.val), len(held.test)] == [90, 10, 20]


def test_a_file_that_fails_its_checksum_is_never_unpickled(cifar10, tmp_path):
    marker = tmp_path / "marker"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (marker,)

    path = cache_folder() / "downloads" / "cifar10" / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match="cannot get 'cifar10'"):
        load_data("cifar10", img_size=32)
    assert not marker.exists()


def test_a_failed_download_says_what_was_tried_and_where_to_lay_files(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "none.tar.gz").as_uri())
    with pytest.raises(DataError) as error:
        load_data("cifar10", img_size=32)
    message = str(error.value)
    assert (tmp_path / "none.tar.gz").as_uri() in message
    assert str(cache_folder() / "downloads" / "cifar10" / "cifar-10-batches-py") in message
    assert "\n" not in message


def test_cifar100(monkeypatch):
    folder = cache_folder() / "downloads" / "cifar100" / "cifar-100-python"
    x = cifar_batch(folder / "train", [i % 100 for i in range(300)], "fine_labels", 0)
    cifar_batch(folder / "test", list(range(100)), "fine_labels", 1)
    with open(folder / "meta", "wb") as file:
        pickle.dump({"fine_label_names": [f"fine{i:02d}" for i in range(100)], "coarse_label_names": ["c"] * 20}, file)
    kind = datasets.CIFAR100
    monkeypatch.setattr(kind, "train_list", [["train", calculate_md5(folder / "train")]])
    monkeypatch.setattr(kind, "test_list", [["test", calculate_md5(folder / "test")]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": calculate_md5(folder / "meta")})
    data = load_data("cifar100", img_size=32, split=SplitConfig(val_fraction=0))
    assert torch.equal(data.train.images, torch.from_numpy(x))
    assert data.test.class_names[99] == "fine99"
    assert counts(data.train) == [3] * 100


def test_svhn(monkeypatch):
    folder = cache_folder() / "downloads" / "svhn"
    folder.mkdir(parents=True)
    table = {}
    for split in ("train", "test"):
        x = np.random.default_rng(len(split)).integers(0, 256, (32, 32, 3, 40), dtype=np.uint8)
        y = (np.arange(40) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for the digit 0
        path = folder / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": x, "y": y})
        table[split] = [path.as_uri(), path.name, calculate_md5(path)]
        if split == "train":
            train = x
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    data = load_data("svhn", img_size=32, split=SplitConfig(val_fraction=0))
    assert torch.equal(data.train.images, torch.from_numpy(train.transpose(3, 2, 0, 1)))
    assert data.train.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert data.train.class_names == tuple("0123456789")
    assert len(data.test) == 40


def test_flowers102_through_the_cache(monkeypatch):
    folder = cache_folder() / "downloads" / "flowers102" / "flowers-102"
    number = 12
    for i in range(1, number + 1):
        noise(folder / "jpg" / f"image_{i:05d}.jpg", 150 + i, 100, seed=i)
    labels = np.array([[1, 2, 102, 1] * 3], dtype=np.uint8)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels})
    split = {"trnid": [[9, 2, 3, 4]], "valid": [[5, 6]], "tstid": [[1, 7, 8, 10, 11, 12]]}
    scipy.io.savemat(folder / "setid.mat", {name: np.array(ids, dtype=np.uint16) for name, ids in split.items()})
    md5 = {"label": "imagelabels.mat", "setid": "setid.mat"}
    files = {name: (file, calculate_md5(folder / file)) for name, file in md5.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", datasets.Flowers102._file_dict | files)
    data = load_data("flowers102", img_size=32)
    assert [len(s) for s in (data.train, data.val, data.test)] == [4, 2, 6]
    assert data.train.sources == [f"jpg/image_{i:05d}.jpg" for i in (9, 2, 3, 4)]
    assert data.train.labels.tolist() == [0, 1, 101, 0]
    assert data.train.class_names[101] == "blackberry lily"
    assert data.train.images.shape[-1] == 37  # ceil(1.15 x 32)
    assert data.test.images.shape[-1] == 32
    assert torch.equal(data.val.images[0], to_stored(folder / "jpg" / "image_00005.jpg", 32, 3, "crop"))
    assert "official" in data.record["splits"]["val"]["how"]


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
    write_pictures(tmp_path / "set", 40)
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
    write_pictures(tmp_path / "set", 10)
    held = []
    for fold in range(5):
        data = load_data(tmp_path / "set", img_size=16, split=SplitConfig(folds=5, fold=fold))
        assert counts(data.val) == [2, 2, 2]
        assert f"fold {fold} of 5" in data.record["splits"]["val"]["how"]
        assert not set(data.val.sources) & set(data.train.sources)
        held += data.val.sources
    assert len(held) == len(set(held)) == 30


def test_classes_are_sorted_and_pictures_may_lie_deeper(tmp_path):
    for name in ("b", "B", "a1", "a10", "a2"):
        noise(tmp_path / name / "deep" / "er" / "x.PNG", 20, 20)
        noise(tmp_path / name / "y.png", 20, 20)
    data = load_data(tmp_path, img_size=16, split=SplitConfig(val_fraction=0))
    assert data.train.class_names == ("B", "a1", "a10", "a2", "b")
    assert data.train.sources[:2] == ["B/deep/er/x.PNG", "B/y.png"]


def test_links_hidden_files_and_other_files_do_no_harm(tmp_path):
    root = write_pictures(tmp_path / "parent" / "set", 5)
    noise(tmp_path / "parent" / "other" / "z.png", 16, 16)
    (root / "flat" / "loop").symlink_to(root / "flat", target_is_directory=True)
    (root / "tall" / "up").symlink_to(root, target_is_directory=True)
    (root / "tall" / "further").symlink_to(root.parent, target_is_directory=True)
    (root / "tall" / "self.png").symlink_to(root / "tall" / "self.png")
    (root / "tall" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "flat" / "linked.png").symlink_to(root / "flat" / "0.png")
    (root / "flat" / "notes.txt").write_text("hello")
    (root / "flat" / "photo.heic").write_bytes(b"x")
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
    assert "5 files that are no pictures" in notes and ".heic" in notes
    assert "1 pictures that lie outside" in notes
    assert "without pictures: empty" in notes


def test_a_class_called_train_is_no_split(tmp_path):
    write_pictures(tmp_path, 4, classes=("bus", "car", "train"))
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


def test_fit_and_channels_are_those_of_a_single_picture(tmp_path):
    for name in "ab":
        noise(tmp_path / name / "0.png", 130, 70)
    for fit in ("crop", "pad", "stretch"):
        images = ImageConfig(fit=fit, channels=1)
        data = load_data(tmp_path, img_size=20, images=images, split=SplitConfig(val_fraction=0))
        assert torch.equal(data.train.images[0], to_stored(tmp_path / "a" / "0.png", 23, 1, fit))


def test_progress_runs_over_all_splits(folder):
    calls = []
    load_data(folder, img_size=16, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (96, 96)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


# --- what goes wrong with folders


def test_unreadable_files_stop_before_training(folder):
    for i in range(12):
        (folder / "train" / "flat" / f"{i}.png").write_bytes(b"broken")
    (folder / "test" / "tall" / "3.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load_data(folder, img_size=16, split=SplitConfig(val_fraction=0))
    message = str(error.value)
    assert "13 unreadable pictures" in message
    assert "train/flat/0.png: not a picture of a known format" in message
    assert "and 3 more" in message
    assert "feathervit data check" in message and "--skip-unreadable" in message
    data = load_data(folder, img_size=16, split=SplitConfig(val_fraction=0), skip_unreadable=True)
    assert counts(data.train) == [12, 24, 24]
    assert counts(data.test) == [8, 7, 8]
    assert len(data.skipped) == len(data.record["skipped"]) == 13
    assert "test/tall/3.png" not in data.test.sources
    assert data.train.sources[0] == "train/flat/12.png"
    assert torch.equal(data.train.images[0], to_stored(folder / "train/flat/12.png", 16, 3, "crop"))
    with pytest.raises(DataError, match="13 unreadable"):  # the cache does not forget
        load_data(folder, img_size=16, split=SplitConfig(val_fraction=0))


def test_missing_folders_name_the_nearest(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(DataError, match=r"no folder .*flower; did you mean .*flowers"):
        load_data(tmp_path / "flower", img_size=16)
    with pytest.raises(DataError, match="did you mean cifar10"):
        load_data("cifar-10", img_size=16)
    (tmp_path / "set.zip").write_bytes(b"")
    with pytest.raises(DataError, match="is a file"):
        load_data(tmp_path / "set.zip", img_size=16)


def test_folders_without_pictures_or_classes(tmp_path):
    with pytest.raises(DataError, match="no pictures were found"):
        load_data(tmp_path, img_size=16)
    noise(tmp_path / "0.png", 16, 16)
    with pytest.raises(DataError, match="1 pictures lie beside each other"):
        load_data(tmp_path, img_size=16)
    noise(tmp_path / "only" / "0.png", 16, 16)
    with pytest.raises(DataError, match="one class only"):
        load_data(tmp_path, img_size=16)
    shutil.move(tmp_path / "only", tmp_path / "test" / "only")
    with pytest.raises(DataError, match="no training pictures"):
        load_data(tmp_path, img_size=16)
    noise(tmp_path / "train" / "0.png", 16, 16)
    with pytest.raises(DataError, match="train holds no class folders"):
        load_data(tmp_path, img_size=16)


def test_classes_that_train_does_not_have(folder):
    (folder / "test" / "tall").rename(folder / "test" / "tal")
    with pytest.raises(UnknownNameError, match="unknown class 'tal'; did you mean tall"):
        load_data(folder, img_size=16)


def test_two_folders_for_one_split(folder):
    shutil.copytree(folder / "test", folder / "val")
    shutil.copytree(folder / "test", folder / "valid")
    with pytest.raises(DataError, match="two folders for the split 'val'"):
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
    ],
)
def test_splits_that_cannot_be(folder, split):
    with pytest.raises(ConfigError, match="split"):
        load_data(folder, img_size=16, split=split)


def test_folds_have_no_effect_on_a_set_with_val(folder):
    (folder / "test").rename(folder / "val")
    with pytest.raises(DataError, match="validation split of its own"):
        load_data(folder, img_size=16, split=SplitConfig(folds=3))


# --- holding out


def test_hold_out_of_very_small_classes():
    labels = np.array([0] * 30 + [1] * 2 + [2])
    kept, held, _, notes = hold_out(labels, SplitConfig(val_fraction=0.1))
    assert sorted([*kept, *held]) == list(range(33))
    assert 32 not in held
    assert any("single picture" in note for note in notes)
    kept, held, how, _ = hold_out(np.array([0, 1, 2]), SplitConfig())
    assert len(held) == 0 and "no class has two" in how


def test_hold_out_less_than_a_picture_a_class():
    labels = np.repeat(np.arange(50), 4)  # a tenth is 20 pictures, for 50 classes
    kept, held, _, notes = hold_out(labels, SplitConfig(val_fraction=0.1))
    assert np.bincount(labels[held], minlength=50).tolist() == [1] * 50
    assert len(kept) == 150
    assert any("50 pictures and not 20" in note for note in notes)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.9])
def test_hold_out_is_stratified(fraction):
    rng = np.random.default_rng(0)
    labels = rng.choice(5, size=400, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    kept, held, _, _ = hold_out(labels, SplitConfig(val_fraction=fraction))
    assert len(held) == round(400 * fraction)
    assert not set(kept) & set(held)
    want = np.bincount(labels) * fraction
    assert np.abs(np.bincount(labels[held], minlength=5) - want).max() <= 1


def test_folds_keep_single_pictures_in_train():
    labels = np.array([0] * 9 + [1] * 9 + [2])
    for fold in range(3):
        kept, held, _, _ = hold_out(labels, SplitConfig(folds=3, fold=fold))
        assert 18 in kept
        assert np.bincount(labels[held]).tolist() == [3, 3]


# --- arrays


def test_arrays(arrays):
    images, labels = arrays
    data = load_data((images, labels), img_size=16, split=SplitConfig(val_fraction=0))
    assert torch.equal(data.train.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert data.train.labels.tolist() == labels.tolist()
    assert data.train.class_names == ("0", "1", "2")
    names = np.array(["wolf", "ant", "cat"])[labels]
    data = load_data({"train": (images, names), "test": (images[:5], list(names[:5]))}, img_size=16)
    assert data.train.class_names == ("ant", "cat", "wolf")
    assert [data.test.class_names[i] for i in data.test.labels] == names[:5].tolist()
    assert len(data.val) == 10
    grey = load_data((images[..., 0], [i + 7 for i in labels]), img_size=16)
    assert grey.train.images.shape[1:] == (1, 16, 16)
    assert grey.train.class_names == ("7", "8", "9")


def test_large_arrays_are_stored_like_pictures(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 100, 130, 3), dtype=np.uint8)
    data = load_data((images, np.arange(300) % 2), img_size=20, split=SplitConfig(val_fraction=0.5))
    assert data.train.images.shape[-1] == 23
    assert data.val.images.shape[-1] == 20
    i = int(data.val.sources[-1].split("[")[1][:-1])
    assert torch.equal(data.val.images[-1], to_stored(Image.fromarray(images[i]), 20, 3, "crop"))
    grey = load_data((images, np.arange(300) % 2), img_size=20, images=ImageConfig(channels=1, fit="stretch"))
    assert grey.train.images.shape[1:] == (1, 23, 23)


def test_rgb_arrays_become_grey_as_pillow_does_it():
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    data = load_data(
        (images, [0, 1, 0, 1]), img_size=9, images=ImageConfig(channels=1), split=SplitConfig(val_fraction=0)
    )
    for got, image in zip(data.train.images, images, strict=True):
        assert torch.equal(got[0], torch.from_numpy(np.array(Image.fromarray(image).convert("L"))))


@pytest.mark.parametrize(
    ("shape", "tensor", "want"),
    [
        ((5, 8, 8, 3), False, (5, 3, 8, 8)),
        ((5, 3, 8, 8), False, (5, 3, 8, 8)),
        ((5, 1, 8, 6), True, (5, 1, 8, 6)),
        ((5, 8, 6, 1), True, (5, 1, 8, 6)),
        ((5, 3, 8, 3), True, (5, 3, 8, 3)),
        ((5, 3, 8, 3), False, (5, 3, 3, 8)),
        ((5, 4, 8, 8), False, (5, 4, 8, 8)),
        ((5, 8, 8, 12), True, (5, 12, 8, 8)),
        ((5, 8, 6), False, (5, 1, 8, 6)),
    ],
)
def test_where_the_channels_are(shape, tensor, want):
    x = torch.arange(int(np.prod(shape))).to(torch.uint8).view(shape)
    got = channels_first(x if tensor else x.numpy())
    assert tuple(got.shape) == want
    assert sorted(got.flatten().tolist()) == sorted(x.flatten().tolist())


def test_bad_arrays(arrays):
    images, labels = arrays
    for bad, error, match in [
        ((images / 255, labels), DataError, "uint8"),
        ((images, labels[:-1]), DataError, "96 images and 95 labels"),
        ((images, labels / 1.0), DataError, "integers or of strings"),
        ((images[:, :7, :, :].repeat(2, 3), labels), DataError, "cannot tell the channels"),
        ((images, np.zeros(96, int)), DataError, "one class only"),
        (images, DataError, "must be a pair"),
        ({"test": (images, labels)}, DataError, "needs 'train'"),
        ({"train": (images, labels), "tset": (images, labels)}, UnknownNameError, "did you mean test"),
        ({"train": (images, labels), "test": (images, labels + 1)}, UnknownNameError, "unknown class '3'"),
    ]:
        with pytest.raises(error, match=match):
            load_data(bad, img_size=16)
    with pytest.raises(ConfigError, match=r"images\.channels is 2"):
        load_data((images, labels), img_size=16, images=ImageConfig(channels=2))


# --- one split, for evaluation


def test_load_split_takes_test_then_val_then_everything(folder, tmp_path):
    assert load_split(folder, img_size=16).name == "set/test"
    (folder / "test").rename(folder / "val")
    assert load_split(folder, img_size=16).name == "set/val"
    root = write_pictures(tmp_path / "flat root", 10)
    assert len(load_split(root, img_size=16)) == 30
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        load_split(root, "test", img_size=16)
    whole = load_data(root, img_size=16)
    assert load_split(root, "val", img_size=16).sources == whole.val.sources
    assert load_split(root, "train", img_size=16).sources == whole.train.sources
    (folder / "train").rename(tmp_path / "elsewhere")
    assert load_split(folder, "val", img_size=16).class_names == ("flat", "tall", "tiles")


def test_load_split_labels_by_the_models_classes(folder):
    own = load_split(folder, img_size=16)
    names = ("tiles", "other", "flat", "tall")
    images = load_split(folder, "test", names, img_size=16)
    assert images.class_names == names
    assert [names[i] for i in images.labels] == [own.class_names[i] for i in own.labels]
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


def test_fingerprint_sees_one_pixel_of_a_large_set():
    images = torch.zeros(6000, 3, 64, 64, dtype=torch.uint8)  # 74 MB
    large = ImageSet(images, torch.zeros(6000, dtype=torch.int64), ("a", "b"), ["s"] * 6000, "set")
    before = large.fingerprint()
    images[77, 1, 2, 3] = 1
    assert large.fingerprint() != before


def test_summarise_reads_headers_only(folder):
    for path in (folder / "train" / "flat").iterdir():
        path.write_bytes(path.read_bytes()[:60])  # a whole header, no pixels
    summary = summarise(folder)
    assert summary.class_names == ("flat", "tall", "tiles")
    assert summary.counts == {s: dict.fromkeys(summary.class_names, n) for s, n in (("train", 24), ("test", 8))}
    assert summary.totals == {"train": 72, "test": 24}
    assert (summary.common_size, summary.median_short_side, summary.channels) == ((16, 16), 16, 3)
    noise(folder / "train" / "tall" / "wide.png", 40, 30)
    assert summarise(folder).common_size is None


def test_summarise_grey_pictures_and_named_sets(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (20, 30)).save(tmp_path / name / "0.png")
    summary = summarise(tmp_path)
    assert (summary.common_size, summary.median_short_side, summary.channels) == ((20, 30), 20, 1)
    digits = summarise("digits")
    assert (digits.common_size, digits.channels, digits.totals) == ((8, 8), 1, {"train": 1437, "test": 360})


# --- the hub, from a local folder of parquet files


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    hub = pytest.importorskip("datasets")
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "hub")

    def write(label, per_split=(("train", 20), ("test", 6))):
        features = hub.Features({"id": hub.Value("int64"), "img": hub.Image(), **label[1]})
        for split, count in per_split:
            files = [noise(tmp_path / "raw" / f"{split}{i}.png", 30 + i, 30, seed=i) for i in range(count)]
            values = [label[2][i % 2] for i in range(count)]
            columns = {"id": range(count), "img": [{"bytes": f.read_bytes(), "path": None} for f in files]}
            table = hub.Dataset.from_dict(columns | {label[0]: values}, features=features)
            (tmp_path / "parquet").mkdir(exist_ok=True)
            table.to_parquet(str(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet"))
        return f"hf:{tmp_path / 'parquet'}"

    hub.disable_progress_bars()
    return write


def test_hub_with_class_labels(parquet, tmp_path):
    import datasets as hub

    source = parquet(("fine_label", {"fine_label": hub.ClassLabel(names=["rose", "daisy"])}, (1, 0)))
    data = load_data(source, img_size=16, split=SplitConfig(val_fraction=0.2))
    assert data.train.class_names == ("rose", "daisy")
    assert [len(data.train), len(data.val), len(data.test)] == [16, 4, 6]
    assert data.test.labels.tolist() == [1, 0] * 3
    assert data.test.sources[2] == "test[2]"
    assert torch.equal(data.test.images[2], to_stored(tmp_path / "raw" / "test2.png", 16, 3, "crop"))
    assert data.train.images.shape[-1] == 19
    assert summarise(source).median_short_side == 30


def test_hub_with_strings_and_without_labels(parquet):
    import datasets as hub

    source = parquet(("label", {"label": hub.Value("string")}, ("wolf", "ant")))
    data = load_data(source, img_size=16)
    assert data.train.class_names == ("ant", "wolf")
    assert data.test.labels.tolist() == [1, 0] * 3
    source = parquet(("colour", {"colour": hub.Value("string")}, ("red", "blue")))
    with pytest.raises(DataError, match="no column of class labels; its columns are id, img, colour"):
        load_data(source, img_size=16)


def test_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'feathervit\[hub\]'"):
        load_data("hf:owner/name", img_size=16)

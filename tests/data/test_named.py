"""Named datasets in their real formats, written by the test, and hub datasets from a local folder."""

from __future__ import annotations

import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from feathervit.config import ImageConfig, SplitConfig
from feathervit.data import load_data, named
from feathervit.data.image import to_stored
from feathervit.data.sources import summarise
from feathervit.errors import DataError
from feathervit.files import cache_folder

from .images import counts, noise

# --- digits


def test_digits_equal_scikit_learns():
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


def test_the_digits_test_split_never_changes():
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


# --- torchvision's datasets, in their real formats, written here


def cifar_batch(path: Path, labels: list[int], key: str, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        pickle.dump({"data": x, key: labels, "filenames": ["x.png"] * len(labels)}, file)
    return x.reshape(-1, 3, 32, 32)


@pytest.fixture
def cifar10(monkeypatch) -> np.ndarray:
    """Writes five batches of twenty, a test batch and the names. Returns the pixels of train."""
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


def test_a_failed_download_names_the_url_and_the_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "none.tar.gz").as_uri())
    with pytest.raises(DataError) as error:
        load_data("cifar10", img_size=32)
    message = str(error.value)
    assert (tmp_path / "none.tar.gz").as_uri() in message
    assert str(cache_folder() / "downloads" / "cifar10" / "cifar-10-batches-py") in message
    assert "\n" not in message


def test_one_process_downloads_at_a_time(tmp_path):
    inside, most = [], []

    def make():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: named._fetch("cifar10", "url", tmp_path / "set" / "files", make), range(4)))
    assert most == [1] * 4


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


# --- the hub, from a local folder of parquet files


def test_hub_with_class_labels(hub_set, tmp_path):
    import datasets as hub

    kind = {"fine_label": hub.ClassLabel(names=["rose", "daisy"])}
    source = hub_set(kind, train={"fine_label": [1, 0] * 10}, test={"fine_label": [1, 0] * 3})
    data = load_data(source, img_size=16, split=SplitConfig(val_fraction=0.2))
    assert data.train.class_names == ("rose", "daisy")
    assert [len(data.train), len(data.val), len(data.test)] == [16, 4, 6]
    assert data.test.labels.tolist() == [1, 0] * 3
    assert data.test.sources[2] == "test[2]"
    assert torch.equal(data.test.images[2], to_stored(tmp_path / "raw" / "test2.png", 16, 3, "crop"))
    assert data.train.images.shape[-1] == 19
    assert summarise(source).median_short_side == 30


def test_hub_with_strings_and_without_labels(hub_set):
    import datasets as hub

    source = hub_set(
        {"label": hub.Value("string")}, train={"label": ["wolf", "ant"] * 10}, test={"label": ["wolf", "ant"] * 3}
    )
    data = load_data(source, img_size=16)
    assert data.train.class_names == ("ant", "wolf")
    assert data.test.labels.tolist() == [1, 0] * 3
    source = hub_set(
        {"colour": hub.Value("string")}, train={"colour": ["red", "blue"] * 10}, test={"colour": ["red", "blue"] * 3}
    )
    with pytest.raises(DataError, match="no column of class labels; its columns are img, colour"):
        load_data(source, img_size=16)
    unlabelled = load_data(source, img_size=16, labelled=False)
    assert unlabelled.train.class_names == ("images",)
    assert len(unlabelled.train) + len(unlabelled.val) == 20
    assert summarise(source, labelled=False).totals == {"train": 20, "test": 6}


def test_the_hub_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'feathervit\[hub\]'"):
        load_data("hf:owner/name", img_size=16)

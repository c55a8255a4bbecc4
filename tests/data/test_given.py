"""Images and labels from Python. They are accepted in one way or give a ConfigError, never a raw exception."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import feathervit
from feathervit.config import SplitConfig
from feathervit.data import load_data
from feathervit.data.given import channel_axis, channels_first, one_or_more
from feathervit.errors import ConfigError, FeatherVitError

from ..conftest import stripes, write_images

FAST = {"img_size": 16, "patch_size": 4, "batch_size": 8, "epochs": 1, "model": "mlit_nano"}
FAST |= {"arch.depth": 1, "arch.dim": 32}


# --- the channel axis


@pytest.mark.parametrize(
    ("shape", "channels", "want"),
    [
        ((5, 8, 6, 3), None, -1),
        ((5, 3, 8, 6), None, -3),
        ((5, 4, 8, 8), None, -3),
        ((5, 8, 8, 12), None, -1),
        ((5, 1, 1, 1), None, -3),
        ((5, 3, 8, 3), None, None),  # either
        ((5, 7, 7, 7), None, None),
        ((5, 4, 5, 6), None, None),  # neither
        ((3, 8, 3), 3, None),
        ((8, 3, 3), 3, -1),
        ((8, 6, 4), 4, -1),
        ((8, 6, 4), 3, None),
    ],
)
def test_the_channel_axis_follows_one_rule(shape, channels, want):
    if want is None:
        with pytest.raises(ConfigError, match="channel"):
            channel_axis(shape, channels)
    else:
        assert channel_axis(shape, channels) == want


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_training_and_prediction_read_arrays_alike(kind):
    """For many shapes: both read the same images, or both refuse an ambiguous array."""
    rng = np.random.default_rng(0)
    sides = (1, 2, 3, 4, 5, 16)
    agreed = refused = 0
    for a in sides:
        for b in sides:
            for c in sides:
                x = kind(rng.integers(0, 256, (6, a, b, c), dtype=np.uint8))
                try:
                    train = channels_first(x)
                except ConfigError:
                    refused += 1
                    continue
                assert torch.equal(one_or_more(x, train.shape[1]), train)
                agreed += 1
    assert agreed > 50 and refused > 50


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("given") / "set", 8)
    out = tmp_path_factory.mktemp("given") / "run"
    feathervit.train(data=folder, out=out, **FAST)
    return feathervit.load(out)


def test_images_three_pixels_wide_are_ambiguous(predictor, tmp_path):
    for shape in ((3, 16, 3), (2, 3, 16, 3)):
        for x in (np.zeros(shape, np.uint8), torch.zeros(shape, dtype=torch.uint8)):
            with pytest.raises(ConfigError, match="first or last"):
                predictor.predict(x)
    for x in (np.zeros((8, 3, 16, 3), np.uint8), torch.zeros((8, 3, 16, 3), dtype=torch.uint8)):
        with pytest.raises(ConfigError, match="first or last"):
            feathervit.train(data=(x, [0, 1] * 4), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="may be one image"):
        load_data((np.zeros((28, 28, 1), np.uint8), np.arange(28) % 2), img_size=16)


# --- accepted inputs


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return sorted(write_images(tmp_path / "set", 4, classes=("flat", "tall")).rglob("*.png"))


def ragged(files: list[Path]) -> list[np.ndarray]:
    """Arrays of many sizes: colour with channels last or first, and grey."""
    rng = np.random.default_rng(0)
    squares = [stripes(i % 2, 16 + i, rng) for i in range(len(files))]
    return [[x, x.transpose(2, 0, 1), x[..., 0], x[..., :1]][i % 4] for i, x in enumerate(squares)]


IMAGES = {
    "list of paths": lambda f: f,
    "array of texts": lambda f: np.array([str(p) for p in f]),
    "array of paths": lambda f: np.array(f, dtype=object),
    "series of texts": lambda f: pd.Series([str(p) for p in f]),
    "series of arrays": lambda f: pd.Series([np.asarray(Image.open(p)) for p in f]),
    "generator of paths": lambda f: (p for p in f),
    "file contents": lambda f: [p.read_bytes() for p in f],
    "open files": lambda f: [p.open("rb") for p in f],
    "files in memory": lambda f: (io.BytesIO(p.read_bytes()) for p in f),
    "PIL images": lambda f: [Image.open(p) for p in f],
    "list of tensors": lambda f: [torch.from_numpy(np.array(Image.open(p))) for p in f],
    "paths and arrays": lambda f: [*f[:3], *(np.asarray(Image.open(p)) for p in f[3:])],
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_are_accepted(files, predictor, tmp_path, kind):
    """Prediction and training accept them and see the same pixels. Training reads its data twice."""
    want = [predictor.predict(path)[0].probabilities for path in files]
    got = predictor.predict(IMAGES[kind](files))
    np.testing.assert_allclose([p.probabilities for p in got], want, atol=1e-5)
    labels = [path.parent.name for path in files]
    data = load_data((IMAGES[kind](files), labels), img_size=16, split=SplitConfig(val_fraction=0))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in files])
    assert torch.equal(data.train.images, pixels)
    assert [data.train.class_names[i] for i in data.train.labels] == labels
    if kind in ("generator of paths", "series of arrays"):
        assert feathervit.train(data=(IMAGES[kind](files), iter(labels)), out=tmp_path / "run", **FAST).finished
        assert feathervit.pretrain(data=IMAGES[kind](files), out=tmp_path / "masked", **FAST).finished


def test_images_of_many_sizes_are_accepted(files, predictor):
    images = ragged(files)
    data = load_data((images, [0, 1] * 4), img_size=16, split=SplitConfig(val_fraction=0))
    assert data.train.images.shape == (8, 3, 19, 19)
    whole = [np.broadcast_to(x if x.ndim == 3 else x[..., None], (*x.shape[:2], 3)) for x in images[2::4]]
    assert len(predictor.predict([*images[::4], *whole])) == 4


@pytest.mark.parametrize("one", ["a path", "a text", "bytes", "an open file", "a PIL image", "a Path-like"])
def test_one_image_is_accepted(files, predictor, one):
    class Like:
        def __fspath__(self) -> str:
            return str(files[0])

    forms = {
        "a path": files[0],
        "a text": str(files[0]),
        "bytes": files[0].read_bytes(),
        "an open file": files[0].open("rb"),
        "a PIL image": Image.open(files[0]),
        "a Path-like": Like(),
    }
    (got,) = predictor.predict(forms[one])
    assert got.probabilities == pytest.approx(predictor.predict([files[0]])[0].probabilities, abs=1e-6)


LABELS = {
    "texts of pandas": (pd.Series(["b", "a"] * 4), ("a", "b")),
    "categories": (pd.Series(["b", "a"] * 4, dtype="category"), ("a", "b")),
    "nullable integers": (pd.Series([7, 3] * 4, dtype="Int64"), ("3", "7")),
    "booleans": (np.array([True, False] * 4), ("False", "True")),
    "bytes": (np.array([b"b", b"a"] * 4), ("a", "b")),
    "tensor": (torch.tensor([1, 0] * 4), ("0", "1")),
    "list of tensors": ([torch.tensor(1), torch.tensor(0)] * 4, ("0", "1")),
    "numbers of NumPy": ([np.int8(2), 5] * 4, ("2", "5")),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_accepted(arrays, kind):
    labels, names = LABELS[kind]
    data = load_data(
        (arrays[0][:8], labels() if callable(labels) else labels), img_size=16, split=SplitConfig(val_fraction=0)
    )
    assert data.train.class_names == names


def test_labels_follow_the_rules_for_files(arrays):
    """A class has one Unicode form, and -1 means no label."""
    one, two = "caf\u00e9", "cafe\u0301"
    images = arrays[0][:8]
    data = load_data((images, [one, two, "dog", "dog"] * 2), img_size=16, split=SplitConfig(val_fraction=0))
    assert data.train.class_names == (one, "dog") and data.train.labels.tolist() == [0, 0, 1, 1] * 2
    pairs = {"train": (images, [0, 1] * 4), "val": (images[:4], [1, -1, 0, -1]), "test": (images, [-1] * 8)}
    data = load_data(pairs, img_size=16)
    assert data.val.labels.tolist() == [1, 0] and torch.equal(data.val.images, data.train.images[[0, 2]])
    assert data.test is None and any("test has no labels (8 images): left out" in note for note in data.notes)


# --- refused inputs

X = np.zeros((8, 16, 16, 3), np.uint8)
Y = [0, 1] * 4


class Broken:
    def __array__(self, *_, **__):
        raise RuntimeError("no array")


def failing():
    yield X[0]
    raise ValueError("the camera is gone")


SOURCES = {  # data for training
    "one array": X,
    "a number": 7,
    "a set": {1, 2},
    "bytes": b"pets",
    "a table": pd.DataFrame({"path": ["a.png"] * 8, "label": Y}),
    "an open file": io.BytesIO(b"PK"),
    "a generator of pairs": ((x, y) for x, y in zip(X, Y, strict=True)),
    "pairs": list(zip(X, Y, strict=True)),
    "one path": ("a.png", [0]),
    "ragged rows": ([[[1, 2], [3]]] * 8, Y),
    "a text file": ([io.StringIO("x")] * 8, Y),
    "a closed file": ([(f := io.BytesIO(b"x")), f.close()][:1] * 8, Y),
    "an object that is not an array": (Broken(), Y),
    "a generator that fails": (failing(), Y),
    "floats": (X / 255.0, Y),
    "lists of numbers": (X[..., 0].tolist(), Y),
    "nothing": ([], []),
    "labels missing": (X, pd.Series(["a", None] * 4)),
    "labels not a number": (X, np.array([1.0, np.nan] * 4)),
    "labels not available": (X, pd.Series([1, pd.NA] * 4, dtype="Int64")),
    "labels mixed": (X, ["a", 1] * 4),
    "labels in a column": (X, np.array(Y)[:, None]),
    "one-hot labels": (X, np.eye(2)[Y]),
    "one text": (X, "catdogca"),
    "a set of labels": (X, set(range(8))),
    "labels masked": (X, np.ma.masked_array(Y, mask=[1] + [0] * 7)),
    "images masked": (np.ma.masked_array(X, mask=X == 0), Y),
    "a tensor without values": (torch.zeros(8, 3, 16, 16, dtype=torch.uint8, device="meta"), Y),
    "a sparse tensor": (torch.zeros(8, 3, 16, 16, dtype=torch.uint8).to_sparse(), Y),
    "a path that is not there": (["/nowhere/a.png"] * 8, Y),
    "bytes that are not an image": ([b"x"] * 8, Y),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_invalid_data_gives_a_clear_error(tmp_path, kind):
    files = ("one path", "a path that is not there", "bytes that are not an image")
    expected = FeatherVitError if kind in files else ConfigError
    with pytest.raises(expected) as error:
        feathervit.train(data=SOURCES[kind], out=tmp_path / "run", **FAST)
    assert len(str(error.value)) > 20 and not (tmp_path / "run").exists()


OTHERS = {
    "None": None,
    "a set": {"a.png"},
    "a table": pd.DataFrame({"path": ["a.png"]}),
    "floats": np.zeros((4, 4, 3)),
    "a tensor without values": torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta"),
    "five axes": np.zeros((1, 1, 4, 4, 3), np.uint8),
    "other channels": np.zeros((4, 4, 2), np.uint8),
    "a text file": io.StringIO("x"),
    "an object that is not an array": Broken(),
    "a generator that fails": failing(),
    "not there": "/nowhere/a.png",
    "not an image": b"x",
    "a null byte": "a\0.png",
    "a folder": "/",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_invalid_images_give_a_clear_error(predictor, kind):
    files = ("not there", "not an image", "empty", "a null byte", "a folder")
    with pytest.raises(FeatherVitError if kind in files else ConfigError) as error:
        predictor.predict(OTHERS[kind])
    assert len(str(error.value)) > 20

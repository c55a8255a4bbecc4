"""Arrays as a dataset: shapes, channels, labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from feathervit.config import ImageConfig, SplitConfig
from feathervit.data import load_data
from feathervit.data.image import to_stored
from feathervit.errors import ConfigError, DataError, UnknownNameError


def test_arrays_load_as_a_dataset(arrays):
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


def test_large_arrays_are_stored_like_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 100, 130, 3), dtype=np.uint8)
    data = load_data((images, np.arange(300) % 2), img_size=20, split=SplitConfig(val_fraction=0.5))
    assert data.train.images.shape[-1] == 23
    assert data.val.images.shape[-1] == 20
    i = int(data.val.sources[-1].split("[")[1][:-1])
    assert torch.equal(data.val.images[-1], to_stored(Image.fromarray(images[i]), 20, 3, "crop"))
    grey = load_data((images, np.arange(300) % 2), img_size=20, images=ImageConfig(channels=1, fit="stretch"))
    assert grey.train.images.shape[1:] == (1, 23, 23)


def test_rgb_arrays_become_grey_as_in_pillow():
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    data = load_data(
        (images, [0, 1, 0, 1]), img_size=9, images=ImageConfig(channels=1), split=SplitConfig(val_fraction=0)
    )
    for got, image in zip(data.train.images, images, strict=True):
        assert torch.equal(got[0], torch.from_numpy(np.array(Image.fromarray(image).convert("L"))))


def test_invalid_arrays_are_refused(arrays):
    images, labels = arrays
    for bad, error, match in [
        ((images, labels[:-1]), ConfigError, "96 images and 95 labels"),
        ((images, labels / 1.0), ConfigError, "integers or texts"),
        ((images, np.zeros(96, int)), DataError, "only one class"),
        ({"test": (images, labels)}, ConfigError, "needs 'train'"),
        ({"train": (images, labels), "tset": (images, labels)}, UnknownNameError, "did you mean test"),
        ({"train": (images, labels), "test": (images, labels + 1)}, UnknownNameError, "unknown class '3'"),
    ]:
        with pytest.raises(error, match=match):
            load_data(bad, img_size=16)
    with pytest.raises(ConfigError, match=r"images\.channels is 2"):
        load_data((images, labels), img_size=16, images=ImageConfig(channels=2))


def test_another_palette_is_another_image():
    images = [Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) + n, "P") for n in range(4)]

    def pixels():
        return load_data((images, [0, 1, 0, 1]), img_size=8, split=SplitConfig(val_fraction=0)).train.images

    for image in images:
        image.putpalette([value for n in range(256) for value in (n, 255 - n, 0)])
    before = pixels()
    for image in images:
        image.putpalette([value for n in range(256) for value in (n, n, n)])
    after = pixels()
    assert not torch.equal(before, after)
    assert torch.equal(after[:, 0], after[:, 1])

"""Small models, of digits and of image files, trained once for all tests of exports."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import feathervit

from ..conftest import missing, stripes


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run folder: three layers of `mlit_nano` on digits, mostly right after a few epochs."""
    out = tmp_path_factory.mktemp("digits") / "run"
    feathervit.train("digits", out=out, epochs=8, **{"arch.depth": 3, "optim.warmup_epochs": 1.0, "optim.ema": 0.9})
    return out


CLASSES = ("flat", "<b>tall", "tiles_|")  # two contain HTML and Markdown syntax


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """JPEGs of at least 96 x 64 px, none square, in class folders of train/ and test/. EXIF rotates the last one."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("photographs")
    turned = Image.Exif()
    turned[0x0112] = 6
    for split, count in (("train", 24), ("test", 6)):
        for kind, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                square = np.kron(stripes(kind, 16, rng), np.ones((4, 4, 1), np.uint8))
                whole = np.pad(square, ((0, 0), (16, 16 + n), (0, 0)), mode="edge")
                options = {"exif": turned} if n == count - 1 else {}
                Image.fromarray(whole).save(root / split / name / f"{n}.jpg", quality=90, **options)
    return root


@pytest.fixture(scope="session")
def photographs_run(photographs, tmp_path_factory):
    """A run folder: three layers at 16 px, the first with one expert, and a mean read-out. It is mostly right."""
    out = tmp_path_factory.mktemp("photographs-run") / "run"
    arch = {"arch.depth": 3, "arch.feedforward.experts": (1, 4, 4), "arch.feedforward.top_k": 1, "arch.readout": "mean"}
    plain = {"augment.policy": "none", "augment.crop": "none", "augment.mixup": 0.0, "optim.ema": 0.0}
    steps = {"epochs": 12, "batch_size": 16, "lr": 3e-3, "optim.lr_batch": 0, "optim.warmup_epochs": 1.0}
    model = {"model": "mlit_nano", "img_size": 16, "patch_size": 4}
    feathervit.train("folder", data=photographs, out=out, **model, **arch, **steps, **plain)
    return out


@pytest.fixture(scope="session")
def web_cache(tmp_path_factory):
    """A cache folder of the session, so that the browser's runtime is fetched once."""
    if shutil.which("npm") is None:
        missing("npm is not installed")
    return tmp_path_factory.mktemp("web-cache")


@pytest.fixture
def held_out():
    return feathervit.load_data("digits", img_size=16).test

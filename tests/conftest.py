"""Shared fixtures: one thread, a separate cache folder, small folders of images."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from feathervit.checkpoint import load_weights
from feathervit.cli import main


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Marks the tests that open a browser."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_reports():
    """Turns off reports and charts of studies, because drawing takes longer than most test runs. Their own tests draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feathervit.training.conclusion.report_at_end", lambda *_: "no report in tests")
        patch.setattr("feathervit.studies.report._chart", lambda found, path: path.write_bytes(b"chart"))
        yield


@pytest.fixture(autouse=True)
def cpu_only(request, monkeypatch):
    """Hides accelerators from tests without the mark `gpu` and from their commands.

    Many tests compare bits, and only the CPU guarantees equal bits.
    """
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def float32_by_default(monkeypatch):
    """Makes `precision auto` choose float32. Elsewhere it times steps, so two runs may differ."""
    monkeypatch.setattr("feathervit.training.precision.has_bfloat16", lambda: False)


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """Numbered cache folders. `mktemp` per test would list all earlier ones."""
    root = tmp_path_factory.mktemp("caches")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def separate_cache(caches, monkeypatch):
    monkeypatch.setenv("FEATHERVIT_CACHE", str(next(caches)))


def stripes(kind: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [size, size, 3]: class 0 has horizontal stripes, 1 vertical, 2 a checkerboard; colours and phase vary."""
    i, j = np.mgrid[:size, :size] + rng.integers(0, 4)
    on = [i // 2 % 2, j // 2 % 2, (i // 2 + j // 2) % 2][kind][..., None]
    dark, light = rng.integers(0, 80, 3), rng.integers(160, 256, 3)
    return (np.where(on, light, dark) + rng.integers(0, 10, (size, size, 3))).clip(0, 255).astype(np.uint8)


def write_images(root: Path, per_class: int, size: int = 16, classes=("flat", "tall", "tiles"), seed: int = 0) -> Path:
    """Writes ROOT/<class>/<n>.png with `stripes`."""
    rng = np.random.default_rng(seed)
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for n in range(per_class):
            Image.fromarray(stripes(kind, size, rng)).save(root / name / f"{n}.png")
    return root


@pytest.fixture
def run(capsys):
    """Calls the command line and returns (status, standard output, standard error)."""

    def call(*argv) -> tuple[int, str, str]:
        try:
            status = main([str(a) for a in argv])
        except SystemExit as stop:
            status = stop.code or 0
        out = capsys.readouterr()
        return status, out.out, out.err

    return call


def two_splits(root: Path) -> Path:
    """Three classes with train/ (24 each) and test/ (8 each), 16 px."""
    write_images(root / "train", 24)
    write_images(root / "test", 8, seed=1)
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    return two_splits(tmp_path / "set")


@pytest.fixture
def arrays():
    """(images uint8 [96, 16, 16, 3], labels [96]) of three classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    return np.stack([stripes(k, 16, rng) for k in labels]), labels


def small_fields() -> dict:
    """Fields of a small model: 16 px, patch size 4, two layers, no augmentation."""
    return {
        "augment.crop": "none",
        "augment.flip": "none",
        "augment.policy": "none",
        "augment.mixup": 0.0,
        "loss.label_smoothing": 0.0,
        "model": "mlit_nano",
        "img_size": 16,
        "patch_size": 4,
        "batch_size": 32,
        "arch.depth": 2,
        "arch.dim": 32,
        "lr": 3e-3,
        "optim.lr_batch": 0,
        "optim.warmup_epochs": 0.5,
    }


@pytest.fixture
def small() -> dict:
    return small_fields()


def same_weights(a: Path, b: Path) -> bool:
    """Whether two weights files, or the best weights of two runs, are equal bit by bit."""
    x, y = load_weights(a).weights, load_weights(b).weights
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def load_script(path: Path) -> ModuleType:
    """Imports a file outside of the packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and timm look up their module
    spec.loader.exec_module(module)
    return module


def missing(reason: str) -> None:
    """Skips with a reason. On CI (CI=true), where everything must be installed, it fails."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium with a fake camera, which shows a test image and needs no permission."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or shutil.which("chromedriver") is None:
        missing("Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream"):
        options.add_argument(flag)
    options.add_argument("--use-fake-ui-for-media-stream")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()

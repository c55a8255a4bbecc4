"""Damaged images that most decoders accept. `data check` and every reader of the package find them, with the same message."""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from feathervit.data import load_data
from feathervit.data.check import check_data
from feathervit.data.image import open_image
from feathervit.errors import DataError

from .commands import SMALL


@functools.cache
def photograph(width: int = 200, height: int = 150, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(load_sample_images().images[0]).resize((width, height)).convert(mode)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or photograph()).save(buffer, kind, **options)
    return buffer.getvalue()


def cut(data: bytes, share: float = 0.5) -> bytes:
    """The first part of a JPEG, with an end marker."""
    return data[: int(share * len(data))] + b"\xff\xd9"


def zeros(data: bytes, share: float = 0.5, count: int = 512) -> bytes:
    start = int(share * len(data))
    return data[:start] + bytes(count) + data[start + count :]


def half_zero(data: bytes) -> bytes:
    """As after an interrupted download whose space was reserved."""
    kept = len(data) // 2 + 250  # in the middle of a row
    return data[:kept] + bytes(len(data) - kept)


PROGRESSIVE, RESTARTS = {"progressive": True}, {"restart_marker_rows": 2}
DAMAGED = {
    "jpeg cut": ("jpg", cut(encoded("JPEG"))),
    "jpeg cut near the end": ("jpg", cut(encoded("JPEG"), 0.95)),
    "grey jpeg cut": ("jpg", cut(encoded("JPEG", photograph(mode="L")))),
    "cmyk jpeg cut": ("jpg", cut(encoded("JPEG", photograph(mode="CMYK")))),
    "progressive jpeg cut": ("jpg", cut(encoded("JPEG", **PROGRESSIVE))),
    "jpeg with restarts cut": ("jpg", cut(encoded("JPEG", **RESTARTS))),
    "optimised jpeg cut": ("jpg", cut(encoded("JPEG", optimize=True))),
    "large jpeg cut": ("jpg", cut(encoded("JPEG", photograph(1200, 900)))),  # decoded at an eighth in training
    "zeros in a jpeg": ("jpg", zeros(encoded("JPEG"))),
    "zeros early in a jpeg": ("jpg", zeros(encoded("JPEG"), 0.3, 1000)),
    "zeros in a grey jpeg": ("jpg", zeros(encoded("JPEG", photograph(mode="L")))),
    "zeros in a jpeg with restarts": ("jpg", zeros(encoded("JPEG", **RESTARTS))),
    "half zero jpeg": ("jpg", half_zero(encoded("JPEG"))),
    "zeros in a png": ("png", zeros(encoded("PNG"))),
    "zeros in a png that is not compressed": ("png", zeros(encoded("PNG", compress_level=0))),
    "one bit of a png": ("png", (d := encoded("PNG"))[:20000] + bytes([d[20000] ^ 1]) + d[20001:]),
    "zeros in a webp": ("webp", zeros(encoded("WEBP", photograph(800, 600), quality=95))),
    "zeros in a lossless webp": ("webp", zeros(encoded("WEBP", lossless=True))),
    "zeros in a deflated tiff": ("tif", zeros(encoded("TIFF", compression="tiff_adobe_deflate"))),
    "zeros in an lzw tiff": ("tif", zeros(encoded("TIFF", compression="tiff_lzw"))),
    "zeros in a gif": ("gif", zeros(encoded("GIF"))),
    "zeros in a jpeg 2000": ("jp2", zeros(encoded("JPEG2000"))),
    "zeros in a jpeg 2000 without boxes": ("j2k", zeros(encoded("JPEG2000", no_jp2=True))),
    "half zero bmp": ("bmp", half_zero(encoded("BMP"))),
    "half zero ppm": ("ppm", half_zero(encoded("PPM"))),
    "half zero tiff": ("tif", half_zero(encoded("TIFF"))),
    "half zero grey bmp": ("bmp", half_zero(encoded("BMP", photograph(mode="L")))),
}
BARS = np.where(np.arange(150)[:, None, None] < 60, 0, np.asarray(photograph())).astype(np.uint8)
DOUBTFUL = {  # possibly damaged: reported, but used for training
    "upper rows zero from the start of a row": ("bmp", encoded("BMP", Image.fromarray(BARS))),
    "noise in a jpeg": (
        "jpg",
        (d := encoded("JPEG"))[:4000] + bytes(np.random.default_rng(0).integers(0, 255, 64, np.uint8)) + d[4064:],
    ),
    "a jpeg with data left over": ("jpg", (d := encoded("JPEG"))[:-2] + b"\x12" * 90 + d[-2:]),
}
WHITE = np.where(np.arange(600)[:, None, None] < 240, 255, np.asarray(photograph(800, 600))).astype(np.uint8)
SOUND = {
    "jpeg": ("jpg", encoded("JPEG")),
    "progressive jpeg": ("jpg", encoded("JPEG", **PROGRESSIVE)),
    "jpeg with restarts": ("jpg", encoded("JPEG", **RESTARTS)),
    "black jpeg": ("jpg", encoded("JPEG", Image.new("RGB", (900, 700)), optimize=True)),
    "grey jpeg of one colour": ("jpg", encoded("JPEG", Image.new("RGB", (300, 200), (128,) * 3))),
    "jpeg that ends in grey": ("jpg", encoded("JPEG", ImageOps.expand(photograph(), (0, 0, 0, 60), (128,) * 3))),
    "jpeg with filling bytes": ("jpg", (d := encoded("JPEG"))[:-2] + b"\xff\xff" + d[-2:]),
    "jpeg with a trailer": ("jpg", encoded("JPEG") + bytes(500)),
    "png": ("png", encoded("PNG")),
    "black webp": ("webp", encoded("WEBP", Image.new("RGB", (2000, 1500)))),
    "half white webp": ("webp", encoded("WEBP", Image.fromarray(WHITE[::-1]))),
    "jpeg 2000": ("jp2", encoded("JPEG2000")),
    "black jpeg 2000": ("jp2", encoded("JPEG2000", Image.new("RGB", (900, 700)))),
    "deflated tiff": ("tif", encoded("TIFF", compression="tiff_adobe_deflate")),
    "digit of a bmp": ("bmp", encoded("BMP", Image.fromarray(np.pad(np.full((12, 6), 255, np.uint8), 11)))),
    "black bmp": ("bmp", encoded("BMP", Image.new("RGB", (64, 48)))),
}


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory) -> Path:
    """ROOT/a and ROOT/b with six intact images each."""
    root, rng = tmp_path_factory.mktemp("two") / "set", np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for n in range(6):
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(root / name / f"{n}.png")
    return root


def with_file(two_classes: Path, tmp_path: Path, case: tuple[str, bytes]) -> Path:
    root = shutil.copytree(two_classes, tmp_path / "set")
    (root / "a" / f"case.{case[0]}").write_bytes(case[1])
    return root


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_are_found(two_classes, tmp_path, name):
    """`data check` fails, and every decoder names the file."""
    root = with_file(two_classes, tmp_path, DAMAGED[name])
    file = next((root / "a").glob("case.*"))
    report = check_data(root)
    assert [*report.truncated, *report.unreadable] == [f"a/{file.name}"] and report.must_fix
    for use in (lambda: load_data(root, img_size=16), lambda: open_image(file)):
        with pytest.raises(DataError, match=re.escape(file.name)):
            use()
    assert f"a/{file.name}" not in load_data(root, img_size=16, skip_unreadable=True).train.sources


@pytest.mark.parametrize("name", DOUBTFUL)
def test_possible_damage_is_reported(two_classes, tmp_path, name):
    root = with_file(two_classes, tmp_path, DOUBTFUL[name])
    report = check_data(root)
    assert len(report.doubtful) == 1 and not report.must_fix
    assert "perhaps damaged: 1" in (text := "\n".join(report.lines()))
    assert "damage that cannot be found" in text
    load_data(root, img_size=16)


@pytest.mark.parametrize("name", SOUND)
def test_intact_images_are_not_reported(two_classes, tmp_path, name):
    root = with_file(two_classes, tmp_path, SOUND[name])
    report = check_data(root)
    assert not report.must_fix and not report.doubtful
    load_data(root, img_size=16)


def test_damaged_images_on_the_command_line(two_classes, tmp_path, run):
    root = with_file(two_classes, tmp_path, DAMAGED["zeros in a jpeg"])
    status, out, _ = run("data", "check", root)
    assert status == 1 and "a/case." in out
    status, _, errors = run("train", "--data", root, "--out", tmp_path / "run", *SMALL)
    assert status == 2 and "a/case." in errors and not (tmp_path / "run").exists()
    status, out, _ = run("train", "--data", root, "--out", tmp_path / "run", "--skip-unreadable", *SMALL)
    assert status == 0 and "skipped 1 unreadable" in out
    for name in ("result.json", "splits.json"):
        assert "a/case." in json.loads((tmp_path / "run" / name).read_text())["skipped"][0]
    status, out, errors = run("predict", tmp_path / "run", root / "a", "--json")
    found = json.loads(out)
    assert status == 1 and len(found["predictions"]) == 6 and "case." in found["unreadable"][0]

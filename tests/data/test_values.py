"""Values of images: one scale for a dataset, and content that changed under the same name."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import feathervit
from feathervit.data import cache, folders, load_data
from feathervit.data.image import open_image
from feathervit.errors import DataError

from ..conftest import stripes
from .commands import SMALL
from .images import png

# --- one scale of values


def png16(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits per channel, which Pillow cannot write in colour. values: [H, W, C] of 2 (grey, alpha), 3 or 4."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png(width, height, zlib.compress(rows), depth=16, colour={1: 0, 2: 4, 3: 2, 4: 6}[channels]))


def pgm16(path: Path, values: np.ndarray) -> None:
    path.write_bytes(b"P5 16 16 4095\n" + values.astype(">u2").tobytes())


def tiff(kind: type):
    return lambda path, values: Image.fromarray(values.astype(kind)).save(path)


def grey(write):
    return lambda path, values: write(path, values[..., 0])


KINDS = {  # name -> (suffix, function that writes values [16, 16, 3], the largest value, the expected scale)
    "12 bits in 16": ("png", grey(tiff(np.uint16)), 4095, 4095),
    "12 bits in 16, none quite white": ("png", grey(tiff(np.uint16)), 3100, 4095),
    "10 bits in 16": ("tiff", grey(tiff(np.uint16)), 1023, 1023),
    "16 bits": ("png", grey(tiff(np.uint16)), 65535, 65535),
    "8 bits in 32": ("tiff", grey(tiff(np.int32)), 255, 255),
    "zeros and ones in 32 bits": ("tiff", grey(lambda p, v: tiff(np.int32)(p, v > 0.4)), 1, 1),
    "31 bits": ("tiff", grey(tiff(np.int32)), 2**31 - 129, 2**31 - 1),
    "floats to 1": ("tiff", grey(tiff(np.float32)), 1.0, 1),
    "floats to 1.02": ("tiff", grey(tiff(np.float32)), 1.02, 1),
    "floats to 255": ("tiff", grey(tiff(np.float32)), 255.0, 255),
    "colour, 12 bits in 16": ("png", png16, 4095, 4095),
    "grey and alpha, 16 bits": (
        "png",
        lambda p, v: png16(p, np.dstack([v[..., 0], np.full((16, 16), 65535)])),
        65535,
        65535,
    ),
    "12 bits of a PGM file": ("pgm", grey(pgm16), 4095, 65535),  # its header states the maximum, and Pillow uses it
}


def deep_set(root: Path, suffix: str, write, top: float, per_class: int = 8) -> dict[Path, np.ndarray]:
    """Writes ROOT/flat and ROOT/tall with values up to `top`, one image half as bright. Returns file -> shares [16, 16, 3]."""
    rng, levels = np.random.default_rng(0), {}
    for kind, name in enumerate(("flat", "tall")):
        (root / name).mkdir(parents=True)
        for n in range(per_class):
            share = stripes(kind, 16, rng) / 255
            share[0, 0], share[-1, -1] = 0, 1
            share = share * (0.5 if n == 1 else 1)
            path = root / name / f"{n}.{suffix}"
            write(path, share if top == 1 else np.rint(share * top) if top > 2 else share * top)
            levels[path] = share
    return levels


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_has_one_scale(tmp_path, run, kind):
    suffix, write, top, scale = KINDS[kind]
    shares = deep_set(tmp_path / "set", suffix, write, top)
    status, checked, _ = run("data", "check", tmp_path / "set")
    assert status == 0 and f"white is {scale:g}" in checked.replace("2147483647", "2.14748e+09")
    assert "nearly black" not in checked
    status, output, errors = run("train", "--data", tmp_path / "set", "--out", tmp_path / "run", *SMALL)
    assert status == 0, errors
    assert f"white is {scale:g}" in output.replace("2147483647", "2.14748e+09")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["images"]["scale"] == scale
    predictor = feathervit.load(tmp_path / "run")
    assert predictor.config.images.scale == scale
    for path, share in shares.items():  # every image follows the same rule, also the dark one
        white = top if suffix != "pgm" else 4095
        want = np.rint(
            (share if top == 1 else share * white).clip(0, scale) * 255 / (scale if suffix != "pgm" else 4095)
        )
        if "zeros" in kind:
            want = 255 * (share > 0.4)
        got = predictor.read(path).permute(1, 2, 0).numpy().astype(int)
        want = want if "colour" in kind else np.repeat(want[..., :1], 3, axis=2)
        assert np.abs(got - want.clip(0, 255)).max() <= 1
    status, out, errors = run("predict", tmp_path / "run", tmp_path / "set", "--json")
    assert status == 0 and errors == ""
    levels = torch.stack([predictor.read(path) for path in sorted(shares)])
    ours = predictor.predict(levels, top=1)
    for theirs, mine in zip(json.loads(out)["predictions"], ours, strict=True):
        assert theirs["classes"][0] == mine.classes[0]
        assert theirs["probabilities"][0] == pytest.approx(mine.probabilities[0], abs=1e-5)


def test_a_small_range_of_values_is_reported(tmp_path, run):
    """Deep images that another scale would fit better, and 8-bit images that are nearly black."""
    deep_set(tmp_path / "deep", "tiff", grey(tiff(np.float32)), 30)
    deep_set(tmp_path / "flat", "png", tiff(np.uint8), 15)
    deep_set(tmp_path / "mixed", "png", grey(tiff(np.uint16)), 65535)
    for path in (tmp_path / "mixed" / "flat").glob("[0-3].png"):
        Image.fromarray((np.asarray(Image.open(path)) // 257).astype(np.uint16)).save(path)
    for name, what in (("deep", "16 of 16 images"), ("flat", "0 to 15 of 255"), ("mixed", "4 of 16 images")):
        status, out, _ = run("data", "check", tmp_path / name)
        assert status == 0 and what in out and "nearly black" in out
        status, out, _ = run("train", "--data", tmp_path / name, "--out", tmp_path / f"{name}-run", *SMALL)
        assert status == 0 and what in out and "nearly black" in out
    status, out, _ = run(
        *("train", "--data", tmp_path / "deep", "--out", tmp_path / "run", "--images.scale", 30, *SMALL)
    )
    assert status == 0 and "nearly black" not in out and "white is 30" in out
    assert feathervit.load(tmp_path / "run").read(tmp_path / "deep" / "flat" / "0.tiff").max() == 255
    _, _, errors = run("predict", tmp_path / "mixed-run", tmp_path / "mixed" / "flat" / "0.png")
    assert "nearly black" in errors
    _, _, errors = run("evaluate", tmp_path / "flat-run")
    assert "nearly black" in errors


def tiff_of(values: np.ndarray, sample_format: int, photometric: int = 1) -> bytes:
    """A TIFF of one strip, grey. sample_format: 1 unsigned, 2 signed, 3 float. photometric: 0 where 0 is white."""
    data, (height, width) = values.tobytes(), values.shape
    fields = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, photometric), (273, 8), (277, 1)]
    fields += [(278, height), (279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(fields)) + entries + bytes(4)


@pytest.mark.parametrize(("dtype", "white"), [("u1", None), ("<u2", 4095.0), ("<f4", 1.0)])
def test_zero_is_white_if_the_file_states_it(tmp_path, dtype, white):
    values = np.linspace(0, white or 255, 256).reshape(16, 16).astype(dtype)
    read = []
    for photometric in (0, 1):
        (tmp_path / "a.tif").write_bytes(tiff_of(values, 3 if "f" in dtype else 1, photometric))
        read.append(open_image(tmp_path / "a.tif", 1, white))
    assert read[1][0, 0, 0] == 0 and torch.equal(read[0], 255 - read[1])


def test_signed_bytes_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff_of(np.arange(-128, 128, dtype=np.int8).reshape(16, 16), 2))
    with pytest.raises(DataError, match="signed"):
        open_image(tmp_path / "a.tif")


def test_some_dark_8_bit_images_are_reported(tmp_path, run):
    """One class has the values 0 and 1, like masks, the other 0 and 255."""

    def masks(path, share):
        tiff(np.uint8)(path, (share > 0.4) * (255 if path.parent.name == "flat" else 1))

    deep_set(tmp_path / "set", "png", grey(masks), 1)
    for argv in (("data", "check", tmp_path / "set"), ("train", "--data", tmp_path / "set", "--out", tmp_path / "a")):
        status, out, _ = run(*argv, *(SMALL if argv[0] == "train" else ()))
        assert status == 0 and "8 of 16 images" in out and "0 to 1 of 255" in out


def test_integers_and_floats_in_one_dataset_are_an_error(tmp_path, run):
    """No single value can be white in both. Check and training give an error that names the flag."""
    deep_set(tmp_path / "set", "tiff", grey(tiff(np.float32)), 1)
    for path in (tmp_path / "set" / "flat").glob("*.tiff"):
        Image.fromarray((np.asarray(Image.open(path)) * 255).astype(np.int32)).save(path)
    status, out, _ = run("data", "check", tmp_path / "set")
    assert status == 1 and "--images.scale" in out
    status, _, errors = run("train", "--data", tmp_path / "set", "--out", tmp_path / "run", *SMALL)
    assert status == 2 and "--images.scale" in errors


def test_values_outside_the_scale_are_reported(tmp_path, run):
    deep_set(tmp_path / "set", "tiff", grey(lambda path, v: tiff(np.int32)(path, v - 100)), 4000)
    for argv in (("data", "check", tmp_path / "set"), ("train", "--data", tmp_path / "set", "--out", tmp_path / "a")):
        status, out, _ = run(*argv, *(SMALL if argv[0] == "train" else ()))
        assert status == 0 and "the least is -100" in out
    status, out, _ = run(
        *("train", "--data", tmp_path / "set", "--out", tmp_path / "b", "--images.scale", 1000, *SMALL)
    )
    assert status == 0 and "above 1000" in out


def test_8_bit_images_do_not_use_the_scale(tmp_path, run):
    """A model of 12 bits reads 8-bit files unchanged. A model of 8 bits reads 16 bits by their full range."""
    shares = deep_set(tmp_path / "deep", "png", grey(tiff(np.uint16)), 4095)
    assert run("train", "--data", tmp_path / "deep", "--out", tmp_path / "run", *SMALL)[0] == 0
    levels = np.rint(next(iter(shares.values())) * 255).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    got = feathervit.load(tmp_path / "run").read(tmp_path / "a.png")
    assert torch.equal(got, torch.from_numpy(levels).permute(2, 0, 1))
    for top in (65535, 4095, 255):
        path = tmp_path / "one.png"
        Image.fromarray(np.full((4, 4), top, np.uint16)).save(path)
        assert open_image(path, 1).max() == round(top / 257)


def test_a_resumed_run_keeps_its_scale(tmp_path, run):
    deep_set(tmp_path / "set", "png", grey(tiff(np.uint16)), 4095)
    argv = ("train", "--out", tmp_path / "run", *SMALL[:-2])
    assert run(*argv, "--data", tmp_path / "set", "--max-minutes", "1e-9", "--threads", 1)[0] == 0
    assert run("train", "--resume", "--out", tmp_path / "run", "--threads", 1)[0] == 0
    assert feathervit.load(tmp_path / "run").config.images.scale == 4095
    status, out, _ = run(
        "train", "--from", tmp_path / "run", "--data", tmp_path / "set", "--out", tmp_path / "on", *SMALL
    )
    assert status == 0 and "images.scale 4095.0: as in the weights" in out


@pytest.mark.parametrize("to", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_exports_accept_the_original_values(tmp_path, run, to):
    shares = deep_set(tmp_path / "set", "png", grey(tiff(np.uint16)), 4095)
    assert run("train", "--data", tmp_path / "set", "--out", tmp_path / "run", *SMALL)[0] == 0
    report = feathervit.export_model(tmp_path / "run", to, tmp_path / "out")
    assert report["agreement"] == 1
    for path in list(shares)[:3]:
        values = np.asarray(Image.open(path)).astype(np.float32)
        values = np.repeat(values[None, ..., None], 3, axis=3)
        if to == "onnx":
            from feathervit.export.verify import probabilities, session

            found = probabilities(session((tmp_path / "out" / "model.onnx").read_bytes()), values)[0]
        else:
            program = torch.export.load(tmp_path / "out" / "model.pt2").module()
            found = program(torch.from_numpy(values))[0].detach().numpy()
        best = feathervit.load(tmp_path / "run").predict(path, top=1)[0]
        assert found.max() == pytest.approx(best.probabilities[0], abs=1e-4)


@pytest.mark.skipif(shutil.which("node") is None, reason="JavaScript is run by Node.js")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_page_reads_16_bits_like_python(tmp_path, channels):
    import subprocess

    rng = np.random.default_rng(0)
    values = rng.integers(0, 4096, (9, 7, channels))
    if channels in (2, 4):
        values[..., -1] = 65535
    if channels == 1:
        Image.fromarray(values[..., 0].astype(np.uint16)).save(tmp_path / "a.png")  # with filters of all kinds
    else:
        png16(tmp_path / "a.png", values)
    page = Path(feathervit.__file__).parent / "export" / "page" / "png.js"
    shutil.copy(page, tmp_path / "png.mjs")
    (tmp_path / "run.mjs").write_text(
        "import { levelsOf } from './png.mjs'; import { readFileSync } from 'node:fs';"
        "const found = await levelsOf(new Blob([readFileSync('a.png')]), 4095);"
        "console.log(JSON.stringify({ ...found, data: [...found.data] }));"
    )
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["width"], found["height"]) == (7, 9)
    got = np.array(found["data"]).reshape(9, 7, 4)
    assert (got[..., 3] == 255).all()
    assert torch.equal(torch.from_numpy(got[..., :3]), open_image(tmp_path / "a.png", 3, 4095).permute(1, 2, 0).long())


# --- changed content


def colours(root: Path, count: int = 6) -> Path:
    """ROOT/dark and ROOT/light with BMP files, all of one size, each with another grey level."""
    for kind, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (16, 16), (100 * kind + 10 * n + 20,) * 3).save(root / name / f"{n}.bmp")
    return root


def keep_time(change):
    """`change(root)` with the modification time of each file restored."""

    def kept(root: Path) -> None:
        times = {path: path.stat().st_mtime_ns for path in root.rglob("*.bmp")}
        change(root)
        for path, time in times.items():
            os.utime(path, ns=(time, time))

    return kept


def exchange(root: Path) -> None:
    a, b = root / "dark" / "1.bmp", root / "light" / "2.bmp"
    a.rename(root / "x"), b.rename(a), (root / "x").rename(b)


def replace_file(root: Path) -> None:
    Image.new("RGB", (16, 16), (250, 0, 0)).save(root / "new.bmp")
    (root / "new.bmp").rename(root / "dark" / "1.bmp")


def overwrite(root: Path) -> None:
    Image.new("RGB", (16, 16), (250, 0, 0)).save(root / "dark" / "1.bmp")


def copy_with_times(root: Path) -> None:
    shutil.copy2(root / "light" / "5.bmp", root / "dark" / "1.bmp")


def link_elsewhere(root: Path) -> None:
    (root / "dark" / "1.bmp").unlink()
    (root / "dark" / "1.bmp").symlink_to(root / "light" / "5.bmp")


CHANGES = [exchange, replace_file, overwrite, copy_with_times, link_elsewhere]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_files_are_decoded_again(tmp_path, run, change):
    """Files change but keep their size and time. Training sees only the new pixels."""
    root = colours(tmp_path / "set")
    first = load_data(root, img_size=16).train.fingerprint()
    keep_time(change)(root)
    for split in (load_data(root, img_size=16).train, load_data(root, img_size=16).val):
        for image, source in zip(split.images, split.sources, strict=True):
            assert torch.equal(image, open_image(root / source))
    assert load_data(root, img_size=16).train.fingerprint() != first
    assert "changed since" not in run("data", "check", root)[1]  # the cache of the old files is not used


def test_check_compares_content_if_times_are_equal(tmp_path, run, monkeypatch):
    """On a file system without inodes and change times, only the content differs."""
    monkeypatch.setattr(cache, "stamp", lambda stat: f"{stat.st_size} {stat.st_mtime_ns}")
    monkeypatch.setattr(folders, "stamp", cache.stamp)
    root = colours(tmp_path / "set")
    load_data(root, img_size=16)
    keep_time(exchange)(root)
    status, out, _ = run("data", "check", root)
    assert status == 0 and "dark/1.bmp" in out and "light/2.bmp" in out
    data = load_data(root, img_size=16)
    for split in (data.train, data.val):
        for image, source in zip(split.images, split.sources, strict=True):
            assert torch.equal(image, open_image(root / source))
    status, out, _ = run("data", "check", root)
    assert "changed since" not in out

"""From files of every kind to pixels, against Pillow, torchvision and literal values."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from feathervit.data import opening
from feathervit.data.image import (
    ImageError,
    examined,
    fit_square,
    header,
    normalise,
    open_image,
    quiet,
    resize,
    to_stored,
)
from feathervit.errors import DataError

from .images import png


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A real photograph of 427 x 640 pixels."""
    return Image.fromarray(load_sample_images().images[0])


def chw(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array)[None] if array.ndim == 2 else torch.from_numpy(array).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("webp", {"lossless": True}),
        ("bmp", {}),
        ("tiff", {}),
        ("ppm", {}),
        ("tif", {"compression": "tiff_lzw"}),
    ],
)
def test_lossless_formats_keep_every_pixel(tmp_path, photograph, suffix, options):
    path = tmp_path / f"a.{suffix}"
    photograph.save(path, **options)
    assert torch.equal(open_image(path), chw(photograph))
    assert header(path) == (640, 427, "RGB")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_equals_pillow(tmp_path, photograph, options):
    path = tmp_path / "a.jpg"
    photograph.save(path, quality=90, **options)
    assert torch.equal(open_image(path), chw(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, photograph, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    photograph.save(path, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path))
    got = open_image(path)
    assert torch.equal(got, chw(upright))
    assert (got.shape[1] > got.shape[2]) == (orientation >= 5)


def test_damaged_exif_is_ignored(tmp_path, photograph):
    path = tmp_path / "a.jpg"
    photograph.save(path, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff nonsense")
    with quiet():
        assert open_image(path).shape == (3, 427, 640)


def test_grey_becomes_rgb_and_rgb_becomes_luma(tmp_path, photograph):
    grey = photograph.convert("L")
    grey.save(tmp_path / "grey.png")
    photograph.save(tmp_path / "rgb.png")
    assert torch.equal(open_image(tmp_path / "grey.png", 3), chw(grey).expand(3, -1, -1))
    assert torch.equal(open_image(tmp_path / "grey.png", 1), chw(grey))
    assert torch.equal(open_image(tmp_path / "rgb.png", 1), chw(grey))


def test_transparency_is_composited_over_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[0, :, 3] = [255, 0, 51]  # opaque, clear, a fifth
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = open_image(tmp_path / "a.png")
    assert got[:, 0, 0].tolist() == [200, 0, 0]
    assert got[:, 0, 1].tolist() == [255, 255, 255]
    assert got[:, 0, 2].tolist() == [244, 204, 204]  # 255 - (255 - c) / 5
    Image.fromarray(pixels[..., [0, 3]]).save(tmp_path / "la.png")
    assert open_image(tmp_path / "la.png", 1)[0, 0].tolist() == [200, 255, 244]


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "p.png")
    assert open_image(tmp_path / "p.png")[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    image.save(tmp_path / "t.png", transparency=1)
    assert open_image(tmp_path / "t.png")[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_cmyk_and_one_bit(tmp_path, photograph):
    photograph.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    want = chw(Image.open(tmp_path / "a.jpg").convert("RGB"))
    assert torch.equal(open_image(tmp_path / "a.jpg"), want)
    assert (want.float() - chw(photograph).float()).abs().mean() < 4  # and not inverted
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    assert open_image(tmp_path / "b.png", 1)[0].tolist() == [[255, 0]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 1000, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    got = open_image(tmp_path / f"a.{suffix}", 1)[0, 0].tolist()
    assert got == [0, 0, 1, 1, 4, 128, 255]  # value / 257, rounded


def test_thirty_two_bits_and_floats(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], np.int32)).save(tmp_path / "i.tiff")
    assert open_image(tmp_path / "i.tiff", 1)[0, 0].tolist() == [0, 1, 255]
    Image.fromarray(np.array([[0, 2**30, 2**31 - 1]], np.int32)).save(tmp_path / "j.tiff")
    assert open_image(tmp_path / "j.tiff", 1, 2**31 - 1)[0, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0, 0.5, 1, np.nan]], np.float32)).save(tmp_path / "f.tiff")
    assert open_image(tmp_path / "f.tiff", 1)[0, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
    assert open_image(tmp_path / f"a.{suffix}")[:, 3, 3].tolist() == [255, 0, 0]


def test_bytes_and_pil_images_are_read_like_files(tmp_path, photograph):
    photograph.save(tmp_path / "a.png")
    want = open_image(tmp_path / "a.png")
    assert torch.equal(open_image((tmp_path / "a.png").read_bytes()), want)
    assert torch.equal(open_image(photograph), want)
    assert photograph.size == (640, 427)  # the caller's image is still open


def test_fit_square():
    x = torch.arange(15, dtype=torch.uint8).view(1, 3, 5)
    assert torch.equal(fit_square(x, "crop"), x[:, :, 1:4])
    assert torch.equal(fit_square(x.mT, "crop"), x.mT[:, 1:4])
    padded = fit_square(x, "pad")
    assert padded.shape == (1, 5, 5)
    assert torch.equal(padded[:, 1:4], x)
    assert padded[:, [0, 4]].sum() == 0
    assert fit_square(x, "stretch") is x


@pytest.mark.parametrize("size", [20, 64, 200, 700])
def test_resize_equals_torchvisions_antialiased_bilinear(photograph, size):
    x = chw(photograph)[:, :300, :400]
    want = tvf.resize(x.float(), [size, size], antialias=True).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(resize(x, size), want)
    pil = photograph.crop((0, 0, 400, 300)).resize((size, size), Image.Resampling.BILINEAR)
    assert (resize(x, size).int() - chw(pil).int()).abs().max() <= 1


def test_resize_in_pieces_equals_resize_at_once(photograph, monkeypatch):
    big = chw(photograph.resize((4200, 4100)))  # above 16 million pixels: plane by plane
    want = tvf.resize(big.float(), [50, 50], antialias=True).round().to(torch.uint8)
    assert torch.equal(resize(big, 50), want)
    batch = torch.stack([big[:, :64, :64], big[:, 64:128, :64]])
    assert torch.equal(resize(batch, 32)[1], resize(batch[1], 32))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_draft_decoding_keeps_the_position(tmp_path, photograph, fit, orientation):
    """Sides that are not multiples of 8, odd margins and any orientation give the same part of the image at any scale."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph.save(tmp_path / "a.jpg", quality=95, exif=exif)  # 640 x 427
    whole = fit_square(open_image(tmp_path / "a.jpg"), fit)
    for size in (16, 24, 36, 64, 96):
        difference = (to_stored(tmp_path / "a.jpg", size, 3, fit).int() - resize(whole, size).int()).abs().float()
        assert 0 < difference.mean() < 0.8


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_draft_decoding_changes_little(tmp_path, photograph, fit):
    large = photograph.resize((2560, 1708), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=95)
    want = resize(fit_square(chw(Image.open(tmp_path / "a.jpg")), fit), 64)
    got = to_stored(tmp_path / "a.jpg", 64, 3, fit)
    assert got.shape == (3, 64, 64)
    assert not torch.equal(got, want)  # the draft was used
    assert (got.int() - want.int()).abs().float().mean() < 0.8


def test_normalise():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 1, 1)
    torch.testing.assert_close(normalise(x, (0.5,), (0.5,))[0, :, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    got = normalise(x, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))[1, :, 0, 0]
    torch.testing.assert_close(got, torch.tensor([-0.2, 0.0, 0.35]))
    assert torch.equal(normalise(x[0], (0.5,), (0.5,)), normalise(x, (0.5,), (0.5,))[0])


def test_unreadable_files_are_named_with_the_reason(tmp_path, photograph, monkeypatch):
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG")
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[:5000])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    photograph.save(tmp_path / "page.eps")
    for name, why in [
        ("half.jpg", "truncated"),
        ("text.jpg", "not an image of a known format"),
        ("empty.png", "an empty file"),
        ("bomb.png", "take 23.5 gib"),
        ("page.eps", "not an image of a known format"),
        ("none.png", "no such file"),
    ]:
        with pytest.raises(ImageError) as error:
            to_stored(tmp_path / name, 32)
        assert str(tmp_path / name) in str(error.value)
        assert why in error.value.why.lower()
        assert "\n" not in str(error.value)
        assert isinstance(error.value, DataError)


@pytest.mark.parametrize("kind", ["png", "jpg", "progressive.jpg", "grey.png", "1.png", "P.png", "tif"])
def test_memory_of_a_decoded_image_is_limited(tmp_path, kind):
    """The limit counts memory, not pixels: as decoded, and as three channels. A JPEG is decoded at a fraction."""
    path, side = tmp_path / f"large.{kind}", 2000
    x = np.random.default_rng(0).integers(0, 256, (side // 20, side // 20, 3), dtype=np.uint8)
    mode = {"grey.png": "L", "1.png": "1", "P.png": "P"}.get(kind, "RGB")
    whole = Image.fromarray(x).resize((side, side)).convert(mode)
    whole.save(path, **({"progressive": True} if "progressive" in kind else {}))
    gib = side * side / 2**30  # a byte per pixel
    needs = {"png": 7, "jpg": 7 / 64, "progressive.jpg": 2 * 1.5 + 7 / 64, "tif": 7}.get(kind, 4)
    assert to_stored(path, 64, max_gib=1.01 * needs * gib).shape == (3, 64, 64)
    with pytest.raises(ImageError, match="--max-image-gib"):
        to_stored(path, 64, max_gib=0.99 * needs * gib)
    with pytest.raises(ImageError, match="2000 x 2000 pixels take"):
        open_image(path, max_gib=0.9 * gib)
    if "jpg" in kind:  # data check accepts the same images as training
        with examined(path, 3, max_gib=1.01 * needs * gib) as (x_CHW, _, _):
            assert x_CHW.shape == (3, 250, 250)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="measures the peak as Linux does")
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_the_memory_that_is_used_is_the_memory_that_is_counted(tmp_path, mode):
    def memory(line: str) -> int:
        return 1024 * int(re.search(rf"{line}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    image = Image.new(mode, (5000, 5000))
    image.save(tmp_path / "large.png", compress_level=1, **({"transparency": 0} if mode == "P" else {}))
    image.close()
    open_image(Image.new(mode, (8, 8)))
    opening.return_memory()
    Path("/proc/self/clear_refs").write_text("5")  # starts the measurement of the peak again
    before = memory("VmRSS")
    assert open_image(tmp_path / "large.png").shape == (3, 5000, 5000)
    with Image.open(tmp_path / "large.png") as image:
        counted = opening.decoded_bytes(image, image.size, 3)
    assert memory("VmHWM") - before < 1.4 * counted


def test_pils_own_limit_is_ignored_and_unchanged(tmp_path, photograph, monkeypatch):
    photograph.save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            assert len({x.shape for x in pool.map(open_image, [tmp_path / "large.png"] * 8)}) == 1
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("suffix", "name"), [("avif", "AVIF"), ("jp2", "JPEG2000"), ("j2k", "JPEG2000"), ("heic", "HEIF")]
)
def test_optional_formats_of_pillow(tmp_path, photograph, suffix, name):
    if name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if name not in opening.FORMATS:
        pytest.skip(f"this Pillow has no {name}")
    photograph.save(tmp_path / f"a.{suffix}", **({} if name == "JPEG2000" else {"quality": 90}))
    assert header(tmp_path / f"a.{suffix}")[:2] == (640, 427)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert torch.equal(open_image(tmp_path / f"a.{suffix}"), chw(image.convert("RGB")))
    if name == "JPEG2000":  # lossless
        assert torch.equal(open_image(tmp_path / f"a.{suffix}"), chw(photograph))


def test_other_channel_counts_are_refused(photograph):
    with pytest.raises(DataError, match="1 or 3 channels, not 4"):
        open_image(photograph, 4)


def test_threads_share_the_memory_budget(monkeypatch):
    budget = opening.Budget(100)
    inside, most, lock = [0], [0], threading.Lock()

    def work():
        for pixels in (40, 60, 1000):  # the last is larger than the budget and must not wait forever
            with budget.share(pixels):
                with lock:
                    inside[0] += min(pixels, 100)
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= min(pixels, 100)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 100
    assert budget.free == 100

"""Near-duplicates are found in other encodings, sizes and brightness, and mirrored. Other images are not reported."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_digits, load_sample_images

from feathervit.data.check import check_data
from feathervit.data.similar import alike, thumbnail


def photographs() -> list[Image.Image]:
    """Eleven different parts of two photographs. A twelfth is left out, because it has nearly one colour."""
    wholes = [Image.fromarray(x) for x in load_sample_images().images]
    boxes = [(x, y, x + 150, y + 140) for x in (0, 210, 420) for y in (0, 230)]
    return [part for whole in wholes for box in boxes if np.std(part := whole.crop(box)) > 15]


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=35)
    return Image.open(buffer).convert("RGB")


CHANGES = {
    "jpeg": jpeg,
    "half the size": lambda x: x.resize((x.width // 2, x.height // 2)),
    "larger": lambda x: x.resize((x.width * 3, x.height * 3)),
    "brighter": lambda x: ImageEnhance.Brightness(x).enhance(1.2),
    "less contrast": lambda x: ImageEnhance.Contrast(x).enhance(0.7),
    "mirrored": ImageOps.mirror,
    "noise": lambda x: Image.fromarray(
        (np.asarray(x) + np.random.default_rng(0).normal(0, 6, (x.height, x.width, 3))).clip(0, 255).astype(np.uint8)
    ),
}


def thumbnails(images: list[Image.Image]) -> list:
    return [thumbnail(torch.from_numpy(np.array(x)).permute(2, 0, 1)) for x in images]


@pytest.mark.parametrize("change", CHANGES)
def test_only_changed_copies_are_found(change):
    whole = photographs()
    found = alike(thumbnails(whole), thumbnails([CHANGES[change](x) for x in whole]))
    assert found == [(i, i) for i in range(len(whole))]
    assert alike(thumbnails(whole)) == []
    assert alike(thumbnails([*whole, CHANGES[change](whole[3])])) == [(3, len(whole))]


def test_images_with_little_content_do_not_match():
    flat = [Image.new("RGB", (20, 20), (level,) * 3) for level in (0, 3, 120, 255)]
    assert alike(thumbnails(flat)) == [] and alike([]) == [] and alike(thumbnails(flat), []) == []
    digits = torch.from_numpy(load_digits().images[:300] * 15).to(torch.uint8)[:, None]
    assert len(alike([thumbnail(x) for x in digits])) < 10  # digits of one writer may match


def test_data_check_reports_near_duplicates(run, tmp_path):
    whole = photographs()
    for i, image in enumerate(whole):
        path = tmp_path / "set" / ("train" if i < 8 else "test") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    assert check_data(tmp_path / "set").near_duplicates == []
    jpeg(whole[1]).save(tmp_path / "set" / "test" / "a" / "copy.webp", lossless=True)
    whole[2].save(tmp_path / "set" / "test" / "a" / "same.png")  # equal pixels, which are reported as such
    status, output, _ = run("data", "check", tmp_path / "set", "--json")
    report = json.loads(output)
    assert report["near_duplicates"] == [["train/b/1.png", "test/a/copy.webp"]]
    assert report["across_splits"] == [["train/a/2.png", "test/a/same.png"]]
    (tmp_path / "set" / "test" / "a" / "same.png").unlink()
    status, output, _ = run("data", "check", tmp_path / "set")
    assert status == 0 and "train/b/1.png ~ test/a/copy.webp" in output
    Path(tmp_path / "set" / "test" / "a" / "copy.webp").rename(tmp_path / "set" / "train" / "a" / "copy.webp")
    _, output, _ = run("data", "check", tmp_path / "set" / "train")
    assert "train" not in output.split("nearly the same image twice")[1] and "a/copy.webp ~ b/1.png" in output

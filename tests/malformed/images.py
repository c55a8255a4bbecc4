"""Files that are not images, or whose headers are false. tests/data/test_damage.py has damage of every format."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.images import chunk, png
from .case import Case, Make, file

PREDICT = "predict {world}/run {here}/"
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(NOISE).save(out, kind)
    return out.getvalue()


def tiff(width: int, height: int, **more: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 100} | {
        int(k[1:]): v for k, v in more.items()
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + b"\0" * 64


ZEROS = zlib.compress(b"\0" * 50_000_000)  # fifty megabytes in fifty kilobytes

FILES = {
    "empty": b"",
    "a text called .png": b"this is an image of my cat",
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "half a JPEG": encoded("JPEG")[:900],
    "a PNG of 10 gigapixels": png(100_000, 100_000),
    "a PNG of the largest sides": png((1 << 31) - 1, (1 << 31) - 1),
    "a PPM of a size of 40 digits": b"P6 " + b"9" * 40 + b" 1 255\n" + b"\0" * 99,
    "a PNG without pixels": png(16, 16),
    "a PNG with a damaged checksum": encoded("PNG")[:40] + b"\xff\xff" + encoded("PNG")[42:],
    "a PNG with a text of 50 MB": png(16, 16, data=b"", more=chunk(b"zTXt", b"a\0\0" + ZEROS)),
    "a TIFF whose pixels lie elsewhere": tiff(16, 16, t273=1 << 30),
}


def linked(target: str) -> Make:
    return lambda here, world: (here / "x.png").symlink_to(here / target)


NOT_FILES = [
    ("that is missing", PREDICT + "gone.png", ["gone.png", "no such file"], None, 1),
    ("that is a link to nothing", PREDICT + "x.png", ["x.png", "no such file"], linked("gone.png"), 1),
    ("that is a link to itself", PREDICT + "x.png", ["x.png", "symbolic links"], linked("x.png"), 1),
    ("with a name of 5000 letters", ["predict", "{world}/run", "p" * 5000], ["name too long"], None, 2),
    ("below an image", "predict {world}/run {world}/good.png/x.png", ["x.png", "not a directory"], None, 1),
    ("that is an empty folder", PREDICT + "x.png", ["no images in"], lambda here, world: (here / "x.png").mkdir(), 2),
    ("that is a pipe", PREDICT + "x.png", ["x.png"], lambda here, world: os.mkfifo(here / "x.png"), 1),
]
VERBS = {
    "attention": ("plot attention {world}/run {here}/x.png --out {here}/a.png", 2),
    "routing": ("plot routing {world}/run {world}/good.png {here}/x.png --out {here}/a.png", 2),
    "reconstructions": ("plot reconstructions {world}/pretrained {here}/x.png --out {here}/a.png", 2),
}


def wide(here: Path, world: Path) -> None:
    """Few pixels, but 3,600 million after padding to a square."""
    Image.new("L", (60_000, 2)).save(here / "x.png")
    from feathervit import checkpoint

    tensors, meta = checkpoint._read(world / "run" / "best.safetensors")
    meta["config"]["images"]["fit"] = "pad"
    (here / "w.safetensors").write_bytes(checkpoint._pack(tensors, meta))


CASES = [
    *(
        Case(f"image: {what}", PREDICT + "x.png", ["cannot read", "x.png"], file("x.png", data), 1)
        for what, data in FILES.items()
    ),
    *(
        Case(f"image: {what}", argv, texts, make or (lambda here, world: None), status)
        for what, argv, texts, make, status in NOT_FILES
    ),
    *(
        Case(f"image: {what}, for {verb}", argv, ["cannot read", "x.png"], file("x.png", FILES[what]), status)
        for verb, (argv, status) in VERBS.items()
        for what in ("half a JPEG", "a PNG of 10 gigapixels")
    ),
    *(Case(f"image: missing, for {verb}", argv, ["x.png"]) for verb, (argv, _) in VERBS.items()),
    Case(
        "image: a line padded to a square",
        "predict {here}/w.safetensors {here}/x.png",
        ["x.png", "--max-image-gib"],
        wide,
        1,
    ),
]

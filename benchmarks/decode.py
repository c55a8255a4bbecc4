"""Measures the speed of decoding a folder of 12-megapixel photographs through an empty cache.

The photographs are JPEG files (quality 90, 4:2:0): the two sample photographs of scikit-learn, enlarged, with noise like that
of a sensor. They are stored at 148 px (for a 128 px input). The script prints images/s, the peak memory of decoding, and the
time for 3,000 images at this rate. For comparison, it prints the rate of plain Pillow (full decode, one thread).

    python benchmarks/decode.py [--count 24] [--kind jpg|progressive|png] [--img-size 128]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from feathervit.benchmark.memory import peak_bytes
from feathervit.results import commit, machine, write_json

WIDTH, HEIGHT = 4000, 3000


def make(folder: Path, count: int, kind: str) -> None:
    """Writes `count` photographs in two classes."""
    from sklearn.datasets import load_sample_images

    photographs = [
        Image.fromarray(x).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for x in load_sample_images().images
    ]
    chance = np.random.default_rng(0)
    for i in range(count):
        noise = chance.normal(0, 6, (HEIGHT, WIDTH, 1)).astype(np.float32)
        pixels = np.asarray(photographs[i % 2]).astype(np.float32) + noise
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        place = folder / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        if kind == "png":
            image.save(place / f"{i}.png", compress_level=1)
        else:
            image.save(place / f"{i}.jpg", quality=90, progressive=kind == "progressive")


def measure(folder: Path, img_size: int) -> dict[str, float]:
    """Decodes all images once. Runs in a separate process, so that its peak memory is that of decoding."""
    from feathervit.config import SplitConfig
    from feathervit.data import load_data

    start_mb = peak_bytes() / 1e6
    start = time.perf_counter()
    data = load_data(folder, img_size=img_size, split=SplitConfig(val_fraction=0))
    seconds = time.perf_counter() - start
    return {"count": len(data.train), "seconds": seconds, "peak_mb": peak_bytes() / 1e6, "start_mb": start_mb}


def peer(folder: Path, img_size: int, count: int) -> float:
    """Measures seconds per image of plain Pillow: full decode, crop, one antialiased resize."""
    files = sorted(folder.rglob("*.*"))[:count]
    start = time.perf_counter()
    for file in files:
        with Image.open(file) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            box = (left, top, left + side, top + side)
            image.convert("RGB").resize((img_size, img_size), Image.Resampling.BILINEAR, box=box)
    return (time.perf_counter() - start) / len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--kind", choices=("jpg", "progressive", "png"), default="jpg")
    parser.add_argument("--img-size", type=int, default=128)
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.img_size)))
    else:
        report(args)


def report(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photographs"
        environment = os.environ | {"FEATHERVIT_CACHE": str(Path(temporary) / "cache")}
        make(folder, args.count, args.kind)
        command = [sys.executable, __file__, "--img-size", str(args.img_size), "--measure", str(folder)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout)
        megabytes = sum(f.stat().st_size for f in folder.rglob("*.*")) / args.count / 1e6
        pillow_seconds = peer(folder, args.img_size, min(args.count, 8))
    rate = figures["count"] / figures["seconds"]
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "what": f"{args.count} {args.kind} of {WIDTH} x {HEIGHT}, {megabytes:.1f} MB each, decoded through the cache",
        "machine": machine(),
        "pictures_per_s": rate,
        "peak_mb": figures["peak_mb"],
        "peak_mb_before_the_first": figures["start_mb"],
        "plain_pillow_one_thread_per_s": 1 / pillow_seconds,
        "ratio": rate * pillow_seconds,
        "seconds_for_3000": 3000 / rate,
    }
    for name, value in record.items():
        print(f"{name}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    main()

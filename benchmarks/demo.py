"""Measures the gain from pre-training with ten labels per class, over several seeds of `feathervit demo`.

The data is scikit-learn's handwritten digits. Labelled images, masks and weights differ between seeds.

    python benchmarks/demo.py --seeds 0,1,2,3,4 --out results/demo.json
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from feathervit.demo import run
from feathervit.results import commit, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/demo.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for seed in map(int, args.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(Path(folder), seed, Console(quiet=True)))
        top1 = {name: f"{100 * value:.2f} %" for name, value in rows[-1]["top1"].items()}
        print(f"seed {seed}: {top1}, {rows[-1]['minutes']:.1f} min", flush=True)
        write_json(args.out, {"command": shlex.join(["python", *sys.argv]), "commit": commit(), "rows": rows})
    for other in ("scratch", "raw_pixel_1nn"):
        gains = [100 * (row["top1"]["fine_tuned"] - row["top1"][other]) for row in rows]
        print(f"fine-tuned over {other}: {statistics.mean(gains):.2f} points (least {min(gains):.2f})")


if __name__ == "__main__":
    main()

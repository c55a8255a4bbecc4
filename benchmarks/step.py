"""Compares the time of a training step in this checkout and in another checkout, on the CPU.

A step on random images includes augmentation, forward, backward, optimiser and averaging, with the Trainer of each checkout.
Processes alternate. The result of a checkout is the median over rounds of the median step, in CPU time of one thread.

    git worktree add ../before 185005e
    python benchmarks/step.py ../before --out results/step.json
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

PROBE = """
import json, statistics, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from rich.console import Console
from feathervit.data import load_data
from feathervit.models import build_model
from feathervit.recipes import recipe
from feathervit.training.distributed import join
try:
    from feathervit.config import from_dict, resolve, set_fields, to_dict, EncoderConfig
except ImportError:
    from feathervit.fields import from_dict, to_dict
    from feathervit.config import EncoderConfig
    from feathervit.training.setup import resolve, set_fields
torch.set_num_threads(1)
case = json.loads(sys.argv[1])
fields = case["fields"]
if "arch" in fields:
    fields["arch"] = from_dict(EncoderConfig, fields["arch"])
config = resolve(set_fields(recipe(case["recipe"]), {**fields, "device": "cpu"}))
size, chans = case["stored"]
rng = np.random.default_rng(0)
shape = (512, size, size, chans) if chans > 1 else (512, size, size)
arrays = rng.integers(0, 256, shape, dtype=np.uint8), np.arange(512) % case["classes"]
data = load_data(arrays, img_size=config.img_size, images=config.images, split=config.split,
                 labelled=config.objective != "reconstruction")
dtype = getattr(torch, case["precision"])
with join("cpu") as group, tempfile.TemporaryDirectory() as folder:
    model = build_model(config, chans, case["classes"], train=True)
    words = {"device": torch.device("cpu"), "dtype": dtype, "group": group}
    try:
        from feathervit.training.trainer import Trainer
        trainer = Trainer(config, data, model, note=print, **words)
    except ImportError:
        from feathervit.training.loop import Trainer
        trainer = Trainer(config, data, model, Path(folder), console=Console(quiet=True), identity={}, max_minutes=None,
                          **words)
    seconds = []
    for step in range(case["steps"] + 2):
        started = time.process_time()
        trainer.train_step(step, 1e-3)
        seconds.append(time.process_time() - started)
print(json.dumps(statistics.median(seconds[2:])))
"""

STEM = {
    "dim": 96,
    "depth": 9,
    "attention": {"kind": "GQA", "heads": 6, "kv_heads": 2},
    "feedforward": {"kind": "ConvMLP", "ratio": 2.0, "reduction": 0},
    "patches": {"kind": "ConvStem", "layers": 3},
    "readout": "mean",
}
CASES = {
    "mae_digits": {"recipe": "mae_digits", "stored": (8, 1), "classes": 10, "steps": 10, "fields": {"arch.depth": 6}},
    "mlit_xxs, 36 px, 144 patches, batch 128": {
        "recipe": "mlit_cifar100",
        "stored": (36, 3),
        "classes": 100,
        "steps": 4,
        "fields": {"model": "mlit_xxs", "img_size": 36, "patch_size": 3, "batch_size": 128},
    },
    "feather_xxs of 185005e, 32 px, batch 64": {
        "recipe": "feather_cifar100",
        "stored": (32, 3),
        "classes": 100,
        "steps": 8,
        "fields": {"model": "feather_xxs", "arch": STEM, "img_size": 32, "patch_size": 4, "batch_size": 64},
    },
    "quarter-width ResNet-18, 32 px, batch 64": {
        "recipe": "feather_cifar100",
        "stored": (32, 3),
        "classes": 100,
        "steps": 8,
        "fields": {"model": "timm:resnet18_xxs", "img_size": 32, "patch_size": None, "batch_size": 64},
    },
}


def seconds(checkout: Path, case: dict, precision: str) -> float:
    """Measures the median CPU seconds of a step in `checkout`."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE, json.dumps({**case, "precision": precision})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=checkout)
    if done.returncode:
        raise SystemExit(f"the step failed in {checkout}:\n{done.stderr}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="precision of this checkout"
    )
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    this, rows = Path(__file__).resolve().parents[1], {}
    for name, case in CASES.items():
        times: dict[str, list[float]] = {"before": [], "after": []}
        for _ in range(args.rounds):
            times["before"].append(seconds(args.other, case, "float32"))
            times["after"].append(seconds(this, case, args.precision))
        before, after = (1000 * statistics.median(times[key]) for key in ("before", "after"))
        rows[name] = {"before_ms": before, "after_ms": after, "ratio": before / after}
        print(f"{name}: {before:.0f} ms before, {after:.0f} ms after, {before / after:.2f} x", flush=True)
    if args.out:
        from feathervit.results import commit, machine, public_command, write_json

        command = f"python benchmarks/step.py {public_command(shlex.join(sys.argv[1:]))}"
        facts = {
            "command": command,
            "commit": commit(),
            "machine": machine(),
            "threads": 1,
            "precision": args.precision,
        }
        write_json(args.out, {**facts, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()

"""Measures the test accuracy of one training command over several seeds, and copies the results to results/NAME/.

    python scripts/seeds.py digits 0,1,2 --recipe digits --threads 1

All arguments after the seeds are passed to `feathervit train`. The script prints mean, range and minutes of all finished seeds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from feathervit.cli import main
from feathervit.files import write_bytes
from feathervit.results import read_result

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, seeds: list[int], flags: list[str]) -> None:
    folder = ROOT / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        with tempfile.TemporaryDirectory() as out:
            if status := main(["train", *flags, "--seed", str(seed), "--out", out]):
                raise SystemExit(status)
            result = read_result(Path(out) / "result.json")
            text = (Path(out) / "result.json").read_text()
        for private in (out, result.data["name"]) if "/" in result.data["name"] else (out,):
            text = text.replace(private, Path(private).name)  # remove the paths of this machine
        write_bytes(folder / f"seed-{seed}.json", text.encode())
    results = [read_result(path) for path in sorted(folder.glob("seed-*.json"))]
    top1 = [r.test["top1"] for r in results]
    print(
        f"{name}: top-1 {100 * statistics.mean(top1):.2f} % (from {100 * min(top1):.2f} to {100 * max(top1):.2f}, "
        f"{len(results)} seeds, n {results[0].test['n']}); {statistics.mean(r.minutes for r in results):.1f} minutes each, "
        f"{results[0].threads} threads"
    )


if __name__ == "__main__":
    run(sys.argv[1], [int(seed) for seed in sys.argv[2].split(",")], sys.argv[3:])

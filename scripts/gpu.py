"""Runs tests, benchmarks and rows of the papers' tables, in this order, within given minutes on a machine with a GPU.

    python scripts/gpu.py --minutes 9 --data SETS --out OUT        (make gpu MINUTES=9 DATA=SETS OUT=OUT)

Each step is a separate process with a time limit, and a failure does not stop the next step. OUT/STEP.log holds the output of a
step, OUT/STEP.json the result of a benchmark, OUT/papers the rows, and OUT/steps.json the status of all steps. A second call
skips finished steps, and resumes the rows. No network is needed, because every step has the pure-Python wheels in wheels/ on
its path.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST = 10.0  # minimum remaining seconds for the start of a step
COMPILING = 75.0  # the same for a step that compiles its model
GRACE = 10.0  # seconds between the request to stop, when a run saves its state, and the kill
START = 20.0  # seconds of a row outside its time limit, for imports and the final evaluation
SPEEDS = {  # step: flags of `benchmark train`; batch size, augmentation and optimiser come from the recipe
    "mlit-xxs": ("--recipe", "mlit_cifar100", "--model", "mlit_xxs"),
    "vit-xxs": ("--recipe", "mlit_cifar100", "--model", "timm:vit_twin_xxs"),  # ViT of timm in the size of mlit_xxs
    "mae-xxs": ("--recipe", "mae_cifar100_xxs"),
    "mlit-s": ("--recipe", "mlit_cifar100", "--model", "mlit_s"),
    "vit-s": ("--recipe", "mlit_cifar100", "--model", "timm:vit_twin_s"),
    "mae-s": ("--recipe", "mae_cifar100_s"),
    "feather-xxs": ("--recipe", "feather_cifar100", "--model", "feather_xxs"),
}
GPU_TESTS = (  # the other files need packages that such a machine may lack
    "tests/test_gpu.py",
    "tests/data/test_augment.py",
    "tests/data/test_feed.py",
    "tests/data/test_moving.py",
    "tests/evaluation/test_inference.py",
)
ROWS = ("mlit-xxs-cifar100", "mlit-xs-cifar100", "mlit-s-cifar100", "feather-xxs-cifar100", "mae-xxs")


@dataclass(frozen=True)
class Step:
    """One process. In `command`, {minutes} is replaced with the available minutes.

    `seconds`: time limit. `until`: latest end, in seconds after the start of the first step. `continues`: a later call runs
    the step again. `least`: minimum remaining seconds for the start.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    until: float
    continues: bool = False
    least: float = LEAST


@dataclass
class Record:
    """The outcome of a step. `status`: done, failed, out of time, or not started."""

    name: str
    status: str
    seconds: float = 0.0
    limit: float = 0.0
    exit_code: int | None = None
    command: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """The scale of the steps: extra flags for each kind of step. The defaults are for a GPU."""

    device: str = "cuda"
    forms: tuple[tuple[str, str], ...] = (("eager", "off"), ("compiled", "reduce-overhead"))
    tests: tuple[str, ...] = ("-m", "gpu", *GPU_TESTS)
    speed: tuple[str, ...] = ()
    mixture: tuple[str, ...] = ()
    augment: tuple[str, ...] = ()
    row: tuple[str, ...] = ()


def row_command(row: str, data: Path, out: Path) -> tuple[str, ...]:
    """Returns the command that trains or resumes a row of the papers' tables with one seed."""
    arguments = ("study", "papers", "--arms", row, "--seeds", "0", "--data", str(data), "--out", str(out / "papers"))
    return ("-m", "feathervit", *arguments, "--retry-failed", "--max-minutes", "{minutes}")


def plan(minutes: float, out: Path, data: Path | None = None, scale: Scale | None = None) -> list[Step]:
    """Plans the steps for `minutes`, in order, with their limits. Without `data`, no rows are trained."""
    scale, total = scale or Scale(), 60 * minutes
    on_device = ("--device", scale.device)
    tests = min(90.0, total / 5)
    steps = [Step("tests", ("-m", "pytest", "-v", "-p", "no:cacheprovider", *scale.tests), tests, tests)]
    for form, mode in scale.forms:  # eager first, because it needs no compile time
        for name, flags in SPEEDS.items():
            arguments = ("benchmark", "train", *flags, *on_device, "--compile", mode, *scale.speed)
            command = ("-m", "feathervit", *arguments, "--out", str(out / f"speed-{name}-{form}.json"))
            seconds, least = (45.0, LEAST) if mode == "off" else (120.0, COMPILING)
            steps.append(Step(f"speed-{name}-{form}", command, seconds, 0.6 * total, least=least))
    mixture = ("benchmarks/moe.py", *on_device, *scale.mixture, "--out", str(out / "mixture.json"))
    augment = ("benchmark", "augment", *on_device, *scale.augment, "--out", str(out / "augment.json"))
    steps += [
        Step("mixture", mixture, 60.0, 0.7 * total),
        Step("augment", ("-m", "feathervit", *augment), 40.0, 0.75 * total),
    ]
    if data is not None:
        end = total - GRACE
        rows = [Step(row, (*row_command(row, data, out), *scale.row), end, end, continues=True) for row in ROWS]
        steps += rows
    return steps


def run(steps: list[Step], out: Path, wheels: Path | None = None) -> list[Record]:
    """Runs the steps in order. Writes OUT/steps.json after each step."""
    out.mkdir(parents=True, exist_ok=True)
    state = out / "steps.json"
    known = {record["name"]: Record(**record) for record in json.loads(state.read_text())} if state.exists() else {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as packages:
        for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
            zipfile.ZipFile(wheel).extractall(packages)
        paths = (str(ROOT), packages, os.environ.get("PYTHONPATH", ""))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        for step in steps:
            before = known.get(step.name)
            if before and before.status == "done" and not step.continues:
                continue
            limit = min(step.seconds, step.until - (time.monotonic() - began))
            if limit < min(step.least, step.seconds):
                known.setdefault(step.name, Record(step.name, "not started"))
            else:
                known[step.name] = _run(step, limit, out, environment)
            record = known[step.name]
            print(f"{step.name:<28} {record.status:<12} {record.seconds:6.1f} s of {limit:.0f}", flush=True)
            _write(state, list(known.values()))
    return [known[step.name] for step in steps]


def _run(step: Step, limit: float, out: Path, environment: dict[str, str]) -> Record:
    minutes = f"{max(limit - START, 1.0) / 60:.3f}"
    command = [sys.executable, *(word.replace("{minutes}", minutes) for word in step.command)]
    began = time.monotonic()
    with (out / f"{step.name}.log").open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that child processes end with it
        )
        try:
            status = "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            _end(process)
    return Record(step.name, status, round(time.monotonic() - began, 1), round(limit, 1), process.returncode, command)


def _end(process: subprocess.Popen) -> None:
    """Stops the process and its children, first with SIGTERM, then with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def _write(path: Path, records: list[Record]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps([asdict(record) for record in records], indent=1))
    draft.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True, help="for all steps together")
    parser.add_argument("--data", type=Path, help="folder that contains cifar100; without it, no rows are trained")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; an existing folder is resumed")
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / "wheels", help="wheels of packages that are not installed"
    )
    args = parser.parse_args()
    if not args.minutes > 0:
        parser.error(f"--minutes must be above 0, got {args.minutes:g}")
    if args.data and not args.data.is_dir():
        parser.error(f"--data {args.data} is not a folder")
    data, out = args.data.resolve() if args.data else None, args.out.resolve()
    print(f"{args.minutes:g} minutes; results in {out}" + ("" if data else "; no --data, so no rows"), flush=True)
    records = run(plan(args.minutes, out, data), out, args.wheels)
    return 0 if all(record.status == "done" for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())

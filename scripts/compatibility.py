"""Writes results/compatibility.json: results of timm's tests and of all exports, with sizes, operators and latency.

    python scripts/compatibility.py timm                    # timm's tests/test_models.py on every model
    python scripts/compatibility.py exports                 # every export of every model, on random weights and images
    python scripts/compatibility.py latency                 # one image, one thread, forms in turns (use an idle machine)

Each part replaces its earlier results and keeps those of the other parts. `--models` and `--forms` select a subset. A form with
a missing extra is skipped with a message. Afterwards, `python docs/figures.py` writes the tables of docs/compatibility.md and
docs/models.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from feathervit.config import MODELS
from feathervit.device import use_threads
from feathervit.errors import ConfigError
from feathervit.export.executorch import eight_bits, loaded, lower
from feathervit.export.int8 import float_share, methods, quantise
from feathervit.export.lean import Probabilities
from feathervit.export.onnx import core, finish
from feathervit.export.pt2 import trace
from feathervit.export.verify import check_extra, probabilities, quiet, race, runner, session
from feathervit.models import create_model
from feathervit.models.cost import cost
from feathervit.results import commit, machine

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "compatibility.json"
WEBGPU = ROOT / "tests" / "export" / "webgpu.txt"
FORMS = ("onnx", "int8", "pt2", "executorch", "executorch_int8")
IMAGES, CLASSES, ROUNDS = 16, 100, 200


def timm_tests(names: list[str]) -> dict[str, Any]:
    """Runs the tests in the source distribution of timm. Returns test -> model -> passed, failed or skipped."""
    with tempfile.TemporaryDirectory() as folder:
        requirement = [f"timm=={timm.__version__}", "--no-binary", "timm", "--no-deps", "-q", "-d", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *requirement], check=True)
        (archive,) = Path(folder).glob("timm-*.tar.gz")
        with tarfile.open(archive) as source:
            source.extractall(folder, filter="data")
        root = archive.with_name(archive.name.removesuffix(".tar.gz"))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "scripts.timm_tests", "-c", root / "pyproject.toml"]
        report = f"{folder}/found.xml"
        chosen = " or ".join(f"{name}]" for name in names)
        options = ["-W", "ignore", f"--junit-xml={report}", "-k", chosen, root / "tests" / "test_models.py"]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run([*command, *options], cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})
        tests: dict[str, dict[str, str]] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            test, _, of = case.get("name").partition("[")
            outcomes = {"failure": "failed", "error": "failed", "skipped": "skipped"}
            states = [outcomes[child.tag] for child in case if child.tag in outcomes]
            model = next(name for name in names if of.removesuffix("]").removeprefix("1-").removeprefix("2-") == name)
            tests.setdefault(test, {})[model] = states[0] if states else "passed"
    return {"version": timm.__version__, "tests": tests}


@dataclasses.dataclass
class Form:
    """An exported model: its file, a call for one image, and, for ONNX, its operators."""

    data: bytes
    run: Callable[[np.ndarray], np.ndarray]
    operators: tuple[str, ...] = ()


def forms(name: str, wanted: list[str]) -> dict[str, Form]:
    """Exports a model with random weights, for normalised images [1, 3, S, S]."""
    torch.manual_seed(0)
    size = MODELS[name].img_size
    model = create_model(name, num_classes=CLASSES).eval()
    facts = {"model": name, "feathervit": "0", "img_size": size, "channels": 3}
    calibration, exports = pixels(name, 32, seed=1), {}
    proto = core(model, size, 3) if {"onnx", "int8"} & set(wanted) else None
    for form in wanted:
        if form in ("onnx", "int8"):
            small = proto
            if form == "int8":
                candidates = [quantise(proto, method, calibration) for method in methods(proto)]
                packed = {i: session(finish(w, facts, None).SerializeToString()) for i, w in enumerate(candidates)}
                times = race(
                    {i: runner(s, calibration[:1]) for i, s in packed.items() if float_share(candidates[i]) < 0.5}, 20
                )
                small = candidates[min(times, key=times.__getitem__)]
            data = finish(small, facts, None).SerializeToString()
            run = session(data)
            operators = tuple(sorted({node.op_type for node in small.graph.node}))
            exports[form] = Form(data, lambda x, run=run: probabilities(run, x, 1), operators)
            continue
        with quiet():
            program = trace(Probabilities(model), torch.from_numpy(calibration[:1]), name)
            if form == "pt2":
                call = program.module()
                exports[form] = Form(b"", lambda x, call=call: call(torch.from_numpy(x)).numpy())
                continue
            if form == "executorch_int8":
                program = trace(eight_bits(program, calibration), torch.from_numpy(calibration[:1]), name)
            data = lower(program, name)
        call = loaded(data)
        exports[form] = Form(data, lambda x, call=call: call(torch.from_numpy(x))[0].numpy())
    return exports


def pixels(name: str, count: int, seed: int) -> np.ndarray:
    shape = (count, 3, *[MODELS[name].img_size] * 2)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@torch.no_grad()
def exported(name: str, wanted: list[str]) -> dict[str, Any]:
    """Returns form -> largest difference of a probability, bytes, and operators that WebGPU does not support."""
    torch.manual_seed(0)
    model, x = create_model(name, num_classes=CLASSES).eval(), pixels(name, IMAGES, seed=2)
    expected = model(torch.from_numpy(x)).softmax(-1).numpy()
    known, rows = set(WEBGPU.read_text().split()), {}
    for form, made in forms(name, wanted).items():
        answers = np.concatenate([np.array(made.run(image)) for image in np.split(x, IMAGES)])
        rows[form] = {"largest_difference": float(np.abs(answers - expected).max())}
        rows[form] |= {"bytes": len(made.data)} if made.data else {}
        if form == "onnx":
            rows[form] |= {"operators": made.operators, "not_in_webgpu": sorted(set(made.operators) - known)}
    counted = cost(model, MODELS[name].img_size)
    return {"parameters": counted.parameters, "macs": counted.macs, "forms": rows}


@torch.no_grad()
def latencies(names: list[str], wanted: list[str]) -> dict[str, Any]:
    """Measures model -> form -> median milliseconds of one image on one thread. All models and forms take turns."""
    calls = {}
    for name in names:
        torch.manual_seed(0)
        model, x = create_model(name, num_classes=CLASSES).eval(), pixels(name, 1, seed=2)
        image = torch.from_numpy(x)
        calls[name, "eager"] = lambda model=model, image=image: model(image)
        timed = [form for form in wanted if "executorch" not in form]  # its runtime has no safe setting for one thread
        for form, made in forms(name, timed).items():
            calls[name, form] = lambda made=made, x=x: made.run(x)
    with use_threads(1):
        times = race(calls, ROUNDS)
    return {"rounds": ROUNDS, "ms": {n: {form: ms for (m, form), ms in times.items() if m == n} for n in names}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["timm", "exports", "latency"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    args = parser.parse_args()
    wanted = []
    for form in args.forms:
        try:
            extra = "executorch" if form.startswith("executorch") else "export"
            check_extra(form, extra)
            wanted.append(form)
        except ConfigError as error:
            print(f"skipped: {error}")
    record = json.loads(OUT.read_text()) if OUT.exists() else {}
    environment = {"torch": torch.__version__, "commit": commit(), "machine": machine()}
    if args.part == "timm":
        record["timm"] = timm_tests(args.models) | environment
    elif args.part == "latency":
        record["latency"] = latencies(args.models, wanted) | environment
    for name in args.models if args.part == "exports" else ():
        result = exported(name, wanted)
        before = record.setdefault("exports", {}).get(name, {}).get("forms", {})
        record["exports"][name] = result | {"forms": before | result["forms"]} | environment
        print(name, {form: f"{row['largest_difference']:.1e}" for form, row in result["forms"].items()}, flush=True)
        OUT.write_text(json.dumps(record, indent=1) + "\n")
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

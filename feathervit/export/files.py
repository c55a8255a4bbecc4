"""`--to onnx` and `--to int8`: writes one file each, and compares it with the model on separate images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from ..device import use_threads
from ..errors import ConfigError
from ..files import write_bytes
from .int8 import float_share, methods, quantise
from .job import Job
from .onnx import core, finish
from .preprocess import OPSET
from .verify import MIN_AGREEMENT, compare, passes, probabilities, race, runner, session


def write_onnx(job: Job, folder: Path) -> dict[str, Any]:
    """Writes model.onnx and returns the results for export.json."""
    proto = float32(job)
    data = pack(job, proto)
    write_bytes(folder / "model.onnx", data)
    return {"file": "model.onnx", "opset": OPSET} | check(job, proto, {"onnx": data}, MIN_AGREEMENT)


def write_int8(job: Job, folder: Path) -> dict[str, Any]:
    """Writes model.int8.onnx. Returns the results for export.json, including those of all quantisation methods."""
    proto = float32(job)
    small, tried = int8(job, proto)
    data = pack(job, small)
    write_bytes(folder / "model.int8.onnx", data)
    files = {"int8": data, "onnx": pack(job, proto)}
    checked = check(job, small, files, job.min_agreement)
    return {"file": "model.int8.onnx", "opset": OPSET, **tried, **checked, "float32_bytes": len(files["onnx"])}


def float32(job: Job) -> onnx.ModelProto:
    predictor = job.predictor
    return core(predictor.model, predictor.config.img_size, predictor.in_chans, predictor.temperature)


def pack(job: Job, proto: onnx.ModelProto, *, routed: bool = False) -> bytes:
    """Returns the content of the file."""
    images = job.predictor.config.images if job.input == "image" else None
    return finish(proto, job.facts, images, routed=routed, batch=job.batch).SerializeToString()


def int8(job: Job, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Returns the graph of the fastest of `int8.METHODS` that keeps the accuracy, and the results of all methods.

    The results are measured on the images `job.choosing`. A method that keeps most weights in floating point (dynamic, for
    convolutions) is excluded. If no method keeps the accuracy, returns the method with the highest agreement, which `check`
    then rejects. Raises ConfigError if all methods are excluded.
    """
    calibration = job.tensors(job.calibration)
    protos = {name: quantise(proto, name, calibration) for name in methods(proto)}
    left = {name: float_share(small) for name, small in protos.items()}
    protos = {name: small for name, small in protos.items() if left[name] < 0.5}
    if not protos:
        raise ConfigError(
            f"most weights of {job.predictor.config.model} cannot be quantised to eight bits; use --to onnx"
        )
    files = {name: pack(job, p) for name, p in {**protos, "onnx": proto}.items()}
    sessions = {name: session(data) for name, data in files.items()}
    feed, before = job.feed(job.choosing, job.input), job.before(job.choosing)
    times = race({name: runner(run, feed[:1]) for name, run in sessions.items()})
    tried = {}
    for name in protos:
        figures = compare(before, probabilities(sessions[name], feed), job.choosing.labels)
        tried[name] = figures | {"bytes": len(files[name]), "latency_ms": times[name], "float_share": left[name]}
    good = [name for name in tried if passes(tried[name], job.min_agreement)]
    method = min(good, key=times.__getitem__) if good else max(tried, key=lambda name: tried[name]["agreement"])
    for name, row in tried.items():
        job.say(
            f"  {name:<8} {row['latency_ms']:.2f} ms, {row['bytes'] / 1e6:.3f} MB, agrees on {100 * row['agreement']:.1f} % "
            f"of {row['n']} training images{' (chosen)' if name == method else ''}"
        )
    return protos[method], {"method": method, "tried": tried, "chosen_on": job.choosing.name}


def check(job: Job, proto: onnx.ModelProto, files: dict[str, bytes], least: float | None) -> dict[str, Any]:
    """Compares the first of `files`, made from `proto`, with the model on the images `job.checking`. Times all files."""
    (form, data), *_ = files.items()
    sessions = {name: session(file) for name, file in files.items()}
    feed = job.feed(job.checking, job.input)
    comparison = compare(job.before(job.checking), probabilities(sessions[form], feed), job.checking.labels)
    runs = {name: runner(run, feed[:1]) for name, run in sessions.items()}
    one = job.checking.some(1)
    with use_threads(1):
        times = race({"eager": lambda: job.before(one), **runs})
    comparison |= job.on_originals(lambda image: probabilities(sessions[form], image))
    routing = _routing(job, proto)
    # In 8 bits, a token with two nearly equal gates may be routed to the other expert.
    passed = passes(comparison if form == "int8" else comparison | routing, least)
    return {
        "bytes": len(data),
        **comparison,
        **routing,
        "latency_ms": times,
        "min_agreement": least,
        "passed": passed,
    }


def _routing(job: Job, proto: onnx.ModelProto) -> dict[str, Any]:
    """Returns `Job.routing` of the graph before packing, with the gates as outputs."""
    run = session(finish(proto, job.facts, None, routed=True).SerializeToString())
    names = [out.name for out in proto.graph.output[1:]]
    return job.routing(lambda images: run.run(names, {"pixels": job.tensors(images)}))

"""`--to web`: writes a page that runs the model in the browser, as static files for any server.

The page is feathervit/export/page/; it reads model.json, which this module writes. Its content security policy forbids
requests to other origins.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import onnx
from torchvision.transforms.functional import to_pil_image

from ..errors import ConfigError, FeatherVitError
from ..files import write_bytes
from ..plots.tiles import png_bytes
from ..results import write_json
from .files import check, float32, int8, pack
from .job import Job
from .pages import page_files, sample_places, task, thresholds
from .runtime import NOTICE, browser_runtime
from .verify import MIN_AGREEMENT, probabilities, session


def write_web(job: Job, folder: Path) -> dict[str, Any]:
    """Writes the page with the int8 model, or with the 32-bit model if int8 is not accurate enough."""
    if job.predictor.in_chans not in (1, 3):
        raise ConfigError(f"the model takes {job.predictor.in_chans} channels; a page can show it images of 1 or 3")
    runtime = browser_runtime()
    proto = float32(job)
    data = exact = pack(job, proto, routed=True)
    try:
        small, tried = int8(job, proto)
        data = pack(job, small, routed=True)
        results = tried | check(job, small, {"int8": data, "onnx": exact}, job.min_agreement)
        top1, before = (100 * results[name] for name in ("top1", "top1_before"))
        lost = f"int8 recognises {top1:.1f} % of {results['n']} images, the model {before:.1f} %"
        why = "" if results["passed"] else lost
    except FeatherVitError as error:
        tried, why = {}, str(error)
    if why:
        job.say(f"  {why}: the page has the model in 32 bits")
        small, data, results = proto, exact, tried | check(job, proto, {"onnx": exact}, MIN_AGREEMENT)
    precision = "float32" if why else "int8"
    places = sample_places(job.checking.labels, job.samples)
    # Stored images, not files of the user
    shipped = {f"sample-{n}.png": png_bytes(to_pil_image(job.checking.pixels[i])) for n, i in enumerate(places)}
    labels = [job.predictor.class_names[job.checking.labels[i]] for i in places]
    files = {"model.onnx": data, **page_files(), **runtime, **shipped, "NOTICE.txt": NOTICE.encode()}
    for name in folder.glob("sample-*.png"):  # samples of an earlier export
        name.unlink()
    for name, content in files.items():
        write_bytes(folder / name, content)
    p_NK = probabilities(session(data), job.feed(job.checking, job.input))
    model = job.predictor.model
    prefix = getattr(model, "num_prefix_tokens", 0)
    description = job.facts | {
        "task": task(job.predictor.config.data if job.data is None else job.data),
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": precision,
        "agreement": results["agreement"],
        "top1": results["top1"],
        "n": results["n"],
        "split": job.checking.name,
        "held_out": job.held_out,
        # The last layer may have no patches.
        "routed": [out.name for out in small.graph.output[1:] if _tokens(out) > prefix],
        "depth": len(getattr(model, "blocks", ())),
        "prefix_tokens": prefix,
        "thresholds": thresholds(p_NK, job.checking.labels),
        "samples": [{"file": name, "label": label} for name, label in zip(shipped, labels, strict=True)],
        "model_bytes": len(files["model.onnx"]),
        "runtime_bytes": sum(map(len, runtime.values())),
        "runtime_packed": sum(len(gzip.compress(content, 6)) for content in runtime.values()),
        "page_bytes": sum(map(len, files.values())),
    }
    write_json(folder / "model.json", description)
    sizes = {"bytes": description["model_bytes"], "page_bytes": description["page_bytes"]}
    return {"file": "index.html", "precision": precision, **results, **sizes}


def _tokens(output: onnx.ValueInfoProto) -> int:
    return output.type.tensor_type.shape.dim[1].dim_value

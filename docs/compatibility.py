"""Makes tables from results/compatibility.json, which scripts/compatibility.py writes."""

from __future__ import annotations

import json
from pathlib import Path

from feathervit.weights import list_weights

PATH = Path(__file__).resolve().parents[1] / "results" / "compatibility.json"
FORMS = {
    "onnx": "ONNX",
    "int8": "ONNX int8",
    "pt2": "pt2",
    "executorch": "ExecuTorch",
    "executorch_int8": "ExecuTorch int8",
}
NOT_APPLICABLE = {
    "test_model_forward_torchscript": "not applicable: PyTorch has deprecated TorchScript",
    "test_model_forward_fx_torchscript": "not applicable: PyTorch has deprecated TorchScript",
}
Table = tuple[tuple[str, ...], list[tuple]]  # head and rows


def _found() -> dict:
    return json.loads(PATH.read_text())


def timm_tests() -> Table:
    """Returns how many models pass each of timm's own tests, with the reason if a test does not apply."""
    rows = []
    for test, models in sorted(_found().get("timm", {}).get("tests", {}).items()):
        passed = sum(state == "passed" for state in models.values())
        failed = ", ".join(f"`{name}`" for name, state in models.items() if state != "passed")
        why = NOT_APPLICABLE.get(test, f"not: {failed}" if failed else "")
        rows.append((f"`{test}`", f"{passed} of {len(models)}", why))
    return ("timm's test", "Models that pass", "Remark"), rows


def exports() -> Table:
    """Returns the largest difference of any probability from the model's, by model and form."""
    rows = []
    for name, found in _found().get("exports", {}).items():
        cells = [found["forms"].get(form, {}).get("largest_difference") for form in FORMS]
        outside = found["forms"].get("onnx", {}).get("not_in_webgpu")
        webgpu = "not run" if outside is None else "all" if not outside else f"all but {', '.join(outside)}"
        rows.append((f"`{name}`", *("not run" if cell is None else f"{cell:.0e}" for cell in cells), webgpu))
    return ("Model", *FORMS.values(), "Operators in WebGPU's list"), rows


def forms() -> Table:
    """Returns parameters, cost, sizes, latency and tags of each model. Columns without measurements are left out."""
    found, rows = _found(), []
    latency, tags = found.get("latency", {}).get("ms", {}), list_weights()
    models = found.get("exports", {})
    sized = [form for form in FORMS if any("bytes" in row["forms"].get(form, {}) for row in models.values())]
    timed = [form for form in ("eager", *FORMS) if any(form in times for times in latency.values())]
    for name, row in models.items():
        sizes = [row["forms"].get(form, {}).get("bytes") for form in sized]
        times = [latency.get(name, {}).get(form) for form in timed]
        tagged = ", ".join(f"`{tag}`" for tag in tags if tag.partition(".")[0] == name)
        cells = ["" if size is None else f"{size / 1e6:.2f}" for size in sizes]
        cells += ["" if ms is None else f"{ms:.2f}" for ms in times]
        rows.append((f"`{name}`", f"{row['parameters']:,}", f"{row['macs'] / 1e6:.0f}", *cells, tagged))
    titles = {"eager": "PyTorch", **FORMS}
    head = [*(f"{titles[form]}, MB" for form in sized), *(f"{titles[form]}, ms" for form in timed)]
    return ("Model", "Parameters", "MMACs", *head, "Weights in the package"), rows

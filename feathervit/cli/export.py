"""The verb `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .flags import CheckpointFlag, JsonFlag, ReadingFlags
from .printing import new_console, print_json


@dataclass
class Export(CheckpointFlag, ReadingFlags, JsonFlag):
    """Export a model for other runtimes, a web page or the hub, and check it on real images.

    The exit status is 1 if the check fails.
    """

    to: Literal["onnx", "int8", "pt2", "executorch", "web", "huggingface"] = "onnx"
    """ONNX in 32 or 8 bits; a torch.export program; ExecuTorch programs in 32 and 8 bits; a page for the browser; a folder
    for the Hugging Face hub."""
    out: str | None = None
    """The folder to write; export-TO beside the weights if not given."""
    data: str | None = None
    """Labelled images to calibrate and check on; the data the checkpoint was trained on if not given."""
    input: Literal["image", "tensor"] = "image"
    """Input of the file: images of any size, or tensors that are already resized and normalised (onnx, int8 and pt2).
    ExecuTorch programs always take tensors."""
    min_agreement: float | None = None
    """Share of the images for which the 8-bit model must predict the model's class (int8, executorch and web). If not given,
    it must be as accurate: at most one image lost on balance, or no loss in McNemar's test at 5 %."""
    batch: int | None = None
    """Fixed batch size (onnx and int8), which CoreML and NNAPI need; any size if not given."""
    samples: int = 0
    """Number of held-out images to copy into the page as samples (web). They become as public as the page."""
    push: str | None = None
    """Upload the folder to OWNER/NAME on the Hugging Face hub (huggingface), with the token of `hf auth login`."""

    def execute(self) -> int:
        from ..export.export import export_model as run

        console = new_console(self.json)

        def say(line: str) -> None:
            console.print(line, emoji=False, markup=False, highlight=False, soft_wrap=True)

        result = run(
            self.checkpoint,
            self.to,
            self.out,
            data=self.data,
            reading=self.fields(),
            input=self.input,
            min_agreement=self.min_agreement,
            batch=self.batch,
            samples=self.samples,
            push=self.push,
            say=say,
        )
        if self.json:
            print_json(result)
        else:
            for line in lines(result):
                say(line)
        return 0 if result["passed"] else 1


def lines(found: dict[str, Any]) -> list[str]:
    """Returns the result of an export as lines for people."""
    from ..export.verify import mcnemar

    times = found.get("latency_ms", {})
    size = found.get("page_bytes", found["bytes"])
    least = found["min_agreement"]
    wanted = "" if least is None else f" (at least {100 * least:g} % wanted)"
    texts = [
        f"{found['out']}/{found['file']}: {size / 1e6:.3f} MB",
        f"agrees with the model on {100 * found['agreement']:.2f} % of {found['n']} images of {found['split']}"
        f"{wanted}; largest difference of a probability {found['largest_difference']:.1e}",
        f"top-1 {100 * found['top1']:.2f} %, the model itself {100 * found['top1_before']:.2f} %: {found['lost']} images lost, "
        f"{found['won']} won (McNemar's test: p = {mcnemar(found['lost'], found['won']):.2g})",
    ]
    if "originals" in found:
        files = found["originals"]
        texts.append(f"agrees on {100 * files['agreement']:.2f} % of {files['n']} image files at their original sizes")
    if "same_expert" in found:
        used = ", ".join(map(str, found["experts_used"]))
        texts.append(
            f"the same expert has the most weight for {100 * found['same_expert']:.2f} % of tokens; experts in use by layer: "
            f"{used}"
        )
    if times:
        named = ", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items())
        texts.append(f"one image on one thread of {found['machine']['cpu']}: {named}")
    if "int8" in found and found["int8"]["file"]:
        small = found["int8"]
        texts.append(
            f"{found['out']}/{small['file']}: {small['bytes'] / 1e6:.3f} MB, agrees on {100 * small['agreement']:.2f} %, "
            f"top-1 {100 * small['top1']:.2f} %"
        )
    if "int8" in times and times["int8"] >= times["onnx"]:
        texts.append("int8 is not faster than float32 on this machine; it is only smaller")
    if "pushed" in found:
        texts.append(f"uploaded to {found['pushed']}")
    if not found["passed"]:
        advice = "use --to onnx, which keeps 32 bits" if found["to"] in ("int8", "web") else "do not use it"
        texts.append(f"FAILED: the exported model and the original give different answers; {advice}")
    return texts

"""The most memory that a process of its own needs to load a model and compute one image.

`python -m feathervit.benchmark.memory` FILE.onnx, or "eager" or "compiled" and a model's words as JSON. Prints megabytes. A
process of its own, because what one has used before stays in its peak; and nothing is loaded here that the model does not
need.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    if argv[0] in ("eager", "compiled"):
        import torch

        from .peers import build

        words = json.loads(argv[1])
        torch.set_num_threads(1)
        with torch.inference_mode():
            model = build(**words)
            call = torch.compile(model) if argv[0] == "compiled" else model
            call(torch.zeros(1, 3, words["img_size"], words["img_size"]))
    else:
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(argv[0], options, providers=["CPUExecutionProvider"])
        (pixels,) = session.get_inputs()
        session.run(None, {pixels.name: np.zeros((1, *pixels.shape[1:]), np.float32)})
    print(_peak_bytes() / 1e6)


def _peak_bytes() -> int:
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = (
        Path("/proc/self/status").read_text().splitlines()
    )  # Linux's ru_maxrss would be the parent's, where that is larger
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1:])

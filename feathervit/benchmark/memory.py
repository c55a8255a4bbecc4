"""Measures the peak memory of a process that loads a model and processes one image.

`python -m feathervit.benchmark.memory` takes FILE.onnx, or "eager" or "compiled" and the arguments of a model as JSON. It
prints megabytes. It runs in a separate process, because the peak would include earlier work, and imports only the modules that
the model needs.
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

        arguments = json.loads(argv[1])
        torch.set_num_threads(1)
        with torch.inference_mode():
            model = build(**arguments)
            call = torch.compile(model) if argv[0] == "compiled" else model
            call(torch.zeros(1, 3, arguments["img_size"], arguments["img_size"]))
    else:
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(argv[0], options, providers=["CPUExecutionProvider"])
        (pixels,) = session.get_inputs()
        session.run(None, {pixels.name: np.zeros((1, *pixels.shape[1:]), np.float32)})
    print(peak_bytes() / 1e6)


def peak_bytes() -> int:
    """Returns the peak resident memory of this process."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux, ru_maxrss is inherited from the parent process if that value is larger.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1:])

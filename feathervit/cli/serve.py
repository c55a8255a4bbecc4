"""The verb `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from ..errors import ConfigError
from .printing import new_console, set_threads


@dataclass
class Serve:
    """Serve a model on this machine: a web page, and predictions as JSON at /predict."""

    checkpoint: Positional[str]
    """A run folder (its best weights), a weights file, or weights in the package."""
    host: str = "127.0.0.1"
    """The address to serve on. Any address except 127.0.0.1 lets other machines use the model."""
    port: int = 8000
    """The port to serve on (0: any free port)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""


def serve(args: Serve, _: dict) -> int:
    from ..device import choose_device
    from ..evaluation.inference import load
    from ..export.serve import serve as start

    if not 0 <= args.port < 2**16:
        raise ConfigError(f"--port must be from 0 to 65535, got {args.port}")
    set_threads(args.threads)
    predictor = load(args.checkpoint, str(choose_device(args.device)[0]))
    with start(args.checkpoint, predictor, args.host, args.port) as server:
        console = new_console(False)
        console.print(f"page       {server.url}", highlight=False)
        console.print(f"classes    curl --data-binary @image.jpg {server.url}predict", highlight=False)
        console.print("stop       Ctrl-C", highlight=False)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("stopped")
    return 0

"""The verb `serve`."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from .flags import CheckpointFlag, MachineFlags
from .printing import new_console


@dataclass
class Serve(CheckpointFlag, MachineFlags):
    """Serve a model on this machine: a web page, and predictions as JSON at /predict."""

    host: str = "127.0.0.1"
    """The address to serve on. Any address except 127.0.0.1 lets other machines use the model."""
    port: int = 8000
    """The port to serve on (0: any free port)."""

    def execute(self) -> int:
        from ..device import choose_device
        from ..evaluation.inference import load
        from ..export.serve import serve as start

        if not 0 <= self.port < 2**16:
            raise ConfigError(f"--port must be from 0 to 65535, got {self.port}")
        predictor = load(self.checkpoint, str(choose_device(self.device)[0]))
        with start(self.checkpoint, predictor, self.host, self.port) as server:
            console = new_console(False)
            console.print(f"page       {server.url}", highlight=False)
            console.print(f"classes    curl --data-binary @image.jpg {server.url}predict", highlight=False)
            console.print("stop       Ctrl-C", highlight=False)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                console.print("stopped")
        return 0

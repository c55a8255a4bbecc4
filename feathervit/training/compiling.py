"""Chooses the mode of torch.compile with a reason, and falls back to eager mode if compiling fails.

The optimiser and its learning rate stay outside the compiled part. Each step uses the seeds of the loop. Dropout and noise of a
compiled model differ from those of an eager model. Validation is eager.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError

Mode = Literal["off", "default", "reduce-overhead"]

MOST_PARAMETERS = 20_000_000  # larger models keep a GPU busy without CUDA graphs
FEWEST_STEPS = 20_000  # compiling takes a minute and saves about 3 ms per step
TRIALS = 3  # CUDA graphs are warmed up, recorded, then replayed


def choose_compile(
    asked: str, device: torch.device, *, parameters: int, steps: int, world: int = 1, accumulate: int = 1
) -> tuple[Mode, str]:
    """Returns the compile mode for a run of `steps` steps, and the reason.

    Raises ConfigError for settings that are incompatible with the requested mode.
    """
    if asked == "reduce-overhead" and accumulate > 1:
        raise ConfigError(
            f"--compile reduce-overhead and --accumulate {accumulate} exclude each other: CUDA graphs overwrite a "
            "micro-step's gradients in the next; use --compile default"
        )
    if asked != "auto":
        return asked, "asked for"
    if device.type != "cuda":
        return "off", f"no gain is known on {device.type}"
    if steps < FEWEST_STEPS:
        return "off", f"compiling takes longer than it saves in fewer than {FEWEST_STEPS} steps"
    if world > 1 or accumulate > 1:
        return "default", "CUDA graphs are for one process without accumulation"
    if parameters > MOST_PARAMETERS:
        return "default", "the model is large enough without CUDA graphs"
    return "reduce-overhead", "CUDA graphs: a small model waits for the launch of its kernels"


class Compiled(nn.Module):
    """Wraps `objective`, which `prepare` compiles. The objective and its parameter names stay unchanged.

    The wrapper that averages gradients over processes is outside this module, so that `prepare` does not exchange gradients.
    """

    def __init__(
        self,
        objective: nn.Module,
        mode: Mode,
        say: Callable[[str], Any],
        anywhere: Callable[[bool], bool] = bool,
    ):
        super().__init__()
        self.objective, self.mode, self.say, self.anywhere = objective, mode, say, anywhere
        self.call: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None

    def forward(self, x: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        return (self.call or self.objective)(x, targets)

    def prepare(self, x: Tensor, targets: Tensor) -> None:
        """Compiles and tests forward and backward at the first call. Restores buffers and random state.

        If compiling fails in any process, prints one line with `say`, and all processes continue in eager mode.
        """
        if self.mode == "off" or self.call:
            return
        buffers = {name: buffer.clone() for name, buffer in self.objective.named_buffers()}
        failure = ""
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            try:
                mode = None if self.mode == "default" else self.mode
                self.call = torch.compile(self.objective.forward, mode=mode, dynamic=False)
                for _ in range(TRIALS):
                    self(x, targets)[0].backward()
                    self.objective.zero_grad(set_to_none=True)
            except Exception as error:  # a compiler can raise any exception
                failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        self.objective.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self.objective.named_buffers():
                buffer.copy_(buffers[name])
        if self.anywhere(bool(failure)):
            torch.compiler.reset()
            self.call, self.mode = None, "off"
            self.say(f"compiling failed, the run continues eagerly ({failure or 'in another process'})")

"""Chooses bfloat16 on the CPU if the processor supports it in hardware and a trial step is faster."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import replace

import torch
from torch import nn

from ..config import RunConfig
from ..models.fast import accelerate
from .objectives import build_objective

BATCH = 32  # images per trial step
ROUNDS = 3
GAIN = 1.1  # smaller gains are within the noise of the timing


def has_bfloat16() -> bool:
    """Returns whether the processor supports bfloat16 products in hardware (AVX512-BF16 or AMX).

    Emulation is several times slower.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not available in PyTorch 2.9
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def faster_on_cpu(model: nn.Module, config: RunConfig, channels: int) -> tuple[bool, str]:
    """Returns whether a training step of `model` on this CPU is faster in bfloat16, and the reason for the banner.

    Does not change the random state.
    """
    if not has_bfloat16():
        return False, "this processor does not multiply bfloat16 in hardware"
    if config.objective == "distillation":
        config = replace(config, objective="classification")
    x = torch.zeros(min(config.batch_size, BATCH), channels, config.img_size, config.img_size)
    targets = torch.zeros(len(x), dtype=torch.int64)
    trials = {
        dtype: build_objective(config, accelerate(copy.deepcopy(model), dtype).train())
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = {dtype: [] for dtype in trials}
    with torch.random.fork_rng(devices=[]):
        for _ in range(ROUNDS + 1):
            for dtype, objective in trials.items():
                started = time.perf_counter()
                objective(x, targets)[0].backward()
                seconds[dtype].append(time.perf_counter() - started)
    wide, low = (statistics.median(seconds[dtype][1:]) for dtype in trials)
    return wide > GAIN * low, f"a trial step takes {1000 * wide:.0f} ms in float32 and {1000 * low:.0f} ms in bfloat16"

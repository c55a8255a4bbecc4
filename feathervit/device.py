"""Chooses the device and precision of a run, with reasons for the banner, and sets up autocast."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

import torch

from .errors import ConfigError


def choose_device(asked: str) -> tuple[torch.device, str]:
    """Returns the device and the reason for the choice. Raises ConfigError if the device is not available."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if available[n])
        why = "the fastest device" if name != "cpu" else f"no CUDA or MPS device; threads: {torch.get_num_threads()}"
    elif not available[asked]:
        raise ConfigError(f"--device {asked}: PyTorch finds no such device; use --device auto or cpu")
    else:
        name, why = asked, "asked for"
    if name == "cuda":
        why += f", {torch.cuda.get_device_name()}"
    return torch.device(name), why


def choose_precision(asked: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Returns the autocast type and the reason: bfloat16 if the GPU supports it, float16 on older GPUs, else float32."""
    if asked != "auto":
        if asked == "float16" and device.type == "cpu":
            raise ConfigError("--precision float16 does not train on the CPU; use float32 or bfloat16")
        return getattr(torch, asked), "asked for"
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "the GPU has it") if bf16 else (torch.float16, "the GPU has no bfloat16")
    return torch.float32, "mixed precision is not faster on MPS" if device.type == "mps" else "a trial step decides"


def seed(device: torch.device, number: int) -> None:
    """Seeds the generators of the CPU and of `device`. (`torch.manual_seed` seeds every kind of device.)"""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def own_randomness(device: torch.device) -> contextlib.AbstractContextManager:
    """Restores the random state of the CPU and of a CUDA `device` at the end of the block."""
    return torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else [])


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Limits PyTorch to `count` threads inside the block. Python threads that start there inherit the limit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reuse_memory() -> None:
    """Lets glibc keep freed memory for later tensors. Memory that is new to the process takes longer to write than to reuse.

    Applies to the process. Without glibc, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt, trim_threshold, mmap_threshold = ctypes.CDLL(None).mallopt, -1, -3  # the names of <malloc.h>
        mallopt(trim_threshold, -1)  # never return memory at the end of the heap
        mallopt(mmap_threshold, 2**31 - 1)


def wait(device: torch.device) -> None:
    """Waits for the queue of an accelerator, so that the clock includes all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Returns autocast to `dtype` on a GPU. On the CPU, layers cast their inputs (`models.fast.accelerate`): this is faster."""
    plain = dtype == torch.float32 or device.type == "cpu"
    return contextlib.nullcontext() if plain else torch.autocast(device.type, dtype)

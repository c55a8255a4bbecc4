"""Measures a training step of any model: images per second, peak memory, and the time of each part.

The step is `Trainer.train_step` on random images. The device is synchronised between parts to time them; the speed is measured
without synchronisation. The results are medians of several rounds. FLOP/s count matrix products and convolutions, and a step
counts as three forward passes; compilation and recomputation do not change them. Under torchrun, the batch is divided among
the processes, and images per second are the total of all processes.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from timm.models import get_pretrained_cfg_value
from torch import nn

from ..checkpoint import load_weights
from ..config import RunConfig, resolve
from ..data import DataSplits, ImageSet
from ..device import choose_device, choose_precision, wait
from ..models import build_model
from ..models.cost import count_macs
from ..results import machine
from ..training.compiling import FEWEST_STEPS, choose_compile
from ..training.distributed import Group
from ..training.precision import faster_on_cpu
from ..training.trainer import Trainer
from .memory import peak_bytes

PARTS = ("data", "forward", "backward", "optimiser")
CLASSES = 100
LEARNING_RATE = 1e-4


def scaling(configs: Iterable[RunConfig], group: Group, rounds: int = 5) -> dict[str, Any]:
    """Measures each configuration. Returns {"rows": [...]}, JSON-ready."""
    return {"rows": [run(config, rounds=rounds, group=group) for config in configs]}


def run(
    config: RunConfig,
    steps: int = 5,
    rounds: int = 5,
    group: Group | None = None,
    class_names: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measures a training step of `config` on random images of the input size. Returns JSON-ready results.

    `class_names` (): the classes of the teacher in distillation, else 100 classes. The channels are those of the teacher, or
    of the configuration.

    - "images_per_s": median over `rounds` of `steps` steps each.
    - "images_per_cpu_s": images per second of CPU time of this process, hardly affected by other programs; None on a GPU.
    - "ms": median milliseconds of each part of a step.
    - "peak_mb": peak of the allocator of the device, or of the resident memory of this process on the CPU.
    - "tflops": 10^12 floating-point operations per second; None if they cannot be counted.

    Raises the errors of an invalid configuration.
    """
    config, group = resolve(config), group or Group()
    device, _ = choose_device(config.device)
    known, channels = _classes(config)
    class_names = class_names or known
    torch.manual_seed(0)
    notes: list[str] = []
    trainer = _trainer(config, channels, class_names, device, group, notes)
    mode = trainer.compiled.mode
    numbers = itertools.count()

    def step() -> None:
        trainer.train_step(next(numbers), LEARNING_RATE)

    ahead = trainer.feed.ahead
    steps = -(-steps // ahead) * ahead  # complete groups of batches, so that a round includes all costs of its steps
    _forget_peak(device)
    for _ in range(max(2, ahead)):  # warm-up
        step()
    speeds, on_cpu, parts = [], [], []
    for _ in range(rounds):
        began = time.process_time()
        speeds.append(steps * config.batch_size / _seconds(lambda: [step() for _ in range(steps)], device))
        on_cpu.append(steps * config.batch_size / (time.process_time() - began))
        several = [_split(trainer, step) for _ in range(ahead)]
        parts.append([statistics.mean(column) for column in zip(*several, strict=True)])
    speed = statistics.median(speeds)
    macs = _forward_macs(trainer.compiled.objective, (1, channels, config.img_size, config.img_size))
    return {
        "model": config.model,
        "objective": config.objective,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "img_size": config.img_size,
        "patch_size": config.patch_size,
        "batch_size": config.batch_size,
        "device": str(device),
        "precision": str(trainer.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "optimiser": config.optim.name,
        "compile": trainer.compiled.mode,
        "compile_failure": "; ".join(notes) if trainer.compiled.mode != mode else None,
        "processes": group.world,
        "images_per_s": speed,
        "images_per_cpu_s": statistics.median(on_cpu) if device.type == "cpu" else None,
        "tflops": 2 * 3 * macs * speed / 1e12 if macs else None,
        "ms": {
            name: 1e3 * statistics.median(column) for name, column in zip(PARTS, zip(*parts, strict=True), strict=True)
        },
        "peak_mb": _peak_mb(device),
        "rounds": rounds,
        "torch": torch.__version__,
        "machine": machine(),
    }


def _classes(config: RunConfig) -> tuple[tuple[str, ...], int]:
    """Returns the class names and the number of channels of the random images."""
    count, channels = CLASSES, config.images.channels or 3
    if config.objective == "distillation" and config.teacher.startswith("timm:"):
        count = get_pretrained_cfg_value(config.teacher.removeprefix("timm:"), "num_classes")
    elif config.objective == "distillation" and config.teacher:
        stored = load_weights(config.teacher)
        return stored.class_names, stored.in_chans
    return tuple(map(str, range(count))), channels


def _trainer(
    config: RunConfig,
    channels: int,
    class_names: tuple[str, ...],
    device: torch.device,
    group: Group,
    notes: list[str],
) -> Trainer:
    """Returns a trainer with the settings of a long run, on four batches of random images. Its messages go to `notes`."""
    n = 4 * config.batch_size
    pixels = torch.randint(0, 256, (n, channels, config.img_size, config.img_size), dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(n) % len(class_names), class_names, list(map(str, range(n))), "random")
    model = build_model(config, channels, len(class_names), train=True)
    dtype, _ = choose_precision(config.precision, device)
    if config.precision == "auto" and device.type == "cpu":
        faster, _ = faster_on_cpu(model, config, channels)
        dtype = torch.float32 if group.any(not faster) else torch.bfloat16
    parameters = sum(p.numel() for p in model.parameters())
    mode, _ = choose_compile(
        config.compile,
        device,
        parameters=parameters,
        steps=FEWEST_STEPS,
        world=group.world,
        accumulate=config.accumulate,
    )
    return Trainer(
        replace(config, compile=mode),
        DataSplits(images, None, None, {}),
        model,
        device=device,
        dtype=dtype,
        note=notes.append,
        group=group,
    )


def table(found: dict[str, Any]) -> str:
    """Formats the rows of `scaling` as text, after a line with their common facts."""
    first = found["rows"][0]
    m = first["machine"]
    lines = [
        f"{m['gpu'] or m['cpu']}, {first['processes']} process(es) of {first['threads']} thread(s), torch {first['torch']}; "
        f"medians of {first['rounds']}"
    ]
    for row in found["rows"]:
        total = sum(row["ms"].values())
        shares = ", ".join(f"{name} {ms:.1f} ms ({100 * ms / total:.0f} %)" for name, ms in row["ms"].items())
        patch = f", patch {row['patch_size']}" if row["patch_size"] else ""
        flops = f"; {row['tflops']:.3g} TFLOP/s" if row["tflops"] else ""
        failure = f" ({row['compile_failure']})" if row["compile_failure"] else ""
        lines += [
            f"{row['model']}, {row['objective']}: {row['parameters']:,} parameters, {row['img_size']} px{patch}, batch "
            f"{row['batch_size']}, {row['optimiser']}, {row['precision']}, compile {row['compile']}{failure}",
            f"  {row['images_per_s']:,.0f} images/s{flops}; peak memory {row['peak_mb']:,.0f} MB",
            f"  a step: {shares}",
        ]
    return "\n".join(lines)


def _forward_macs(objective: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Returns the multiply-accumulates of the forward pass for one image, or None if it cannot run on "meta"."""
    x, targets = torch.empty(shape, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    try:
        return count_macs(objective, lambda twin: twin(x, targets))[0]
    except (RuntimeError, ValueError, NotImplementedError):  # batch norm of one image, operators without shapes
        return None


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def _split(trainer: Trainer, step: Callable[[], None]) -> list[float]:
    """Measures the seconds of each of PARTS in one step. Synchronises the device after each part."""
    starts: list[tuple[str, float]] = []  # part, and the time at which it starts

    def mark(part: str) -> None:
        wait(trainer.device)
        starts.append((part, time.perf_counter()))

    def marked(work: Callable, before: str, after: str) -> Callable:
        def call(*args: Any) -> Any:
            mark(before)
            result = work(*args)
            mark(after)
            return result

        return call

    # The part before and after each call. A step with micro-steps calls `batch` and `scale` several times.
    calls = (
        (trainer.feed, "batch", "data", "forward"),
        (trainer.scaler, "scale", "backward", "backward"),
        (trainer.scaler, "step", "optimiser", "optimiser"),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, before, after in calls:
            stack.enter_context(mock.patch.object(owner, name, marked(getattr(owner, name), before, after)))
        mark("data")
        step()
        mark("end")
    seconds = dict.fromkeys(PARTS, 0.0)
    for (part, start), (_, end) in itertools.pairwise(starts):
        seconds[part] += end - start
    return list(seconds.values())


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident memory


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_bytes() / 1e6

"""What a training step costs: images a second, peak memory, and where the time goes, for any model.

A step is what the training loop does: gather and augment, forward, backward, optimiser. The shares are of steps with a
wait for the device between the parts, the speed of steps without; medians of several rounds.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from ..chance import Chance
from ..config import RunConfig
from ..data.augment import Augmenter
from ..data.loader import Sampler
from ..models import build_model
from ..results import machine
from ..training.objectives import build_objective
from ..training.optim import build_optimizer, set_learning_rate
from ..training.setup import autocast, choose_device, choose_precision, resolve
from ..training.teacher import load_teacher

PARTS = ("data", "forward", "backward", "optimiser")
CLASSES = tuple(map(str, range(100)))


def run(config: RunConfig, steps: int = 5, rounds: int = 5, class_names: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """Figures of a training step of `config` on random pictures at the model's input size, JSON-ready.

    "images_per_s": median over `rounds` of `steps` steps each; "ms": median milliseconds of each part of a step;
    "peak_mb": of the device's allocator, or the process's resident memory on the CPU. Raises what the configuration's
    own checks raise.
    """
    config = resolve(config)
    device, _ = choose_device(config.device)
    dtype, _ = choose_precision(config.precision, device)
    torch.manual_seed(0)
    channels = config.images.channels or 3
    classes = len(class_names)
    model = build_model(config, channels, classes, train=True).to(device)
    teacher = load_teacher(config, class_names, channels).to(device) if config.objective == "distillation" else None
    objective, optimizer = build_objective(config, model, teacher=teacher).train(), build_optimizer(model, config)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    n = 4 * config.batch_size
    pictures = torch.randint(0, 256, (n, channels, config.img_size, config.img_size), dtype=torch.uint8).to(device)
    labels = (torch.arange(n) % classes).to(device)
    images = config.images
    augmenter = Augmenter(
        config.augment, config.img_size, classes, images.mean, images.std, config.loss.label_smoothing
    )
    sampler = Sampler(n, config.batch_size, config.seed, repeats=config.augment.repeats)
    set_learning_rate(optimizer, 1e-4)

    def step(number: int, mark: Callable[[], None]) -> None:
        indices = sampler.batch(number)
        picked = indices.to(device)
        chosen = pictures.index_select(0, picked)
        x, targets = augmenter(chosen, labels[picked], indices, Chance(config.seed, number), 0)
        mark()
        with autocast(device, dtype):
            loss, _ = objective(x, targets)
        mark()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        mark()
        scaler.step(optimizer)
        scaler.update()
        mark()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(2):  # warms up
        step(number, lambda: None)
    speeds, parts = [], []
    for number in range(rounds):
        speeds.append(
            steps * config.batch_size / _seconds(lambda: [step(i, lambda: None) for i in range(steps)], device)
        )
        parts.append(_split(lambda mark, number=number: step(number, mark), device))
    return {
        "model": config.model,
        "objective": config.objective,
        "parameters": sum(p.numel() for p in model.parameters()),
        "img_size": config.img_size,
        "patch_size": config.patch_size,
        "batch_size": config.batch_size,
        "device": str(device),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "optimiser": config.optim.name,
        "images_per_s": statistics.median(speeds),
        "ms": {
            name: 1e3 * statistics.median(column) for name, column in zip(PARTS, zip(*parts, strict=True), strict=True)
        },
        "peak_mb": _peak_mb(device),
        "rounds": rounds,
        "torch": torch.__version__,
        "machine": machine(),
    }


def table(found: dict[str, Any]) -> str:
    """The figures of `run` as text."""
    whole = sum(found["ms"].values())
    shares = ", ".join(f"{name} {ms:.1f} ms ({100 * ms / whole:.0f} %)" for name, ms in found["ms"].items())
    patch = f", patch {found['patch_size']}" if found["patch_size"] else ""
    m = found["machine"]
    return "\n".join(
        [
            f"{found['model']}: {found['parameters']:,} parameters, {found['img_size']} px{patch}, batch "
            f"{found['batch_size']}, {found['optimiser']}, {found['precision']}",
            f"{m['gpu'] or m['cpu']}, {found['threads']} thread(s), torch {found['torch']}; medians of {found['rounds']}",
            f"{found['images_per_s']:,.0f} images/s; peak memory {found['peak_mb']:,.0f} MB",
            f"a step: {shares}",
        ]
    )


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _split(work: Callable[[Callable[[], None]], None], device: torch.device) -> list[float]:
    """Seconds of each of PARTS, of a step that calls `mark` at the end of each."""
    _wait(device)
    times = [time.perf_counter()]

    def mark() -> None:
        _wait(device)
        times.append(time.perf_counter())

    work(mark)
    return [after - before for before, after in itertools.pairwise(times)]


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6

"""What a training step costs: images a second, peak memory, and where the time goes, for any model.

A step is what the training loop does: gather and augment, forward, backward, optimiser. The shares are of steps with a
wait for the device between the parts, the speed of steps without; medians of several rounds. FLOP/s are those of matrix
products and convolutions, a step counted as three forward passes; what compiling or recomputing adds or saves is not seen.
Under torchrun the batch is divided among the processes, and images a second are those of all together.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..config import RunConfig, resolve
from ..data.augment import Augmenter
from ..data.feed import Feed
from ..data.loader import Sampler
from ..device import autocast, choose_device, choose_precision
from ..errors import ConfigError
from ..models import build_model
from ..results import machine
from ..training.compiling import FEWEST_STEPS, Compiled, choose_compile
from ..training.distributed import Group
from ..training.objectives import build_objective
from ..training.optim import build_optimizer, set_learning_rate
from ..training.teacher import load_teacher

PARTS = ("data", "forward", "backward", "optimiser")
CLASSES = tuple(map(str, range(100)))
_STATUS = Path("/proc/self/status")


def scaling(configs: Iterable[RunConfig], group: Group, rounds: int = 5) -> dict[str, Any]:
    """`run` of each configuration: {"rows": [...]}, JSON-ready."""
    return {"rows": [run(config, rounds=rounds, group=group) for config in configs]}


def run(
    config: RunConfig,
    steps: int = 5,
    rounds: int = 5,
    class_names: tuple[str, ...] = CLASSES,
    group: Group | None = None,
) -> dict[str, Any]:
    """Figures of a training step of `config` on random pictures at the model's input size, JSON-ready.

    "images_per_s": median over `rounds` of `steps` steps each; "ms": median milliseconds of each part of a step;
    "peak_mb": of the device's allocator, or this process's resident memory on the CPU; "gflops": billions of floating-point
    operations a second, None where they cannot be counted. Raises what the configuration's own checks raise.
    """
    config, group = resolve(config), group or Group()
    if config.batch_size % group.world:
        raise ConfigError(f"batch size {config.batch_size} does not divide among {group.world} processes")
    share = config.batch_size // group.world
    device, _ = choose_device(config.device)
    dtype, _ = choose_precision(config.precision, device)
    torch.manual_seed(0)
    channels = config.images.channels or 3
    classes = len(class_names)
    model = build_model(config, channels, classes, train=True).to(device)
    teacher = load_teacher(config, class_names, channels).to(device) if config.objective == "distillation" else None
    bare, optimizer = build_objective(config, model, teacher=teacher).train(), build_optimizer(model, config)
    parameters = sum(p.numel() for p in model.parameters())
    mode, _ = choose_compile(
        config.compile, device, parameters=parameters, steps=FEWEST_STEPS, world=group.world
    )  # as for a long run
    failures: list[str] = []
    objective = Compiled(group.wrap(bare), mode, failures.append, group.any)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    n = 4 * share
    pixels = torch.randint(0, 256, (n, channels, config.img_size, config.img_size), dtype=torch.uint8)
    labels = torch.arange(n) % classes
    images = config.images
    augmenter = Augmenter(
        config.augment, config.img_size, classes, images.mean, images.std, config.loss.label_smoothing
    )
    sampler = Sampler(n, share, config.seed, repeats=config.augment.repeats)
    feed = Feed(pixels, labels, [sampler], augmenter, config.seed, device)
    steps = (
        -(-steps // feed.ahead) * feed.ahead
    )  # whole groups of batches, so that a round holds all that its steps cost
    numbers = itertools.count()
    set_learning_rate(optimizer, 1e-4)

    def step(mark: Callable[[], None] = lambda: None) -> None:
        x, targets = feed.batch(next(numbers))
        mark()
        with autocast(device, dtype):
            loss, _ = objective(x, targets)
        mark()
        scaler.scale(loss).backward()
        mark()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        mark()

    _forget_peak(device)
    for _ in range(max(2, feed.ahead)):  # warms up
        step()
    speeds, parts = [], []
    for _ in range(rounds):
        speeds.append(steps * config.batch_size / _seconds(lambda: [step() for _ in range(steps)], device))
        several = [_split(step, device) for _ in range(feed.ahead)]
        parts.append([statistics.mean(column) for column in zip(*several, strict=True)])
    speed = statistics.median(speeds)
    macs = _forward_macs(bare, (1, channels, config.img_size, config.img_size))
    return {
        "model": config.model,
        "objective": config.objective,
        "parameters": parameters,
        "img_size": config.img_size,
        "patch_size": config.patch_size,
        "batch_size": config.batch_size,
        "device": str(device),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "optimiser": config.optim.name,
        "compile": objective.mode,
        "compile_failure": failures[0] if failures else None,
        "processes": group.world,
        "images_per_s": speed,
        "gflops": 2 * 3 * macs * speed / 1e9 if macs else None,
        "ms": {
            name: 1e3 * statistics.median(column) for name, column in zip(PARTS, zip(*parts, strict=True), strict=True)
        },
        "peak_mb": _peak_mb(device),
        "rounds": rounds,
        "torch": torch.__version__,
        "machine": machine(),
    }


def table(found: dict[str, Any]) -> str:
    """The rows of `scaling` as text: the figures of each, and above them what they have in common."""
    first = found["rows"][0]
    m = first["machine"]
    lines = [
        f"{m['gpu'] or m['cpu']}, {first['processes']} process(es) of {first['threads']} thread(s), torch {first['torch']}; "
        f"medians of {first['rounds']}"
    ]
    for row in found["rows"]:
        whole = sum(row["ms"].values())
        shares = ", ".join(f"{name} {ms:.1f} ms ({100 * ms / whole:.0f} %)" for name, ms in row["ms"].items())
        patch = f", patch {row['patch_size']}" if row["patch_size"] else ""
        flops = f"; {row['gflops']:,.0f} GFLOP/s" if row["gflops"] else ""
        failure = f" ({row['compile_failure']})" if row["compile_failure"] else ""
        lines += [
            f"{row['model']}, {row['objective']}: {row['parameters']:,} parameters, {row['img_size']} px{patch}, batch "
            f"{row['batch_size']}, {row['optimiser']}, {row['precision']}, compile {row['compile']}{failure}",
            f"  {row['images_per_s']:,.0f} images/s{flops}; peak memory {row['peak_mb']:,.0f} MB",
            f"  a step: {shares}",
        ]
    return "\n".join(lines)


def _forward_macs(objective: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Multiply-accumulates of one picture through the objective, training; None where it does not run without data."""
    twin = copy.deepcopy(objective).to("meta")
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            twin(torch.empty(shape, device="meta"), torch.zeros(1, dtype=torch.long, device="meta"))
    except (RuntimeError, ValueError, NotImplementedError):  # batch norm of one picture, operators without shapes
        return None
    return counter.get_total_flops() // 2


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


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif _STATUS.exists():
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak of the resident memory starts anew


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    if _STATUS.exists():
        found = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(found["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6

"""The verbs of `benchmark`: augment, train and infer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..errors import ConfigError
from ..recipes import recipe
from .printing import check_places, set_threads, show


@dataclass
class BenchmarkAugment:
    """Time augmentation against torchvision's and timm's loops over images, in one run."""

    sizes: tuple[int, ...] = (32, 64, 96)
    """Image sides in pixels."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads to measure with."""
    batch: int = 1024
    """Images per batch."""
    repeats: int = 7
    """Number of runs; their median is reported."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the augmentation runs."""
    out: str | None = None
    """Also write the JSON here."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def benchmark_augment(args: BenchmarkAugment, _: dict) -> int:
    if min(args.sizes + args.threads + (args.batch, args.repeats), default=0) < 1 or not args.sizes or not args.threads:
        raise ConfigError("--sizes, --threads, --batch and --repeats must be at least 1")
    check_places(args.out)
    from ..benchmark.augment import run, table
    from ..device import choose_device

    choose_device(args.device)
    found = run(args.sizes, args.threads, args.batch, args.repeats, args.device)
    return show(found, table, args.out, args.json)


@dataclass
class BenchmarkTrain:
    """Measure a training step: images per second, memory, and the shares of its parts, for any model.

    Several models, image sizes or batch sizes make a table with one row for each combination. Under torchrun the batch is
    divided among the processes.
    """

    model: tuple[str, ...] = ()
    """Our models by name, or timm:NAME; the recipe's if none is given."""
    recipe: str = "mlit_cifar100"
    """The recipe that gives augmentation, optimiser and loss."""
    objective: Literal["classification", "reconstruction", "joint", "distillation"] | None = None
    """The recipe's if not given."""
    teacher: str = ""
    """The teacher of a distillation: a run folder, a weights file, or timm:NAME."""
    img_size: tuple[int, ...] = ()
    """The model's own if none is given."""
    patch_size: int | None = None
    """Patch side in pixels; the model's own if not given."""
    batch_size: tuple[int, ...] = ()
    """The recipe's if none is given."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Floating-point format of the step; auto: as in a run."""
    compile: Literal["auto", "off", "default", "reduce-overhead"] = "auto"
    """torch.compile; auto: as in a long run."""
    rounds: int = 5
    """Number of rounds; their median is reported."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""
    out: str | None = None
    """Also write the JSON here."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def benchmark_train(args: BenchmarkTrain, _: dict) -> int:
    from ..benchmark.train import scaling, table
    from ..training.distributed import join

    if args.rounds < 1:
        raise ConfigError(f"--rounds must be at least 1, got {args.rounds}")
    check_places(args.out)
    set_threads(args.threads)
    names = ("patch_size", "teacher", "device", "precision", "compile")
    base = replace(recipe(args.recipe), arch=None, **{name: getattr(args, name) for name in names})
    base = replace(base, objective=args.objective or base.objective)
    rows = itertools.product(
        args.model or (base.model,), args.img_size or (None,), args.batch_size or (base.batch_size,)
    )
    configs = [replace(base, model=model, img_size=size, batch_size=batch) for model, size, batch in rows]
    with join(args.device) as group:
        try:
            found = scaling(configs, group, args.rounds)
        except (RuntimeError, AssertionError) as error:  # timm's models reject a size only when they run
            raise ConfigError(f"a step cannot be measured with these settings: {error}") from error
        return show(found, table, args.out, args.json) if group.is_main else 0


@dataclass
class BenchmarkInfer:
    """Measure a model and its peers in PyTorch and ONNX Runtime: latency, throughput, memory, size."""

    models: Positional[tuple[str, ...]] = ("mlit_nano", "mlit_xxs", "twin:mlit_xxs")
    """Our models, timm:NAME, or twin:NAME, which is timm's VisionTransformer in the shape of our NAME."""
    img_size: int = 36
    """Image side in pixels, one for all."""
    patch_size: int | None = None
    """Patch side of ours and their twins; their own if not given."""
    forms: tuple[Literal["eager", "compiled", "plain", "onnx", "int8"], ...] = (
        "eager",
        "compiled",
        "plain",
        "onnx",
        "int8",
    )
    """Forms to measure; plain is PyTorch's exporter without our rewriting."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads to measure latency with."""
    rounds: int = 30
    """Number of runs; their median is reported."""
    chart: str | None = None
    """Also draw the latencies into this PNG."""
    out: str | None = None
    """Also write the JSON here."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def benchmark_infer(args: BenchmarkInfer, _: dict) -> int:
    from ..benchmark.infer import chart, run, table

    if args.rounds < 1 or not args.models or not args.forms or not args.threads or min(args.threads) < 1:
        raise ConfigError("--rounds and --threads must be at least 1, and models and forms must be named")
    if args.img_size < 1 or (args.patch_size is not None and args.patch_size < 1):
        raise ConfigError(f"--img-size and --patch-size must be at least 1, got {args.img_size} and {args.patch_size}")
    if args.chart and Path(args.chart).suffix.lower() != ".png":
        raise ConfigError(f"--chart must name a .png file, got {args.chart}")
    check_places(args.chart, args.out)
    found = run(args.models, args.img_size, args.patch_size, args.forms, args.threads, args.rounds)
    status = show(found, table, args.out, args.json)
    if args.chart:
        chart(found, Path(args.chart))
    return status

"""The verbs of `benchmark`: augment, train and infer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from tyro.conf import Positional

from ..errors import ConfigError
from ..recipes import recipe
from .flags import JsonFlag, MachineFlags
from .printing import check_places, show

Form = Literal["eager", "compiled", "plain", "onnx", "int8"]


@dataclass(kw_only=True)
class BenchmarkFlags(JsonFlag):
    """The flags of every benchmark."""

    out: str | None = None
    """Also write the JSON to this file."""


@dataclass
class BenchmarkAugment(BenchmarkFlags):
    """Compare the speed of batched augmentation with per-image loops of torchvision and timm."""

    sizes: tuple[int, ...] = (32, 64, 96)
    """Image sides in pixels."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of CPU threads to measure."""
    batch: int = 1024
    """Images per batch."""
    repeats: int = 7
    """Number of runs; their median is reported."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the augmentation runs."""

    def execute(self) -> int:
        if (
            min(self.sizes + self.threads + (self.batch, self.repeats), default=0) < 1
            or not self.sizes
            or not self.threads
        ):
            raise ConfigError("--sizes, --threads, --batch and --repeats must be at least 1")
        check_places(self.out)
        from ..benchmark.augment import run, table
        from ..device import choose_device

        choose_device(self.device)
        result = run(self.sizes, self.threads, self.batch, self.repeats, self.device)
        return show(result, table, self.out, self.json)


@dataclass
class BenchmarkTrain(BenchmarkFlags, MachineFlags):
    """Measure a training step of any model: images per second, memory, and the time share of each part.

    Several models, image sizes or batch sizes give a table with one row per combination. Under torchrun, the batch is divided
    among the processes.
    """

    model: tuple[str, ...] = ()
    """Names of our models, or timm:NAME; the recipe's model if not given."""
    recipe: str = "mlit_cifar100"
    """The recipe for augmentation, optimiser and loss."""
    objective: Literal["classification", "reconstruction", "joint", "distillation"] | None = None
    """The objective; the recipe's if not given."""
    teacher: str = ""
    """The teacher of a distillation: a run folder, a weights file, or timm:NAME."""
    img_size: tuple[int, ...] = ()
    """Image sides in pixels; the model's default if not given."""
    patch_size: int | None = None
    """Patch side in pixels; the model's default if not given."""
    batch_size: tuple[int, ...] = ()
    """Images per batch; the recipe's if not given."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Floating-point format of the step; auto: as in a run."""
    compile: Literal["auto", "off", "default", "reduce-overhead"] = "auto"
    """Mode of torch.compile; auto: as in a long run."""
    rounds: int = 5
    """Number of rounds; their median is reported."""

    def execute(self) -> int:
        from ..benchmark.train import scaling, table
        from ..training.distributed import join

        if self.rounds < 1:
            raise ConfigError(f"--rounds must be at least 1, got {self.rounds}")
        check_places(self.out)
        names = ("patch_size", "teacher", "device", "precision", "compile")
        base = replace(recipe(self.recipe), arch=None, **{name: getattr(self, name) for name in names})
        base = replace(base, objective=self.objective or base.objective)
        rows = itertools.product(
            self.model or (base.model,), self.img_size or (None,), self.batch_size or (base.batch_size,)
        )
        configs = [replace(base, model=model, img_size=size, batch_size=batch) for model, size, batch in rows]
        with join(self.device) as group:
            try:
                result = scaling(configs, group, self.rounds)
            except (RuntimeError, AssertionError) as error:  # timm's models reject a size only when they run
                raise ConfigError(f"a step cannot be measured with these settings: {error}") from error
            status = show(result, table, self.out, self.json) if group.is_main else 0
            # A failed compilation leaves the figures of an eager step, which nobody asked for.
            return 1 if self.compile != "auto" and any(r["compile"] != self.compile for r in result["rows"]) else status


@dataclass
class BenchmarkInfer(BenchmarkFlags):
    """Measure a model and its peers in PyTorch and ONNX Runtime: latency, throughput, memory, size."""

    models: Positional[tuple[str, ...]] = ("mlit_nano", "mlit_xxs", "twin:mlit_xxs")
    """Our models, timm:NAME, or twin:NAME: timm's VisionTransformer with the shape of our NAME."""
    img_size: int = 36
    """Image side in pixels, the same for all models."""
    patch_size: int | None = None
    """Patch side of our models and their twins; the model's default if not given."""
    forms: tuple[Form, ...] = get_args(Form)
    """Forms to measure; plain: PyTorch's exporter without our rewriting."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of CPU threads for the latency."""
    rounds: int = 30
    """Number of runs; their median is reported."""
    chart: str | None = None
    """Also write a chart of the latencies to this PNG."""

    def execute(self) -> int:
        from ..benchmark.infer import chart, run, table

        if self.rounds < 1 or not self.models or not self.forms or not self.threads or min(self.threads) < 1:
            raise ConfigError("--rounds and --threads must be at least 1, and models and forms must be named")
        if self.img_size < 1 or (self.patch_size is not None and self.patch_size < 1):
            raise ConfigError(
                f"--img-size and --patch-size must be at least 1, got {self.img_size} and {self.patch_size}"
            )
        if self.chart and Path(self.chart).suffix.lower() != ".png":
            raise ConfigError(f"--chart must name a .png file, got {self.chart}")
        check_places(self.chart, self.out)
        result = run(self.models, self.img_size, self.patch_size, self.forms, self.threads, self.rounds)
        status = show(result, table, self.out, self.json)
        if self.chart:
            chart(result, Path(self.chart))
        return status

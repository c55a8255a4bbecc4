"""Measures images per second of batched augmentation, compared with per-image loops of torchvision and timm.

All methods do the same work: random resized crop, flip, AutoAugment's CIFAR-10 policy, normalisation, a float32 batch. Every
loop starts from decoded images (PIL images or uint8 tensors) and ends with `torch.stack`. The loops use no worker processes.
Each method runs once per round, so that other programs slow down all methods equally. The results are medians. On an
accelerator, only our augmentation runs, in batches of 128 as in a training run.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..chance import Chance
from ..config import Augmentation
from ..data.augment import Augmenter
from ..data.feed import Feed
from ..data.loader import Sampler
from ..data.policies import sub_policies_raw
from ..device import use_threads, wait
from ..recipes import recipe
from ..results import machine
from . import train

_AUGMENT = Augmentation(flip="random", crop="resized", crop_scale=(0.08, 1.0), policy="cifar10")
_MEAN = _STD = (0.5, 0.5, 0.5)
_LOOP = 256  # images per round of a loop; its speed does not depend on the batch size
OURS = "feathervit"


def run(
    sizes: Sequence[int] = (32, 64, 96),
    threads: Sequence[int] = (1, 2),
    batch: int = 1024,
    repeats: int = 7,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measures all methods and returns JSON-ready results, which `table` formats.

    "rows": one per size, number of threads and method: images_per_second (median of `repeats`). "summary": our speed divided
    by the speed of the fastest loop, per size and number of threads (CPU). "step": seconds of a training step of `mlit_xxs`
    with and without augmentation, with the most threads.
    """
    rows, summary = [], []
    if device != "cpu":
        for size in sorted({36, *sizes}):
            speeds = _speeds({OURS: _fed(random_images(batch, size), torch.device(device))}, repeats, device)
            rows += _rows(speeds, size, None, device)
    else:
        for size in sizes:
            images = random_images(batch, size)
            contenders = {OURS: (_ours(images), batch)}
            contenders |= {name: (loop, _LOOP) for name, loop in loops(images[:_LOOP]).items()}
            for count in threads:
                with use_threads(count):
                    speeds = _speeds(contenders, repeats, device)
                rows += _rows(speeds, size, count, device)
                best = max((v, k) for k, v in speeds.items() if k != OURS)
                summary.append(
                    {"size": size, "threads": count, "fastest_loop": best[1], "ratio": speeds[OURS] / best[0]}
                )
    return {
        "what": "random resized crop, flip, AutoAugment CIFAR-10, normalise",
        "batch": batch,
        "repeats": repeats,
        "torch": torch.__version__,
        "machine": machine(),
        "rows": rows,
        "summary": summary,
        "step": step_time(min(batch, 128), repeats, device, max(threads)),
    }


def table(found: dict[str, Any]) -> str:
    """Formats the measurements of `run` as text."""
    m = found["machine"]
    lines = [
        f"{found['what']}; batches of {found['batch']}, medians of {found['repeats']}",
        f"{m['cpu']}, {m['cores']} cores, {m['gpu'] or 'no GPU'}, torch {found['torch']}",
        "",
        f"{'px':>4} {'threads':>8}  {'images/s':>10}  method",
    ]
    for row in found["rows"]:
        where = row["threads"] or row["device"]
        lines.append(f"{row['size']:>4} {where:>8}  {row['images_per_second']:>10,.0f}  {row['name']}")
    lines.append("")
    for s in found["summary"]:
        lines.append(
            f"{s['size']} px, {s['threads']} thread(s): {s['ratio']:.1f} times the fastest loop ({s['fastest_loop']})"
        )
    step = found["step"]
    share = 1 - step["without"] / step["with"]
    times = f"{1e3 * step['with']:.1f} ms with the mlit_cifar100 recipe's augmentation, {1e3 * step['without']:.1f} ms without"
    lines.append(
        f"a step of mlit_xxs, {step['batch']} images of 36 px, {step['threads']} thread(s): {times} ({100 * share:.1f} %)"
    )
    return "\n".join(lines)


def random_images(n: int, size: int) -> Tensor:
    """Returns uint8 images [n, 3, size, size]: crops of several scales from the two sample photographs of scikit-learn."""
    from sklearn.datasets import load_sample_images

    from ..data.image import resize

    photos = [torch.tensor(p).permute(2, 0, 1) for p in load_sample_images().images]
    rng = np.random.default_rng(0)
    out = []
    for i in range(min(n, _LOOP)):
        photo = photos[i % len(photos)]
        side = int(rng.integers(size, min(4 * size, photo.shape[1])))
        y, x = rng.integers(0, photo.shape[1] - side + 1), rng.integers(0, photo.shape[2] - side + 1)
        out.append(resize(photo[:, y : y + side, x : x + side], size))
    return torch.stack([out[i % len(out)] for i in range(n)])


def loops(images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Returns the loops over images. Each converts decoded images to a normalised float32 batch."""
    from PIL import Image
    from timm.data.auto_augment import AugmentOp
    from timm.data.auto_augment import AutoAugment as TimmAutoAugment
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    size, (mean, std) = images.shape[-1], (_MEAN, _STD)
    scale, ratio = _AUGMENT.crop_scale, _AUGMENT.crop_ratio
    policy = v1.AutoAugmentPolicy.CIFAR10
    tensors = list(images)
    pil = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images]
    # The same sub-policies with operations of timm, which have other names. torchvision uses nearest sampling.
    names = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel", "Posterize": "PosterizeIncreasing"}
    hparams = {"interpolation": Image.Resampling.NEAREST}
    timm_policy = TimmAutoAugment(
        [
            [AugmentOp(names.get(op, op), p, 0 if level is None else level, hparams) for op, p, level in row]
            for row in sub_policies_raw("cifar10")
        ]
    )

    to_float = v1.ConvertImageDtype(torch.float32)
    v1_head = [v1.RandomResizedCrop(size, scale, ratio), v1.RandomHorizontalFlip(), v1.AutoAugment(policy)]
    v2_head = [v2.RandomResizedCrop(size, scale, ratio), v2.RandomHorizontalFlip(), v2.AutoAugment(policy)]
    timm_head = [RandomResizedCropAndInterpolation(size, scale, ratio), v1.RandomHorizontalFlip(), timm_policy]
    chains = {
        "torchvision, PIL": (v1.Compose([*v1_head, v1.ToTensor(), v1.Normalize(mean, std)]), pil),
        "torchvision, tensor": (v1.Compose([*v1_head, to_float, v1.Normalize(mean, std)]), tensors),
        "torchvision v2, tensor": (
            v2.Compose([*v2_head, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]),
            tensors,
        ),
        "timm, PIL": (v1.Compose([*timm_head, v1.ToTensor(), v1.Normalize(mean, std)]), pil),
    }
    return {
        name: lambda chain=chain, source=source: torch.stack([chain(x) for x in source])
        for name, (chain, source) in chains.items()
    }


def step_time(batch: int, repeats: int, device: str, threads: int) -> dict[str, float]:
    """Measures the median seconds of a step of `mlit_xxs`, "with" and "without" the augmentation of mlit_cifar100."""
    config = replace(recipe("mlit_cifar100"), img_size=36, batch_size=batch, device=device, compile="off")
    with use_threads(threads):
        milliseconds = train.run(config, steps=1, rounds=repeats)["ms"]
    total = sum(milliseconds.values())
    seconds = {"with": total / 1e3, "without": (total - milliseconds["data"]) / 1e3}
    return {"batch": config.batch_size, "threads": threads, **seconds}


def _ours(images: Tensor) -> Callable[[], Tensor]:
    augmenter = Augmenter(_AUGMENT, images.shape[-1], 10, _MEAN, _STD)
    labels, indices = torch.zeros(len(images), dtype=torch.long, device=images.device), torch.arange(len(images))
    steps = itertools.count()
    return lambda: augmenter(images, labels, indices, Chance(0, next(steps)), 0)[0]


def _fed(images: Tensor, device: torch.device) -> tuple[Callable[[], None], int]:
    """Returns a function that makes a group of batches, as in a run on an accelerator, and the number of its images."""
    augmenter = Augmenter(_AUGMENT, images.shape[-1], 10, _MEAN, _STD)
    n = len(images)
    feed = Feed(images, torch.zeros(n, dtype=torch.long), [Sampler(n, min(n, 128), 0)], augmenter, 0, device)
    steps = itertools.count()

    def work() -> None:
        for step in itertools.islice(steps, feed.ahead):
            feed.batch(step)

    return work, feed.ahead * min(n, 128)


def _speeds(contenders: dict[str, tuple[Callable[[], Tensor], int]], repeats: int, device: str) -> dict[str, float]:
    """Measures the median images per second of each method, given as (work, number of images)."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    times = 1 if device == "cpu" else 5  # number of calls per measurement, to keep the queue of a GPU full
    for repeat in range(-1, repeats):  # the first round warms up
        for name, (work, _) in contenders.items():
            wait(torch.device(device))
            start = time.perf_counter()
            for _ in range(times):
                work()
            wait(torch.device(device))
            if repeat >= 0:
                seconds[name].append((time.perf_counter() - start) / times)
    return {name: n / statistics.median(seconds[name]) for name, (_, n) in contenders.items()}


def _rows(speeds: dict[str, float], size: int, threads: int | None, device: str) -> list[dict[str, Any]]:
    return [
        {"size": size, "threads": threads, "device": device, "name": name, "images_per_second": speed}
        for name, speed in speeds.items()
    ]

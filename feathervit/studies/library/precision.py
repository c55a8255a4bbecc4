"""Compares training in bfloat16 with training in float32 on the CPU."""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Stage, Study

_RUNS: dict[str, Stage] = {
    "mlit_xxs on cifar10": {
        "recipe": "mlit_cifar10",
        "data": "cifar10",
        "model": "mlit_xxs",
        "img_size": 32,
        "patch_size": 4,
        "split.train_per_class": 1_000,
        "epochs": 3,
    },
    "digits": {"recipe": "digits", "data": "digits"},
}

precision = Study(
    name="precision",
    question="Does training in bfloat16 cost accuracy on the CPU?",
    base=recipe("digits"),
    arms={
        f"{name}, {kind}": {**run, "precision": kind} for name, run in _RUNS.items() for kind in ("float32", "bfloat16")
    },
    sizes={"cpu": Size()},
)

"""The cost of a training step is measured for our models and timm models."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

from feathervit.benchmark import train as benchmark
from feathervit.benchmark.train import PARTS, run, scaling, table
from feathervit.config import Augmentation, OptimConfig, RunConfig
from feathervit.models import create_model
from feathervit.models.cost import cost
from feathervit.training.distributed import Group
from feathervit.training.trainer import Trainer


@pytest.mark.parametrize("model", ["mlit_nano", "timm:test_resnet"])
def test_training_figures(model):
    augment = Augmentation(flip="random", crop="resized", policy="cifar10", mixup=0.2)
    config = RunConfig(
        model=model,
        img_size=32,
        patch_size=None if ":" in model else 8,
        batch_size=8,
        augment=augment,
    )
    found = run(config, steps=1, rounds=2)
    assert found["images_per_s"] > 0
    assert set(found["ms"]) == set(PARTS)
    assert all(ms > 0 for ms in found["ms"].values())
    assert found["peak_mb"] > 10
    json.dumps(found)
    assert "images/s" in table({"rows": [found]})


def test_parts_add_up_to_a_step():
    found = run(RunConfig(model="mlit_nano", img_size=32, patch_size=4, batch_size=32), steps=2, rounds=3)
    step = 32 / found["images_per_s"]
    assert sum(found["ms"].values()) / 1e3 == pytest.approx(step, rel=1.0)  # machines are shared


def test_micro_steps_are_parts_of_one_step(monkeypatch):
    """Each part is the sum over the micro-steps: with a clock of one second per reading, from the order of the calls."""
    config = RunConfig(model="mlit_nano", img_size=16, patch_size=8, batch_size=8)
    clock = itertools.count()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(clock)))
    parts = [run(replace(config, accumulate=n), steps=1, rounds=1)["ms"] for n in (1, 2)]
    assert all(set(ms) == set(PARTS) and min(ms.values()) > 0 for ms in parts)
    more = {name: parts[1][name] - parts[0][name] for name in PARTS}
    assert more["optimiser"] == 0
    assert more["data"] > 0 and more["forward"] > 0 and more["backward"] > 0


def test_accumulation_excludes_cuda_graphs(monkeypatch):
    """On a GPU, a step with micro-steps is measured in the mode of a long run."""
    chosen, original = [], benchmark.choose_compile

    def on_gpu(asked, device, **rest):
        chosen.append(original(asked, torch.device("cuda"), **rest)[0])
        return "off", ""

    monkeypatch.setattr(benchmark, "choose_compile", on_gpu)
    for n in (1, 2):
        run(RunConfig(model="mlit_nano", img_size=16, patch_size=8, batch_size=8, accumulate=n), steps=1, rounds=1)
    assert chosen == ["reduce-overhead", "default"]


def test_the_trainers_step_is_measured(monkeypatch):
    """The measured step includes the moving average, clipping and accelerated layers."""
    seen = []
    original = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, *args: (seen.append(self), original(self, *args)))
    optim = OptimConfig(ema=0.9, clip_grad=1.0)
    run(RunConfig(model="mlit_nano", img_size=16, patch_size=8, batch_size=4, optim=optim), steps=3, rounds=2)
    assert len(seen) == 2 + 2 * (3 + 1)  # warming up; in each round three steps together and one in parts
    assert seen[0].averaged is not seen[0].model


def test_a_step_counts_as_three_forward_passes():
    config = RunConfig(model="timm:test_vit", img_size=160, batch_size=2)
    found = run(config, steps=1, rounds=1)
    model = create_model("timm:test_vit", img_size=160, num_classes=100)
    assert found["tflops"] == pytest.approx(6 * cost(model, 160).macs * found["images_per_s"] / 1e12)


@pytest.mark.parametrize("objective", ["reconstruction", "joint"])
def test_other_objectives(objective):
    config = RunConfig(model="mlit_nano", objective=objective, img_size=32, patch_size=8, batch_size=8)
    found = run(config, steps=1, rounds=1)
    assert found["objective"] == objective
    assert found["tflops"] > 0


def test_scaling_has_one_row_per_configuration():
    configs = [RunConfig(model="mlit_nano", img_size=32, patch_size=8, batch_size=n) for n in (4, 8)]
    found = scaling(configs, Group(), rounds=1)
    assert [row["batch_size"] for row in found["rows"]] == [4, 8]
    assert table(found).count("images/s") == 2


@pytest.mark.parametrize(
    ("teacher", "classes", "channels"), [("feather_xxs.cifar100", 100, 3), ("mlit_nano.digits", 10, 1)]
)
def test_the_student_has_the_classes_and_channels_of_its_teacher(teacher, classes, channels):
    config = RunConfig(
        model="mlit_nano", objective="distillation", teacher=teacher, img_size=16, patch_size=8, batch_size=4
    )
    found = run(config, steps=1, rounds=1)
    student = create_model("mlit_nano", img_size=16, patch_size=8, num_classes=classes, in_chans=channels)
    assert found["parameters"] == sum(p.numel() for p in student.parameters())
    assert found["images_per_s"] > 0

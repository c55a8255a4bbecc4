"""Distillation: the loss against its formula, the teacher's own size and normalisation, invalid teachers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import feathervit
from feathervit.config import ImageConfig, LossConfig, RunConfig
from feathervit.data import load_data
from feathervit.training.objectives import Distillation
from feathervit.training.teacher import load_teacher


@pytest.fixture
def teacher(arrays, tmp_path, small):
    other = {"img_size": 24, "images.mean": (0.4, 0.5, 0.6), "images.std": (0.2, 0.3, 0.25)}
    feathervit.train(data=arrays, out=tmp_path / "teacher", epochs=10, **{**small, **other})
    return tmp_path / "teacher"


def test_loss_equals_hintons_formula():
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
    x, y, t = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0]), 3.0
    loss, figures = Distillation(student, LossConfig(teacher_share=0.6, temperature=t), teacher)(x, y)
    p, q = (teacher(x) / t).softmax(-1), (student(x) / t).softmax(-1)
    distance = t * t * (p * (p.log() - q.log())).sum(-1).mean()
    assert_close(loss, 0.4 * F.cross_entropy(student(x), y) + 0.6 * distance)
    assert_close(figures["distillation"], distance)


def test_the_teacher_gives_the_outputs_of_its_own_predictor(teacher, arrays):
    """On images normalised for the student, its outputs are equal to those of its own predictor."""
    images = load_data(arrays, img_size=16).train.images
    config = RunConfig(teacher=str(teacher), img_size=16, images=ImageConfig(mean=(0.5,), std=(0.5,)))
    model = load_teacher(config, ("0", "1", "2"), 3)
    assert not model.train().training
    given = (images / 255 - 0.5) / 0.5
    alone = feathervit.load(teacher)
    want = alone.probabilities(images)
    assert_close(model(given).softmax(-1), want, atol=2e-2, rtol=0)  # the predictor rounds to whole grey levels
    assert (model(given).argmax(-1) == want.argmax(-1)).float().mean() > 0.97


def test_a_student_learns_and_resumes(teacher, arrays, tmp_path, small):
    arguments = {"objective": "distillation", "teacher": teacher, "epochs": 12, **small}
    outcome = feathervit.train(data=arrays, out=tmp_path / "run", max_minutes=1e-6, **arguments)
    while not outcome.finished:
        outcome = feathervit.train(data=arrays, out=tmp_path / "run", resume=True, max_minutes=0.05)
    rows = outcome.result.epochs
    assert rows[-1]["train_distillation"] < 0.7 * rows[0]["train_distillation"]
    assert outcome.result.parameters == sum(p.numel() for p in feathervit.load(tmp_path / "run").model.parameters())

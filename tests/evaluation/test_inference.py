"""The figures of validation against the full set of figures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from feathervit.config import RunConfig
from feathervit.data import ImageSet
from feathervit.evaluation import inference
from feathervit.evaluation.inference import accuracy_and_loss, logits
from feathervit.evaluation.metrics import score

CPU = torch.device("cpu")
CONFIG = RunConfig(img_size=8)


class Linear(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 64, classes)

    def forward(self, x):
        assert not self.training
        return self.layer(x.flatten(1))


def images(n: int, classes: int) -> ImageSet:
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=g)
    labels = torch.randint(classes, (n,), generator=g)
    return ImageSet(pixels, labels, tuple(map(str, range(classes))), [""] * n, "some")


@pytest.mark.parametrize("n", [7, 500, 1203])
def test_accuracy_and_loss_equal_the_full_figures(n):
    data, model = images(n, 6), Linear(6).train()
    top1, loss, macro = accuracy_and_loss(model, data, CONFIG, CPU)
    found = score(logits(model, data.images, CONFIG, CPU).softmax(-1), data.labels, data.class_names)
    assert top1 == pytest.approx(found.top1, abs=1e-12)
    assert loss == pytest.approx(found.nll, rel=1e-5)
    assert macro == pytest.approx(found.balanced_accuracy, abs=1e-6)


def test_a_nonfinite_logit_shows_in_the_loss():
    data, model = images(600, 6), Linear(6)
    model.layer.bias.data[2] = math.nan
    assert math.isnan(accuracy_and_loss(model, data, CONFIG, CPU)[1])


def test_flips_are_averaged_before_the_softmax():
    data, model = images(9, 4), Linear(4)
    x = torch.tensor(data.images.numpy()).float() / 127.5 - 1
    with torch.no_grad():
        by_hand = (model.eval()(x) + model(torch.tensor(x.numpy()[..., ::-1].copy()))) / 2
    found = logits(model, data.images, CONFIG, CPU, flip=True)
    torch.testing.assert_close(found, by_hand)
    assert not torch.allclose(found, logits(model, data.images, CONFIG, CPU), atol=1e-3)


@pytest.mark.gpu
def test_validation_on_the_gpu_waits_for_it_once(monkeypatch):
    """There is no copy and no wait until all batches are done."""
    device = torch.device("cuda")
    data, model = images(1203, 6), Linear(6).to(device)
    on_gpu = ImageSet(data.images.to(device), data.labels.to(device), data.class_names, data.sources, data.name)
    accuracy_and_loss(model, on_gpu, CONFIG, device)
    original, waits = torch.stack, []

    def stacked(tensors, *args):
        torch.cuda.set_sync_debug_mode("default")
        waits.append(len(tensors))
        return original(tensors, *args)

    monkeypatch.setattr(inference.torch, "stack", stacked)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = accuracy_and_loss(model, on_gpu, CONFIG, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == [3, 3]
    assert found == pytest.approx(accuracy_and_loss(model.cpu(), data, CONFIG, CPU), rel=1e-4)

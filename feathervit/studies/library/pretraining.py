"""Measures the value of pre-training on the same images, at an equal budget."""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Study
from .sizes import SMALLEST

# Table 3, adapted to runs shorter than its warm-up. The learning rate in the table is for batches of 1280.
PRETRAIN = {
    "recipe": "mae_cifar100_xxs",
    "batch_size": 128,
    "optim.name": "muon",
    "optim.betas": (0.9, 0.95),
    "optim.lr_batch": 0,
    "lr": 3e-3,
}
_FINE_TUNE = {"start_from": "{previous}"}

pretrain_or_scratch = Study(
    name="pretrain-or-scratch",
    question="At an equal budget on the same few images: is it better to train on labels from scratch, to pre-train "
    "without labels and fine-tune, or to do both at once?",
    base=recipe("mlit_cifar100"),
    arms={
        "scratch": {},
        "pre-trained, then fine-tuned": [{**PRETRAIN, "share": 0.5}, {**_FINE_TUNE, "share": 0.5}],
        "joint": {"objective": "joint"},
        "pre-trained, linear probe": PRETRAIN,
    },
    sizes={"cpu": Size(minutes=5, fields=SMALLEST), "gpu": Size(epochs=400, fields={"model": "mlit_xxs"})},
)

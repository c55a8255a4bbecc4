"""Measures what the package's weights add on small datasets that they were not trained on, with the recipe for folders.

Images have their native size. The linear probe trains only the head, since a layer-wise decay of 1e-9 leaves all earlier
layers unchanged. Trials choose between fine-tuning with layer-wise decay and without.
"""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Stage, Study
from ..trials import trials_of

WEIGHTS = "feather_xxs.cifar100"
_FEW = {"split.seed": "{seed}"}  # each seed draws different images
_CIFAR10 = {"data": "cifar10", "split.val_fraction": 0.01, **_FEW}  # 500 other training images are for validation
_DATA: dict[str, Stage] = {
    "20 per class of sign-digits": {"data": "sign-digits", "split.train_per_class": 20, **_FEW},
    "sign-digits": {"data": "sign-digits"},
    "flowers102": {"data": "flowers102"},
    "20 per class of cifar10": {
        **_CIFAR10,
        "split.train_per_class": 20,
        "batch_size": 32,
    },  # as for a folder of 200 images
    "500 per class of cifar10": {**_CIFAR10, "split.train_per_class": 500},
}
_WAYS: dict[str, Stage] = {
    "scratch": {"start_from": "none"},
    "linear probe": {"start_from": WEIGHTS, "optim.layer_decay": 1e-9},
    "fine-tuned": {"start_from": WEIGHTS},
}
_DECAYS = {f"layer decay {decay}": {"optim.layer_decay": decay} for decay in (1.0, 0.9, 0.65)}

transfer = Study(
    name="transfer",
    question=f"On small sets of other images: what do the weights {WEIGHTS} add to training from scratch in the same time?",
    base=recipe("folder"),
    arms={f"{way} on {data}": {**stage, **change} for data, stage in _DATA.items() for way, change in _WAYS.items()},
    sizes={"cpu": Size(minutes=3)},
    candidates={f"fine-tuned on {data}": _DECAYS for data in _DATA},
    trials=Size((0,), minutes=1),
)
transfer_trials = trials_of(transfer)

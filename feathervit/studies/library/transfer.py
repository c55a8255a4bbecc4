"""Measures the gain from the weights of the package on other small datasets, with the recipe for folders.

The recipe chooses the image size. Trials select fine-tuning with or without layer-wise decay. A layer-wise decay of 1e-9 trains
only the head. This is no linear probe, because the running statistics of the batch norms adapt too.
"""

from __future__ import annotations

from dataclasses import replace

from ...recipes import recipe
from ..definition import Size, Stage, Study
from ..trials import trials_of

WEIGHTS = "feather_xxs.cifar100"
_FEW = {"split.seed": "{seed}"}  # each seed selects different images
CIFAR10 = {"data": "cifar10", "split.val_fraction": 0.01, **_FEW}  # 500 other training images are used for validation
_DATA: dict[str, Stage] = {
    "20 per class of sign-digits": {"data": "sign-digits", "split.train_per_class": 20, **_FEW},
    "sign-digits": {"data": "sign-digits"},
    "flowers102": {"data": "flowers102"},
    # The batch size is that for a folder of 200 images.
    "20 per class of cifar10": {**CIFAR10, "split.train_per_class": 20, "batch_size": 32},
    "500 per class of cifar10": {**CIFAR10, "split.train_per_class": 500},
}
_WAYS: dict[str, Stage] = {
    "scratch": {"start_from": "none"},
    "head and batch-norm statistics": {"start_from": WEIGHTS, "optim.layer_decay": 1e-9},
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

NANO = "feather_nano.cifar100"
_NANO_WAYS: dict[str, Stage] = {
    "scratch": {"start_from": "none", "model": "feather_nano"},
    "fine-tuned": {"start_from": NANO},
}
transfer_nano = Study(
    name="transfer-nano",
    question=f"On small sets of other images: what do the weights {NANO} add to training from scratch in the same time?",
    base=recipe("folder"),
    arms={
        f"{way} on {data}": {**_DATA[data], **change}
        for data in ("flowers102", "20 per class of cifar10")
        for way, change in _NANO_WAYS.items()
    },
    sizes={"cpu": Size(minutes=1)},
)

_SIZES = ((32, 4), (48, 4), (64, 4), (64, 8))  # image and patch size
image_size = Study(
    name="image-size",
    question=f"At which size are photographs of 64 px best shown to a model, from the weights {WEIGHTS} and from scratch?",
    base=replace(recipe("folder"), data="flowers102"),
    arms={
        f"{way}, {size} px in patches of {patch}": {"start_from": start, "img_size": size, "patch_size": patch}
        for way, start in (("from weights", WEIGHTS), ("scratch", "none"))
        for size, patch in _SIZES
    },
    sizes={"cpu": Size(minutes=1)},
)

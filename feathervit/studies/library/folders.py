"""Compares models on small folders of images, trained from scratch in three minutes on one thread.

The data is signed digits and Flowers-102 at 64 px, and a folder of 600 images: 43 classes of CIFAR-100 with 14 images each.
430 other training images are used for validation.
"""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Stage, Study

CLASSES = (  # the first 43 of every second class of CIFAR-100 by name
    *("apple", "baby", "beaver", "bee", "bicycle", "bowl", "bridge"),
    *("butterfly", "can", "caterpillar", "chair", "clock", "cockroach", "crab"),
    *("cup", "dolphin", "flatfish", "fox", "hamster", "kangaroo", "lamp"),
    *("leopard", "lizard", "man", "motorcycle", "mouse", "oak_tree", "orchid"),
    *("palm_tree", "pickup_truck", "plain", "poppy", "possum", "raccoon", "road"),
    *("rose", "seal", "shrew", "skyscraper", "snake", "squirrel", "sunflower"),
    "table",
)
_DATA: dict[str, Stage] = {
    "sign-digits": {"data": "sign-digits", "img_size": 64},
    "flowers102": {"data": "flowers102", "img_size": 64},
    "600 of cifar100": {
        "data": "cifar100",
        "img_size": 32,
        "batch_size": 32,  # choice of the recipe for 600 images
        "reading.classes": CLASSES,
        "split.train_per_class": 14,
        "split.val_fraction": 0.02,
    },
}
_MODELS = {
    "feather_xxs": "feather_xxs",
    "feather_nano": "feather_nano",
    "mlit_nano": "mlit_nano",
    "ResNet-18 a quarter as wide": "timm:resnet18_xxs",
}

folders = Study(
    name="folders",
    question="Which model is best on a small folder of images, from scratch in three minutes of one thread?",
    base=recipe("folder"),
    arms={
        f"{name} on {data}": {**stage, "model": model, "start_from": "none"}
        for data, stage in _DATA.items()
        for name, model in _MODELS.items()
    },
    sizes={"cpu": Size(minutes=3)},
)

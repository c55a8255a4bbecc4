"""Sizes that several studies are run at."""

from __future__ import annotations

# 50 pictures of each class at 32 px in 64 patches: of CIFAR-100, what two cores train on in minutes.
FEW = {"img_size": 32, "patch_size": 4, "split.val_fraction": 0.02, "split.train_per_class": 50}
SMALLEST = {"model": "mlit_xxs", **FEW}

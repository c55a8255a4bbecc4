"""Defines sizes that are common to several studies."""

from __future__ import annotations

# 50 images per class at 32 px in 64 patches. On CIFAR-100, a run takes minutes on two cores.
FEW = {"img_size": 32, "patch_size": 4, "split.val_fraction": 0.02, "split.train_per_class": 50}
SMALLEST = {"model": "mlit_xxs", **FEW}

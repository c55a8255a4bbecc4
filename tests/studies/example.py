"""A study that takes seconds."""

from __future__ import annotations

from feathervit.recipes import recipe
from feathervit.studies import Size, Study

SMALL = {"batch_size": 32, "arch.depth": 2, "arch.dim": 32, "img_size": 8, "patch_size": 2, "split.train_per_class": 8}


def digits(arms=None, seeds=(0, 1), epochs=2, **size) -> Study:
    """A study that takes seconds: 80 handwritten digits, two small layers."""
    arms = arms or {"slow": {"lr": 1e-3}, "quick": {"lr": 5e-3}}
    fields = {**SMALL, **size.pop("fields", {})}
    return Study("digits", "Which rate?", recipe("digits"), arms, {"": Size(seeds, fields, epochs, **size)})

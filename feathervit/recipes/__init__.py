"""Collects the recipes: named configurations, one file per paper table or task.

`RECIPES` lists them by name. The default recipe of a dataset is the recipe written for it, or else `folder`.
"""

from __future__ import annotations

from ..config import RunConfig
from ..errors import UnknownNameError
from .base import Recipe
from .digits import digits, few_digits, mae_digits
from .feather import FEATHER
from .folder import folder, mae_folder
from .joint import joint_cifar100
from .mlit import TABLE_6
from .mmlit import TABLE_3, TABLE_5, table_4
from .peers import PEERS
from .poorvit import poorvit

RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        *(digits, few_digits, mae_digits),
        *FEATHER,
        *TABLE_6,
        *TABLE_3,
        table_4,
        *TABLE_5,
        *(joint_cifar100, poorvit, *PEERS, folder, mae_folder),
    )
}


def recipe(name: str) -> RunConfig:
    """Returns the configuration of a named recipe. Raises UnknownNameError with the nearest names."""
    if not isinstance(name, str) or name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name].config


ADAPTIVE = ("folder", "mae_folder")  # recipes that adapt to the images


def recipe_for(data: str, pretraining: bool = False, fine_tuning: bool = False) -> RunConfig:
    """Returns the default recipe of a dataset: to train a classifier, to pre-train without labels, or to fine-tune weights.

    A recipe with layer-wise decay, if the dataset has one, is the default for fine-tuning.
    """
    fits = [r.config for r in RECIPES.values() if (r.config.objective == "reconstruction") == pretraining]
    fits = [c for c in fits if data and c.data == data]
    fits = [c for c in fits if fine_tuning and c.optim.layer_decay < 1] + fits
    return fits[0] if fits else (mae_folder if pretraining else folder).config


__all__ = ["ADAPTIVE", "RECIPES", "Recipe", "recipe", "recipe_for"]

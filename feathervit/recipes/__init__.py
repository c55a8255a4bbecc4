"""The recipes: functions that return a `RunConfig`, one file a paper table or task.

`RECIPES` names them; a data set with a recipe of its own gets it when none is asked for, any other the `folder` recipe.
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
        *TABLE_6,
        *TABLE_3,
        table_4,
        *TABLE_5,
        *(joint_cifar100, poorvit, *PEERS, *FEATHER, folder, mae_folder),
    )
}


def recipe(name: str) -> RunConfig:
    """The configuration of a named recipe. Raises UnknownNameError with the nearest names."""
    if not isinstance(name, str) or name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name].config


ADAPTIVE = ("folder", "mae_folder")  # recipes that look at the pictures


def recipe_for(data: str, pretraining: bool = False, fine_tuning: bool = False) -> RunConfig:
    """The recipe a data set gets when none is asked for: to train a classifier, to pre-train without labels, or to fine-tune
    pre-trained weights, which is told by its layer-wise decay where the set has such a recipe."""
    fits = [r.config for r in RECIPES.values() if (r.config.objective == "reconstruction") == pretraining]
    fits = [c for c in fits if data and c.data == data]
    fits = [c for c in fits if fine_tuning and c.optim.layer_decay < 1] + fits
    return fits[0] if fits else (mae_folder if pretraining else folder).config


__all__ = ["ADAPTIVE", "RECIPES", "Recipe", "recipe", "recipe_for"]

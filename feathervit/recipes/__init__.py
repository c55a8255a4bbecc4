"""The recipes: functions that return a `RunConfig`, one file a paper table or task.

`RECIPES` names them; a data set with a recipe of its own gets it when none is asked for, any other the `folder` recipe.
"""

from __future__ import annotations

from ..config import RunConfig
from ..errors import UnknownNameError
from .base import Recipe
from .digits import digits
from .folder import folder
from .mlit import TABLE_6
from .mmlit import table_4
from .poorvit import poorvit

RECIPES: dict[str, Recipe] = {r.name: r for r in (digits, *TABLE_6, table_4, poorvit, folder)}


def recipe(name: str) -> RunConfig:
    """The configuration of a named recipe. Raises UnknownNameError with the nearest names."""
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name].config


def recipe_for(data: str) -> RunConfig:
    """The recipe a data set gets when none is asked for."""
    return next((r.config for r in RECIPES.values() if data and r.config.data == data), folder.config)


__all__ = ["RECIPES", "Recipe", "recipe", "recipe_for"]

"""Defines and runs studies: a base recipe, arms and seeds with one budget. `cells.run_study` runs a study of `library`."""

from __future__ import annotations

from ..errors import UnknownNameError
from .definition import Size, Study, grid, read_study
from .library import STUDIES


def study(name: str) -> Study:
    """Returns a named study, or the study in a file NAME.json.

    Raises UnknownNameError with the nearest names, and ConfigError for an invalid file.
    """
    if name.endswith(".json"):
        return read_study(name)
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES, "a study of your own is a FILE.json; feathervit study lists all")
    return STUDIES[name]


__all__ = ["STUDIES", "Size", "Study", "grid", "read_study", "study"]

"""Defines the type of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import RunConfig


@dataclass(frozen=True)
class Recipe:
    """Holds a named configuration with its source, requirements, expected result and cost.

    `trained_in`: the training precision of the source, if known and not float32.
    """

    config: RunConfig
    source: str
    needs: str
    expected: str
    cost: str
    trained_in: str = ""

    @property
    def name(self) -> str:
        return self.config.recipe

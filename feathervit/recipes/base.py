"""What a recipe is."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import RunConfig


@dataclass(frozen=True)
class Recipe:
    """A named configuration and what a reader wants to know before running it.

    `trained_in`: the precision that the source trained in, where it is known and not float32.
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

"""Declares bounds of numbers in the type of a field: `dim: Annotated[int, Bounds(1, 16_384)] = 144`.

`check_bounds` reads them from the type. A limit that depends on other fields is checked where the field is used.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from ..errors import ConfigError


@dataclass(frozen=True)
class Bounds:
    """Holds the bounds of a finite number: from `least` to `most`, or with `open_end` below `most`."""

    least: float
    most: float = math.inf
    open_end: bool = False

    def __contains__(self, value: float) -> bool:
        return self.least <= value < math.inf and (value < self.most or (value == self.most and not self.open_end))

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"finite and at least {self.least:g}"
        return f"from {self.least:g} to {'below ' * self.open_end}{self.most:g}"


Share = Annotated[float, Bounds(0, 1)]
BelowOne = Annotated[float, Bounds(0, 1, open_end=True)]
AtLeastZero = Annotated[float, Bounds(0)]
Whole = Annotated[int, Bounds(0)]
Count = Annotated[int, Bounds(1)]
Pixels = Annotated[int, Bounds(1, 4096)]
Width = Annotated[int, Bounds(1, 16_384)]
Depth = Annotated[int, Bounds(1, 1_000)]


def check_bounds(config: Any, where: str = "") -> None:
    """Raises ConfigError, with the dotted name, for a field of a configuration outside its bounds."""
    for name, bounds in _bounds_of(type(config)).items():
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if bounds is not None and number is not None and number not in bounds:  # also true for NaN
                raise ConfigError(f"{where}{name} must be {bounds}, got {value}")
        if dataclasses.is_dataclass(value):
            check_bounds(value, f"{where}{name}.")


@functools.cache
def _bounds_of(kind: type) -> dict[str, Bounds | None]:
    return {name: _find(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}


def _find(hint: Any) -> Bounds | None:
    """Finds the bounds in a type or in a member of a union or tuple."""
    bounds = next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Bounds)), None)
    return bounds or next(filter(None, map(_find, get_args(hint))), None)

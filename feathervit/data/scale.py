"""Determines the value of white (the scale) in images of more than 8 bits, once per dataset.

The scale of integers is the full range of the smallest number of bits that holds the largest value (255, 1023, 4095, ...).
The scale of floats is 1, 255 or 65535; values up to a tenth above it count as overshoot. The configuration stores the scale
(`images.scale`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import DataError
from .depth import DEFAULTS
from .imageset import Values

INTEGERS = tuple(float(2**bits - 1) for bits in (1, 8, 10, 12, 14, 16, 24, 31))
FLOATS = (1.0, 255.0, 65535.0)
OVERSHOOT = 1.1
LEAST = 0.25  # images below this share of the range count as too dark


def merged(parts: Iterable[Values]) -> Values:
    """Merges the values of several splits."""
    tops: dict[str, list[float]] = {}
    least = 0.0
    for part in parts:
        for kind, values in part.tops.items():
            tops.setdefault(kind, []).extend(values)
        least = min(least, part.least)
    return Values(tops, least)


def find_scale(values: Values) -> float | None:
    """Returns the value of white, or None if no image has more than 8 bits.

    Raises DataError if integers and floats in one dataset have different scales.
    """
    highest = {kind: max(tops) for kind, tops in values.tops.items() if tops}
    scales = {kind: _scale(kind, top) for kind, top in highest.items()}
    if len(set(scales.values())) > 1:
        raise DataError(
            f"{len(values.tops['i'])} images hold integers up to {highest['i']:g} and {len(values.tops['f'])} floats up to "
            f"{highest['f']:g}: no single value is white in both; convert them to one kind, or set it with --images.scale"
        )
    return next(iter(scales.values()), None)


def found(values: Values, scale: float | None) -> list[str]:
    """Describes the values in images of more than 8 bits, and their scale (None: the default of the type)."""
    tops = _with_white(values, scale)
    if not tops:
        return []
    held = f"{len(tops):,} images of more than 8 bits hold values from {values.least:g} to {max(tops)[0]:g}"
    return [f"{held}; white is {_names(tops)} (images.scale)"]


def faults(values: Values, scale: float | None) -> list[str]:
    """Returns possible faults of images of more than 8 bits that are read with `scale`."""
    tops = _with_white(values, scale)
    out = []
    if dark := _dark(tops):
        out.append(
            f"{len(dark):,} of {len(tops):,} images of over 8 bits use under a quarter of the range up to "
            f"{_names(tops)}, and are nearly black; set another white with train --images.scale"
        )
    if over := sum(top > OVERSHOOT * white for top, white in tops):
        out.append(f"{over:,} of {len(tops):,} images hold values above {_names(tops)}, which become white")
    if values.least < 0:
        out.append(f"values below 0 (the least is {values.least:g}) become black")
    return out


def darkness(brightest_N: np.ndarray, values: Values, scale: float | None) -> list[str]:
    """Returns a line on nearly black images that `faults` does not report, or no line.

    `brightest_N`: the highest level in each image, from 0 to 255.
    """
    dark = brightest_N[brightest_N < LEAST * 255]
    if len(dark) <= len(_dark(_with_white(values, scale))):
        return []
    text = (
        f"{len(dark):,} of {len(brightest_N):,} images are nearly black: they use levels from 0 to {dark.max()} of 255"
    )
    return [f"{text}; scale their values"]


def _with_white(values: Values, scale: float | None) -> list[tuple[float, float]]:
    """Returns (largest value, value of white) of each image."""
    return [(top, scale or DEFAULTS[kind]) for kind, tops in values.tops.items() for top in tops]


def _dark(tops: list[tuple[float, float]]) -> list[float]:
    """Returns the largest values of the images that use under a quarter of the range."""
    return [top for top, white in tops if top < LEAST * white]


def _names(tops: list[tuple[float, float]]) -> str:
    return " and ".join(f"{white:.10g}" for white in sorted({white for _, white in tops}))


def _scale(kind: str, top: float) -> float:
    known, limit = (FLOATS, top / OVERSHOOT) if kind == "f" else (INTEGERS, top)
    return next((scale for scale in known if limit <= scale), top) if top > 0 else DEFAULTS[kind]

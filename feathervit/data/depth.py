"""Reads images of more than 8 bits per channel, and converts their values to 256 levels.

The value of white (`scale`) never depends on a single image. It is determined once per dataset (scale.py) and stored with the
weights. The default is the usual maximum of the type: 65,535 for integers, 1 for floats.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

DEFAULTS = {"i": 65535.0, "f": 1.0}


def file_mode(image: Image.Image) -> str:
    """Returns PIL's mode of an opened file. Appends ";16" for a colour file of 16 bits, which PIL reduces to 8."""
    args = image.tile[0][3] if getattr(image, "tile", None) else ""
    raw = args if isinstance(args, str) else next((a for a in args or () if isinstance(a, str)), "")
    colour, _, bits = raw.partition(";")
    return f"{colour};16" if bits.startswith("16") and not is_deep(image.mode) else image.mode


def is_deep(mode: str) -> bool:
    """Returns whether images of this mode hold more than 8 bits per channel."""
    return mode.startswith(("I", "F")) or mode.endswith(";16")


def colour_values(upper: np.ndarray, again: Image.Image) -> np.ndarray:
    """Returns the values of a file of 16 bits per channel, uint16 [H, W, C]: grey or RGB, with or without alpha.

    PIL keeps only the upper byte of each value: `upper`, uint8 [H, W, C]. `again` is the same file, opened a second time.
    Decoding it with the opposite byte order gives the lower bytes. If PIL does not support that order, the upper bytes are
    used as lower bytes.
    """
    mode = file_mode(again)
    if mode == "LA;16":  # read the four bytes per pixel as four channels
        again.tile = [tile._replace(args="RGBA") for tile in again.tile]
        bytes_HWC = np.asarray(again).astype(np.uint16)
        return bytes_HWC[..., 0::2] * 256 + bytes_HWC[..., 1::2]
    again.tile = [tile._replace(args=_other_order(tile.args)) for tile in again.tile]
    try:
        lower = np.asarray(again)
    except (OSError, ValueError):
        lower = upper
    return upper.astype(np.uint16) * 256 + lower


def _other_order(args: str | tuple) -> str | tuple:
    """Returns a tile's arguments with the opposite byte order in its raw mode: "RGB;16B" for "RGB;16L".

    N is the byte order of this machine.
    """
    if isinstance(args, tuple):
        return tuple(_other_order(a) if isinstance(a, str) and ";16" in a else a for a in args)
    big = args.endswith("B") or (args.endswith("N") and sys.byteorder == "big")
    return args[:-1] + ("L" if big else "B")


def value_range(values: np.ndarray, mode: str) -> tuple[str, float, float]:
    """Returns ("i" for integers or "f" for floats, smallest value, largest value), without alpha, infinities and NaN."""
    if mode in ("LA;16", "RGBA;16"):
        values = values[..., :-1]
    kind = "f" if values.dtype.kind == "f" else "i"
    values = values[np.isfinite(values)] if kind == "f" else values
    return (kind, float(values.min()), float(values.max())) if values.size else (kind, 0.0, 0.0)


def eight_bits(values: np.ndarray, scale: float | None, alpha: bool = False) -> np.ndarray:
    """Converts values from 0 to `scale` to levels from 0 to 255, uint8. Values outside are clipped.

    `alpha`: the last channel is transparency, which uses the range of the format.
    """
    white = scale or DEFAULTS["f" if values.dtype.kind == "f" else "i"]
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=white, neginf=0.0)
    levels = np.rint(np.clip(values, 0, white) * np.float32(255 / white)).astype(np.uint8)
    if alpha:
        levels[..., -1] = np.rint(values[..., -1] / 257)
    return levels

"""Makes figures without a window, and defines their colours.

Figures use matplotlib's `Figure`, not pyplot, so no global state changes. Names are drawn unchanged (no TeX).
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from matplotlib.figure import Figure

from ..files import make_folder, write_bytes

# Okabe and Ito's colours, which people with any colour vision can distinguish
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure, dpi: int = 100, transparent: bool = False) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():  # a letter that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(out, format="png", dpi=dpi, transparent=transparent, bbox_inches="tight", pad_inches=0.08)
    return out.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure and makes its folder. Raises RunFolderError if it cannot be written."""
    make_folder(path.parent)
    write_bytes(path, png(figure))
    return path

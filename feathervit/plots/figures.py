"""Creates and saves figures without a window, and defines their colours.

Figures use matplotlib's `Figure` instead of pyplot, so that no global state changes. Names are drawn unchanged (no TeX).
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..files import make_folder, write_bytes
from ..text import shown

# The colours of Okabe and Ito, which are distinguishable with any colour vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
LONGEST = 20  # maximum length of a name beside a chart


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure. `width` and `height` are in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def titled(axes: Any, title: str) -> None:
    """Writes the title of a chart."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")


def short(name: str) -> str:
    """Makes a name printable and truncates it to LONGEST characters."""
    name = shown(name)
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def png(figure: Figure, dpi: int = 100, transparent: bool = False) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():  # characters missing from the font are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(out, format="png", dpi=dpi, transparent=transparent, bbox_inches="tight", pad_inches=0.08)
    return out.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG and creates its folder. Raises RunFolderError if writing fails."""
    make_folder(path.parent)
    write_bytes(path, png(figure))
    return path

"""What the drawings have in common: figures without a window, pictures laid out as tiles, colours.

Figures are matplotlib's `Figure` alone, not pyplot: nothing global is touched. Names are drawn as they are (no TeX).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..data.imageset import with_channels
from ..files import make_folder, write_bytes
from ..text import shown

TILE = 96  # px, the least side of a picture among tiles
GAP = 6
# Okabe and Ito's colours, which people with any colour vision tell apart
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure, dpi: int = 100, transparent: bool = False) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():  # of letters that the font lacks: a box is drawn in their place
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(out, format="png", dpi=dpi, transparent=transparent)
    return out.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure, its folder made where it is missing. Raises RunFolderError where it cannot be written."""
    make_folder(path.parent)
    write_bytes(path, png(figure))
    return path


def rgb(images_BCSS: Tensor) -> np.ndarray:
    """uint8 pictures of any channels as [B, S, S, 3] from 0 to 1; of other than 1 or 3 channels the first is shown."""
    if images_BCSS.shape[1] not in (1, 3):
        images_BCSS = images_BCSS[:, :1]
    return with_channels(images_BCSS.cpu(), 3).permute(0, 2, 3, 1).numpy() / 255


def enlarge(pictures: np.ndarray) -> np.ndarray:
    """[..., S, S, 3] made at least `TILE` wide by a whole number, so that pixels stay what they are."""
    times = max(1, -(-TILE // pictures.shape[-2]))
    return pictures.repeat(times, -3).repeat(times, -2)


def over(picture_SS3: np.ndarray, map_SS3: np.ndarray, share: float) -> np.ndarray:
    """A map of colours laid over the grey picture: [S, S, 3]."""
    grey_SS = picture_SS3 @ (0.299, 0.587, 0.114)
    return share * map_SS3 + (1 - share) * grey_SS[..., None]


def draw_tiles(axes, rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str]) -> None:
    """Pictures [S, S, 3], all of one size, side by side in rows, with a name above each column."""
    side = len(enlarge(rows[0][0]))
    canvas = np.ones((len(rows) * (side + GAP) - GAP, len(columns) * (side + GAP) - GAP, 3))
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            top, left = r * (side + GAP), c * (side + GAP)
            canvas[top : top + side, left : left + side] = enlarge(tile)
    axes.imshow(canvas.clip(0, 1), interpolation="none")
    axes.axis("off")
    for c, name in enumerate(columns):
        axes.text(
            c * (side + GAP) + side / 2, -GAP, shown(name), ha="center", va="bottom", fontsize=8, parse_math=False
        )


def tiles_size(rows: int, columns: int) -> tuple[float, float]:
    """Width and height in inches that suit so many tiles."""
    return columns * 1.0 + 0.2, rows * 1.0 + 0.4


def heat(values: np.ndarray, name: str = "inferno") -> np.ndarray:
    """Values from 0 to 1 as colours [..., 3]."""
    return matplotlib.colormaps[name](values)[..., :3]

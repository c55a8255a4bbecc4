"""Arranges images in a grid with torchvision's `make_grid`, with names beside the rows and above the columns.

Legend: B batch, C channels, S image side, G side of a map.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale, to_pil_image
from torchvision.utils import make_grid

from ..config import ImageConfig
from ..data.imageset import with_channels
from ..files import make_folder, write_bytes
from ..text import shown

SIDE = 64  # px, minimum side of an image
GAP = 4
BAR = 160  # px, length of a colour bar
HEAT = "inferno"


def tiles(
    rows: Sequence[Tensor], names: Sequence[str] = (), columns: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Combines rows of images, uint8 [B, C, S, S] each, into one image.

    `names` are drawn to the left of the rows, and may have several lines. `columns` are drawn above, and `title` at the top.
    """
    cells = [enlarge(rgb(row), SIDE) for row in rows]
    side, count = max(row.shape[-1] for row in cells), max(map(len, cells))
    padded = [F.pad(row, (0, side - row.shape[-1]) * 2 + (0, 0, 0, count - len(row)), value=255) for row in cells]
    grid = to_pil_image(make_grid(torch.cat(padded), nrow=count, padding=GAP, pad_value=255))
    names = ["\n".join(map(shown, name.split("\n"))) for name in names]
    columns = [shown(name) for name in columns]
    large, small = font(16), font(11)
    left = max((int(large.getlength(line)) + 2 * GAP for name in names for line in name.split("\n")), default=0)
    head = 24 if title else 0
    top = head + (16 if any(columns) else 0)
    width = max(left + grid.width, int(large.getlength(title)) + 2 * GAP)
    canvas = Image.new("RGB", (width, top + grid.height), "white")
    canvas.paste(grid, (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), title, fill="black", font=large)
    for i, name in enumerate(names):
        draw.text((GAP, top + GAP + i * (side + GAP) + side // 2), name, fill="black", font=large, anchor="lm")
    for i, name in enumerate(columns):
        draw.text((left + GAP + i * (side + GAP) + side // 2, top), name, fill="black", font=small, anchor="mb")
    return canvas


def font(size: int) -> ImageFont.FreeTypeFont:
    """Returns Matplotlib's copy of DejaVu Sans, which is available everywhere and not limited to Latin letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def png_bytes(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def with_scale(image: Image.Image, low: str, high: str, name: str = HEAT) -> Image.Image:
    """Returns the image with a colour bar below it, from `low` to `high`. `name`: the colours, as for `heat`."""
    letters = font(11)
    before, after = (int(letters.getlength(text)) + 2 * GAP for text in (low, high))
    bar = to_pil_image((255 * heat(torch.linspace(0, 1, BAR)[None], name)).round().byte().expand(3, 12, BAR))
    canvas = Image.new("RGB", (max(image.width, before + BAR + after), image.height + 24), "white")
    canvas.paste(image, (0, 0))
    canvas.paste(bar, (before, image.height + 6))
    draw = ImageDraw.Draw(canvas)
    for x, text in ((GAP, low), (before + BAR + GAP, high)):
        draw.text((x, image.height + 12), text, fill="black", font=letters, anchor="lm")
    return canvas


def write_tiles(
    path: Path,
    rows: Sequence[Tensor],
    names: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    scale: tuple[str, ...] = (),
) -> Path:
    """Writes `tiles` as a PNG and returns its path. `scale`: arguments of `with_scale`. Raises RunFolderError."""
    image = tiles(rows, names, columns, title)
    make_folder(path.parent)
    write_bytes(path, png_bytes(with_scale(image, *scale) if scale else image))
    return path


def levels(x: Tensor, images: ImageConfig) -> Tensor:
    """Converts input of a model [..., C, S, S] to uint8 grey levels. The inverse of `normalise`."""
    mean_C11, std_C11 = (torch.tensor(t, device=x.device).view(-1, 1, 1) for t in (images.mean, images.std))
    return (255 * (x * std_C11 + mean_C11)).round().clamp(0, 255).byte()


def rgb(images_BCSS: Tensor) -> Tensor:
    """Converts uint8 images to [B, 3, S, S] on the CPU. If they do not have 1 or 3 channels, uses the first channel."""
    if images_BCSS.shape[1] not in (1, 3):
        images_BCSS = images_BCSS[:, :1]
    return with_channels(images_BCSS.cpu(), 3)


def enlarge(images: Tensor, least: int) -> Tensor:
    """Enlarges [..., S, S] by an integer factor to at least `least`, so that pixels keep sharp edges."""
    times = max(1, -(-least // images.shape[-1]))
    return images.repeat_interleave(times, -2).repeat_interleave(times, -1)


def over(image_3SS: Tensor, maps_B3SS: Tensor, share: float) -> Tensor:
    """Blends colour maps, 0-1, with a grey version of the uint8 image: uint8 [B, 3, S, S]. `share`: weight of the maps."""
    grey_3SS = rgb_to_grayscale(image_3SS, 3)
    return (255 * share * maps_B3SS + (1 - share) * grey_3SS).round().byte()


def heat(values: Tensor, name: str = HEAT) -> Tensor:
    """Maps values 0-1 [..., G, G] to colours 0-1 [..., 3, G, G]."""
    return torch.from_numpy(matplotlib.colormaps[name](values.numpy())[..., :3]).movedim(-1, -3)

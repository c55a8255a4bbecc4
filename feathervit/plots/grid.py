"""A PNG of samples by class: one row a class with its name, originals above augmented versions where asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..chance import Chance
from ..data.augment import Augmenter
from ..data.imageset import ImageSet, with_channels
from ..data.sources import load_data
from ..errors import ConfigError, DataError
from ..files import write_bytes
from ..recipes.planning import planned
from ..text import shown

_CELL = 64  # px, the least a sample is drawn at
_GAP = 4


def sample_grid(
    images: ImageSet,
    path: str | Path,
    per_class: int = 8,
    seed: int = 0,
    augmented: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Path:
    """Writes a PNG of up to `per_class` samples of every class, drawn by `seed`, and returns its path.

    augmented: takes the chosen pictures, uint8 [B, C, R, R], and returns uint8 [B, C, S, S], drawn below the originals.
    Raises DataError for an empty set, ConfigError for no samples, RunFolderError where the file cannot be written.
    """
    if per_class < 1:
        raise ConfigError(f"per_class must be at least 1, got {per_class}")
    if not len(images):
        raise DataError(f"{images.name} has no pictures to show")
    chosen = _choose(images, per_class, seed)
    index = torch.cat(list(chosen.values()))
    versions = [images.images[index]] + ([] if augmented is None else [augmented(images.images[index])])
    sizes = [len(members) for members in chosen.values()]
    rows = [
        ("" if number else images.class_names[label], part)
        for label, *parts in zip(chosen, *(version.split(sizes) for version in versions), strict=True)
        for number, part in enumerate(parts)
    ]
    return draw_rows(rows, path)


def draw_rows(rows: Sequence[tuple[str, torch.Tensor]], path: str | Path) -> Path:
    """Writes `rows_png` and returns its path. Raises RunFolderError where the file cannot be written."""
    write_bytes(Path(path), rows_png(rows))
    return Path(path)


def rows_png(rows: Sequence[tuple[str, torch.Tensor]]) -> bytes:
    """A PNG of rows of pictures, each with its name on the left; rows: (name, uint8 [B, C, S, S])."""
    rows = [(shown(name), part) for name, part in rows]
    cells = [_cells(part) for _, part in rows]
    cell = max(part.shape[1] for part in cells)
    font = _font(16)
    left = max(int(font.getlength(name)) for name, _ in rows) + 3 * _GAP
    width = left + max(map(len, cells)) * (cell + _GAP)
    canvas = Image.new("RGB", (width, len(rows) * (cell + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for number, ((name, _), part) in enumerate(zip(rows, cells, strict=True)):
        top = _GAP + number * (cell + _GAP)
        draw.text((_GAP, top + cell // 2), name, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(part):
            canvas.paste(Image.fromarray(picture), (left + column * (cell + _GAP), top))
    png = io.BytesIO()
    canvas.save(png, "PNG")
    return png.getvalue()


def show(
    source: str,
    recipe_name: str | None,
    path: Path,
    per_class: int = 8,
    seed: int = 0,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """`sample_grid` of a named set or folder as the recipe stores it; with a recipe named, its augmentation below.

    `reading`: fields of `ReadingConfig`. What mixes pictures (mixup, CutMix) is left out, since a mixture shows neither.
    Raises what loading raises.
    """
    config, _ = planned(recipe_name, None, source, {f"reading.{name}": value for name, value in reading.items()})
    size, labelled = config.img_size, config.objective != "reconstruction"
    train = load_data(
        source,
        img_size=size,
        images=config.images,
        reading=config.reading,
        split=config.split,
        labelled=labelled,
    ).train
    augmented = None
    if recipe_name:
        plain = replace(config.augment, mixup=0.0, cutmix=0.0)
        mean, std = config.images.mean, config.images.std
        augmenter = Augmenter(plain, size, len(train.class_names), mean, std)
        scale, shift = (255 * torch.tensor(part).view(-1, 1, 1) for part in (std, mean))

        def augmented(x_BCRR: torch.Tensor) -> torch.Tensor:
            index_B = torch.arange(len(x_BCRR))
            y_BCSS, _ = augmenter(x_BCRR, torch.zeros_like(index_B), index_B, Chance(seed), 0)
            return (y_BCSS * scale + shift).round().clamp(0, 255).byte()

    return sample_grid(train, path, per_class, seed, augmented)


def _choose(images: ImageSet, per_class: int, seed: int) -> dict[int, torch.Tensor]:
    """label -> places of its samples, for the classes that have pictures."""
    order = torch.randperm(len(images), generator=Chance(seed).generator("samples"))
    drawn = images.labels[order]
    chosen = {label: order[drawn == label][:per_class] for label in range(len(images.class_names))}
    return {label: members for label, members in chosen.items() if len(members)}


def _cells(x_BCSS: torch.Tensor) -> np.ndarray:
    """uint8 [B, cell, cell, 3], small pictures enlarged by a whole number, so that pixels stay what they are."""
    if x_BCSS.shape[1] not in (1, 3):
        x_BCSS = x_BCSS[:, :1]
    x_BCSS = with_channels(x_BCSS.cpu(), 3)
    size = x_BCSS.shape[-1]
    times = max(1, -(-_CELL // size))
    x_BCSS = x_BCSS.repeat_interleave(times, -2).repeat_interleave(times, -1)
    return x_BCSS.permute(0, 2, 3, 1).contiguous().numpy()


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's own copy of DejaVu Sans: it is there on every platform and knows more than Latin letters.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)

"""Draws samples of each class: one row per class with its name, and optionally augmented versions below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..chance import Chance
from ..data.augment import Augmenter
from ..data.imageset import ImageSet
from ..data.sources import load_run_data
from ..errors import ConfigError, DataError
from ..files import write_bytes
from ..recipes.planning import planned
from .tiles import levels, png_bytes, tiles


def sample_grid(
    images: ImageSet,
    path: str | Path,
    per_class: int = 8,
    seed: int = 0,
    augmented: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Path:
    """Writes a PNG of up to `per_class` samples of every class, selected by `seed`, and returns its path.

    `augmented`: maps the selected images, uint8 [B, C, R, R], to uint8 [B, C, S, S], drawn below the originals. Raises
    DataError for an empty dataset, ConfigError for an invalid `per_class`, and RunFolderError if writing fails.
    """
    if per_class < 1:
        raise ConfigError(f"per_class must be at least 1, got {per_class}")
    if not len(images):
        raise DataError(f"{images.name} has no images to show")
    chosen = _choose(images, per_class, seed)
    index = torch.cat(list(chosen.values()))
    versions = [images.images[index]] + ([] if augmented is None else [augmented(images.images[index])])
    sizes = [len(members) for members in chosen.values()]
    rows = [part for parts in zip(*(version.split(sizes) for version in versions), strict=True) for part in parts]
    names = [name for label in chosen for name in (images.class_names[label], *[""] * (len(versions) - 1))]
    write_bytes(Path(path), png_bytes(tiles(rows, names)))
    return Path(path)


def show(
    source: str,
    recipe_name: str | None,
    path: Path,
    per_class: int = 8,
    seed: int = 0,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Writes `sample_grid` of a named dataset or folder, stored as for the recipe. With a recipe, also shows augmentation.

    `reading`: fields of `ReadingConfig`. Mixup and CutMix are not applied, because mixed images are not recognisable. Raises
    the errors of `load_data`.
    """
    config, _ = planned(recipe_name, None, source, {f"reading.{name}": value for name, value in reading.items()})
    train = load_run_data(config, source).train
    augmented = None
    if recipe_name:
        plain = replace(config.augment, mixup=0.0, cutmix=0.0)
        classes = len(train.class_names)
        augmenter = Augmenter(plain, config.img_size, classes, config.images.mean, config.images.std)

        def augmented(x_BCRR: torch.Tensor) -> torch.Tensor:
            index_B = torch.arange(len(x_BCRR))
            y_BCSS, _ = augmenter(x_BCRR, torch.zeros_like(index_B), index_B, Chance(seed), 0)
            return levels(y_BCSS, config.images)

    return sample_grid(train, path, per_class, seed, augmented)


def _choose(images: ImageSet, per_class: int, seed: int) -> dict[int, torch.Tensor]:
    """Returns label -> indices of its samples, for the classes that have images."""
    order = torch.randperm(len(images), generator=Chance(seed).generator("samples"))
    drawn = images.labels[order]
    chosen = {label: order[drawn == label][:per_class] for label in range(len(images.class_names))}
    return {label: members for label, members in chosen.items() if len(members)}

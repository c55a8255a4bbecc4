"""Loads data as tensors: finds the source, holds out validation images, decodes every split, and records the splits.

Training images are stored larger than the input of the model, so that crops stay sharp. Evaluation images are stored at the
input size, so that evaluation and prediction resize once. Small square images of one size are stored unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..config import ImageConfig, ReadingConfig, RunConfig, SplitConfig
from ..errors import DataError, UnknownNameError, warn
from . import scale
from .finding import find
from .imageset import DataSplits, Found, Images, ImageSet, Progress, Values
from .names import few, same_name
from .splits import check_split, hold_out, thin_out

__all__ = ["DataSplits", "DataSummary", "ImageSet", "find", "load_data", "load_run_data", "load_split", "summarise"]


def load_data(
    source: Any,
    *,
    img_size: int,
    images: ImageConfig = ImageConfig(),  # noqa: B008 (frozen)
    reading: ReadingConfig = ReadingConfig(),  # noqa: B008
    split: SplitConfig = SplitConfig(),  # noqa: B008
    skip_unreadable: bool = False,
    progress: Progress | None = None,
    labelled: bool = True,
) -> DataSplits:
    """Decodes a dataset and returns its splits.

    - `source`: "digits", "cifar10", "cifar100", "svhn", "flowers102"; a folder; "hf:OWNER/NAME" or "hf:FOLDER"; arrays
      (images, labels), or a dict of such pairs by split.
    - `img_size`: input size of the model in pixels.
    - `progress(done, total)` counts the images of all splits.
    - `labelled` False: labels are not required. A folder may have images at any depth, and arrays may have no labels.

    Raises DataError, UnknownNameError, ConfigError.
    """
    check_split(split)
    found = find(source, labelled, reading)
    if "train" not in found.splits:
        raise DataError(f"{found.name} has no training images, only {', '.join(found.splits)}; add a train/ folder")
    if labelled and len(found.class_names) < 2:
        raise DataError(f"{found.name} has only one class ({found.class_names[0]!r}); a classifier needs at least two")
    how, notes = dict(found.how), list(found.notes)
    images, values = _scaled(found, images, notes)
    parts = _thinned(_with_val(found, split, how, notes), split, how, notes)
    native = {name: part.scan().native_side for name, part in found.splits.items()}
    native["val"] = native.get("val", native["train"])
    sizes = {name: native[name] or img_size for name in parts}
    sizes["train"] = images.stored_size or native["train"] or -(-115 * img_size // 100)
    sets, skipped = _store(found, parts, sizes, images, skip_unreadable, progress)
    notes.append(_size_note(sizes["train"], native["train"], images, img_size))
    brightest_N = np.concatenate([_brightest(part) for part in sets.values()])
    notes += _warnings(scale.darkness(brightest_N, values, images.scale))
    if skipped:
        notes.append(f"skipped {len(skipped)} unreadable images")
    if labelled and len(np.unique(sets["train"].labels.numpy())) < 2:
        raise DataError(f"{found.name}: only one class has images that can be read; a classifier needs at least two")
    missing = np.flatnonzero(np.bincount(sets["train"].labels.numpy(), minlength=len(found.class_names)) == 0)
    if len(missing):
        names = few([found.class_names[i] for i in missing], 5)
        notes.append(f"{len(missing)} classes have no training image ({names})")
    record = {
        "data": found.name,
        "classes": list(found.class_names),
        "splits": {n: {"how": how[n], "count": len(s), "sources": s.sources} for n, s in sets.items()},
        "skipped": skipped,
        "scale": images.scale,
    }
    return DataSplits(sets["train"], sets.get("val"), sets.get("test"), record, notes, skipped, images.scale)


def load_run_data(config: RunConfig, source: Any = None, **options: Any) -> DataSplits:
    """Decodes the data of a run configuration. `source` replaces `config.data`; `options` are those of `load_data`."""
    return load_data(
        config.data if source is None else source,
        img_size=config.img_size,
        images=config.images,
        reading=config.reading,
        split=config.split,
        labelled=config.objective != "reconstruction",
        **options,
    )


def load_split(
    source: Any,
    split_name: str | None = None,
    class_names: tuple[str, ...] | None = None,
    *,
    img_size: int,
    images: ImageConfig = ImageConfig(),  # noqa: B008 (frozen)
    reading: ReadingConfig = ReadingConfig(),  # noqa: B008
    split: SplitConfig = SplitConfig(),  # noqa: B008
    skip_unreadable: bool = False,
    pick: Callable[[str, int], np.ndarray] | None = None,
    trained_on: Collection[str] = (),
) -> ImageSet:
    """Loads one split, stored for evaluation.

    - `split_name`: "train", "val" or "test". If the source has no val, `split` holds out val from train. None: the first of
      test, val and train that exists.
    - `class_names`: the classes of the model, which define the labels (None: the classes of the source).
    - `pick(split, count)`: returns the indices of the images to load. Other images are not decoded.
    - `trained_on`: sources that a validation split held out here must not contain. If images were added since training, the
      split is drawn from other images. A warning counts those that are left out.

    The other options are those of `load_data`. Raises DataError, UnknownNameError, ConfigError.
    """
    found = find(source, reading=reading)
    if split_name is None:
        split_name = next(name for name in ("test", "val", "train") if name in found.splits)
        parts = found.splits
    else:
        parts = _thinned(_with_val(found, split, {}, []), split, {}, []) if "train" in found.splits else found.splits
    if split_name not in parts:
        raise DataError(f"{found.name} has no split {split_name!r}; it has {', '.join(parts)}")
    origin = "train" if split_name not in found.splits else split_name
    size = found.splits[origin].scan().native_side or img_size
    part = parts[split_name]
    if split_name not in found.splits and trained_on:
        part = _untrained(found.name, part, trained_on)
    part = part.subset(pick(split_name, len(part.labels))) if pick else part
    sets, _ = _store(found, {split_name: part}, {split_name: size}, images, skip_unreadable)
    warn(*scale.faults(part.values(), images.scale))
    warn(*scale.darkness(_brightest(sets[split_name]), part.values(), images.scale))
    return sets[split_name] if class_names is None else _relabelled(sets[split_name], tuple(class_names))


@dataclass(frozen=True)
class DataSummary:
    """Holds a summary of a dataset before decoding.

    `counts`: split -> class -> images. `median_short_side`: of the training images, in pixels.
    """

    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    median_short_side: int

    @property
    def totals(self) -> dict[str, int]:
        """Split -> number of images."""
        return {split: sum(by_class.values()) for split, by_class in self.counts.items()}


def summarise(source: Any, labelled: bool = True, reading: ReadingConfig = ReadingConfig()) -> DataSummary:  # noqa: B008
    """Returns the size and counts of a dataset, from image headers only. Raises the errors of `load_data`."""
    found = find(source, labelled, reading)
    main = found.splits.get("train") or next(iter(found.splits.values()))
    scan = main.scan()
    if not scan.modes:
        raise DataError(f"{found.name}: none of the {len(main.labels)} images can be read")
    return DataSummary(found.class_names, found.class_counts(), scan.median_short_side)


# ---------------------------------------------------------------------------------------------------------------------


def _untrained(name: str, part: Images, trained_on: Collection[str]) -> Images:
    """Returns the images of `part` whose sources are not in `trained_on`. Raises DataError if there are none."""
    kept = np.array([i for i, source in enumerate(part.sources) if source not in trained_on], int)
    count = len(part.labels)
    if not len(kept):
        raise DataError(f"{name} has changed since training: all {count} images that would be held out were trained on")
    if len(kept) < count:
        warn(
            f"{name} has changed since training: {count - len(kept)} of {count} images that would be held out were trained "
            "on, and are left out"
        )
    return part.subset(kept)


def _with_val(found: Found, split: SplitConfig, how: dict[str, str], notes: list[str]) -> dict[str, Images]:
    """Returns the splits. Holds out val from train if there is no val."""
    if "val" in found.splits:
        if split.folds:
            raise DataError(f"{found.name} has a validation split of its own: split.folds has no effect; leave it out")
        if split.val_fraction not in (0, SplitConfig().val_fraction):
            notes.append(f"split.val_fraction has no effect: {found.name} has a validation split of its own")
        return found.splits
    train = found.splits["train"]
    kept, held, description, more = hold_out(train.labels, split, found.groups["train"] if found.groups else None)
    notes += more
    if not len(held):
        return found.splits
    notes.append(f"val: {len(held):,} of {len(train.labels):,} training images ({description})")
    how["val"] = description
    how["train"] = f"{how.get('train', '')}, without the held-out images"
    return {**found.splits, "train": train.subset(kept), "val": train.subset(held)}


def _thinned(parts: dict[str, Images], split: SplitConfig, how: dict[str, str], notes: list[str]) -> dict[str, Images]:
    """Returns the splits, with only `split.train_per_class` images per class in train if this is set."""
    if not split.train_per_class:
        return parts
    train = parts["train"]
    kept, more = thin_out(train.labels, split)
    description = f"{split.train_per_class} per class, seed {split.seed}"
    notes += [f"train: {len(kept):,} of {len(train.labels):,} images ({description})", *more]
    how["train"] = f"{how.get('train', '')}, {description}"
    return {**parts, "train": train.subset(kept)}


def _scaled(found: Found, images: ImageConfig, notes: list[str]) -> tuple[ImageConfig, Values]:
    """Returns the configuration with the scale of the dataset, and the values in images of more than 8 bits."""
    values = scale.merged(part.values() for part in found.splits.values())
    white = images.scale or scale.find_scale(values)
    notes += [*scale.found(values, white), *_warnings(scale.faults(values, white))]
    return replace(images, scale=white), values


def _brightest(images: ImageSet) -> np.ndarray:
    """Returns the highest level of each image, uint8 [N]."""
    return images.images.flatten(1).amax(1).numpy()


def _warnings(lines: list[str]) -> list[str]:
    return [f"warning: {line}" for line in lines]


def _store(
    found: Found,
    parts: dict[str, Images],
    sizes: dict[str, int],
    images: ImageConfig,
    skip_unreadable: bool,
    progress: Progress | None = None,
) -> tuple[dict[str, ImageSet], list[str]]:
    """Returns every part as an ImageSet, and "SOURCE: why" per unreadable image. Raises DataError unless these are skipped."""
    total = sum(len(part.labels) for part in parts.values())
    before, bad, sets = 0, [], {}
    for name, part in parts.items():
        part = part.at_scale(images.scale)

        def report(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        pixels, skipped = part.store(sizes[name], images.channels, images.fit, report)
        bad += [f"{part.sources[i]}: {why}" for i, why in skipped]
        gone = {i for i, _ in skipped}
        kept = [i for i in range(len(part.labels)) if i not in gone]
        labels, sources = torch.from_numpy(part.labels[kept]), [part.sources[i] for i in kept]
        sets[name] = ImageSet(pixels, labels, found.class_names, sources, f"{found.name}/{name}")
        before += len(part.labels)
    if bad and not skip_unreadable:
        listed = [*bad[:10], *([f"and {len(bad) - 10} more"] if len(bad) > 10 else [])]
        raise DataError(
            f"{len(bad)} unreadable images in {found.name}: {'; '.join(listed)}. --skip-unreadable leaves them out, and "
            "`feathervit data check` shows all problems"
        )
    return sets, bad


def _relabelled(images: ImageSet, class_names: tuple[str, ...]) -> ImageSet:
    place = {same_name(name): i for i, name in enumerate(class_names)}
    used = np.unique(images.labels.numpy())
    for i in used:
        if same_name(images.class_names[i]) not in place:
            raise UnknownNameError(
                "class", images.class_names[i], class_names, f"{images.name} has this class, but the model does not"
            )
    new_K = torch.tensor([place.get(same_name(name), -1) for name in images.class_names])
    return ImageSet(images.images, new_K[images.labels], class_names, images.sources, images.name)


def _size_note(size: int, native: int | None, images: ImageConfig, img_size: int) -> str:
    if images.stored_size:
        return f"training images stored at {size} px (images.stored_size)"
    if native:
        return f"images stored unchanged: all {size} x {size} px"
    return f"training images stored at {size} px (1.15 x {img_size}), for evaluation at {img_size} px"

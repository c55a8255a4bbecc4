"""Evaluates and predicts from a checkpoint and names of data or files, for the command line."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from ..checkpoint import OtherAnswer, load_weights
from ..data import ImageSet, load_split
from ..data.finding import find
from ..data.image import quiet
from ..data.names import few
from ..data.opening import UNREADABLE
from ..data.walk import is_image, walk
from ..device import choose_device
from ..errors import DataError, FeatherVitError, warn
from ..files import expanded, same_data
from .inference import BATCH, Prediction, Predictor
from .metrics import Metrics, score


def evaluate(
    checkpoint: str | Path,
    data: str | Path | None = None,
    split: str | None = None,
    device: str = "auto",
    skip_unreadable: bool = False,
    reading: Mapping[str, Any] = MappingProxyType({}),
    flip: bool = False,
) -> tuple[str, Metrics]:
    """Evaluates a checkpoint. Returns the evaluated split and its metrics.

    `data` None: the training data. `split` None: test, else val (or the images held out during training), else all images.
    `flip`: average the logits of each image and its mirror image. `reading`: fields of `ReadingConfig` that differ from
    training. Raises CheckpointError and DataError.
    """
    where, _ = choose_device(device)
    predictor = Predictor(load_weights(checkpoint).read_as(reading, data), checkpoint, str(where))
    images = labelled(predictor, data, split, skip_unreadable)
    p_NK = predictor.probabilities(images.images, flip)
    return images.name.rpartition("/")[2], score(p_NK, images.labels, images.class_names)


def labelled(
    predictor: Predictor,
    data: Any = None,
    split: str | None = None,
    skip_unreadable: bool = False,
    pick: Callable[[str, int], np.ndarray] | None = None,
) -> ImageSet:
    """Loads labelled images for evaluation, selected as in `evaluate`. `pick`: see `load_split`."""
    config = predictor.config
    source = data if data is not None else config.data
    own = same_data(source, config.data)
    if split is None and own and set(find(source, reading=config.reading).splits) == {"train"}:
        held_out = config.split.val_fraction > 0 or config.split.folds > 0
        split = "val" if held_out else None  # never training images if there are held-out images
    images = load_split(
        source,
        split,
        predictor.class_names,
        img_size=config.img_size,
        images=config.images,
        reading=config.reading,
        split=config.split,
        skip_unreadable=skip_unreadable,
        pick=pick,
        trained_on=predictor.trained_on if own and split == "val" else frozenset(),
    )
    if split is None and not own and isinstance(source, (str, Path)):
        known = sum(name in predictor.trained_on for name in images.sources)
        if known:
            warn(
                f"{known} of {len(images)} images have the paths of images that the model was trained on; if they are the "
                "same, the accuracy is too high, and the split val has the held-out images"
            )
    if images.images.shape[1] != predictor.in_chans:
        raise DataError(f"the model takes {predictor.in_chans} channels, {images.name} has {images.images.shape[1]}")
    return images


def predict(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    top: int = 3,
    device: str = "auto",
    min_confidence: float | None = None,
    max_image_gib: float | None = None,
) -> tuple[list[Prediction], list[str], OtherAnswer | None]:
    """Returns predictions for image files, folders and patterns, a line per unreadable file, and the `OtherAnswer`.

    The `OtherAnswer` is None if the weights have none or if `min_confidence` is given. Labels are "other" below
    `min_confidence`. `max_image_gib`: memory limit of one decoded image, in GiB (None: as in training).
    """
    where, _ = choose_device(device)
    reading = {} if max_image_gib is None else {"max_image_gib": max_image_gib}
    predictor = Predictor(load_weights(checkpoint).read_as(reading), checkpoint, str(where))
    predictions, failures = predict_files(predictor, images, top, min_confidence)
    return predictions, failures, predictor.other if min_confidence is None else None


def predict_files(
    predictor: Predictor, images: Sequence[str | Path], top: int, min_confidence: float | None = None
) -> tuple[list[Prediction], list[str]]:
    """Returns predictions for image files and folders, and a line per unreadable file."""
    predictions: list[Prediction] = []
    failures: list[str] = []
    files = _files(images)
    predictor.warn_of_values(files)
    for start in range(0, len(files), BATCH):
        squares: dict[str, Tensor] = {}
        for path in files[start : start + BATCH]:
            try:
                with quiet():
                    squares[str(path)] = predictor.read(path)
            except FeatherVitError as error:
                failures.append(" ".join(str(error).split()))
        predictions += predictor.classify(list(squares.values()), list(squares), top, min_confidence)
    return predictions, failures


def _files(images: Sequence[str | Path]) -> list[Path]:
    """Lists files, images in folders and subfolders, and matches of patterns. Each file is listed once.

    Issues one DataWarning that names what is skipped. Raises DataError for a folder or a pattern without images.
    """
    out: list[Path] = []
    skipped: dict[Path, str] = {}  # the reasons
    for image in map(expanded, images):
        if image.is_dir():
            found, left = walk(image)
            skipped |= {image / path: why for why, paths in left.paths.items() for path in paths}
            skipped |= _unreadable(image / name for name in found.all_others())
            inside, missing = [image / path for path, _ in found.all_images()], "no images in"
        elif glob.has_magic(str(image)) and not image.exists():
            matching = sorted(map(Path, glob.glob(str(image), recursive=True)))
            skipped |= _unreadable(matching)
            inside, missing = [p for p in matching if is_image(p.name) and not p.is_dir()], "no images match"
        else:
            inside, missing = [image], ""
        if not inside:
            raise DataError("; ".join([f"{missing} {image}", *_in_words(skipped)]))
        out += inside
    warn(*_in_words(skipped))
    return list(dict.fromkeys(out))


def _in_words(skipped: dict[Path, str]) -> list[str]:
    """Returns one line with the number and the names per reason, or no line if nothing was skipped."""
    kinds: dict[str, list[str]] = {}
    for path, why in skipped.items():
        kinds.setdefault(why, []).append(path.name)
    texts = [f"{why} ({len(names)}: {few(names, 5)})" for why, names in kinds.items()]
    return [f"skipped: {'; '.join(texts)}"] if texts else []


def _unreadable(paths: Iterable[Path]) -> dict[Path, str]:
    """Returns the images in formats that cannot be read here, with the reason."""
    needs = ((path, UNREADABLE.get(path.suffix.lower())) for path in paths)
    return {path: f"{path.suffix.lower()}, which needs {need}" for path, need in needs if need}

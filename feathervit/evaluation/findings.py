"""Writes the three lines at the end of a run: accuracy with interval, limits of the accuracy, next steps."""

from __future__ import annotations

import shlex
from collections import defaultdict
from pathlib import Path

from ..config import imbalanced
from ..data import DataSplits, ImageSet
from ..data.imageset import pixel_digest
from ..results import RunResult
from .confusion import chance_level, interval, macro_accuracy

FEW = 50  # below this number of training images per class, more images help most
GAP = 0.1  # smallest reported gap between training and validation accuracy
MOST = 1_000  # maximum number of training images for the training accuracy
SAME = 500_000_000  # maximum size in bytes of images that are compared with each other


def findings(result: RunResult, causes: list[str], more: bool, out: Path) -> list[str]:
    """Returns the three lines. `causes` and `more`: from `limits`."""
    lines = [f"accuracy   {said[0]} ({said[1]})"] if (said := accuracy(result)) else []
    lines.append(f"limits     {'; '.join(causes) or 'none found in these figures'}")
    folder = shlex.quote(str(out))
    first = f"feathervit evaluate {folder}"
    if more and result.data["name"] != "arrays":
        longer = f"--config {folder} --minutes {max(1, round(2 * result.minutes))} --out NEW"
        first = f"feathervit train {longer if result.finished else f'--resume --out {folder}'}"
    return [*lines, f"next       {first}   or   feathervit export {folder} --to web"]


def accuracy(result: RunResult) -> tuple[str, str] | None:
    """Returns the accuracy on test or validation images, and its interval with the chance level; None without images."""
    figures = result.test or result.val
    if not figures:
        return None
    low, high = interval(figures["top1"], figures["n"])
    macro = f", {text}" if (text := macro_accuracy(figures)) else ""
    return (
        f"{100 * figures['top1']:.1f} % of {figures['n']} {'test' if result.test else 'val'} images{macro}",
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %; chance level {100 * chance_level(figures):.1f} %",
    )


def limits(result: RunResult, data: DataSplits, train_top1: float) -> tuple[list[str], bool]:
    """Returns possible limits of the accuracy, and whether more epochs may increase it.

    `train_top1`: accuracy on MOST of the training images, without augmentation.
    """
    causes = []
    train = data.train
    counts = sorted(train.labels.bincount(minlength=len(train.class_names)).tolist())
    middle = counts[len(counts) // 2]
    if middle < FEW:
        causes.append(f"few images per class ({middle}): more images help most")
    weighted = "balanced" in (result.config["loss"]["class_weights"], result.config.get("augment", {}).get("sampling"))
    if counts[0] and imbalanced(counts) and not weighted:
        causes.append(
            f"classes of {counts[0]} to {counts[-1]} images: --loss.class-weights balanced gives each class the same weight"
        )
    labels = _labels(train)
    if conflicts := sum(len(different) > 1 for different in labels.values()):
        causes.append(f"{conflicts} images appear with different labels: feathervit data check names them")
    for name, images in (("val", data.val), ("test", data.test)):
        if images is not None and (known := len(_labels(images).keys() & labels.keys())):
            causes.append(f"{known} {name} images are also in train: their accuracy is too high")
    held_out = result.val or result.test
    more = not result.finished or (bool(held_out) and train_top1 < 1 - GAP)
    if held_out and train_top1 - held_out["top1"] > GAP:
        causes.append(
            f"{100 * train_top1:.0f} % of training images are recognised, {100 * held_out['top1']:.0f} % of others: more "
            f"images{'' if result.config.get('start_from') else ' or --from weights'} help, "
            f"{'and more epochs may help too' if more else 'but more epochs do not'}"
        )
    elif held_out and train_top1 < 1 - GAP:
        causes.append(f"only {100 * train_top1:.0f} % of training images are recognised: more epochs help")
    if not result.finished:
        causes.append(f"the run was stopped: {len(result.epochs)} of {result.config['epochs']} epochs are done")
    return causes, more


def _labels(images: ImageSet) -> dict[str, set[int]]:
    """Returns the labels of each distinct image, by digest. Returns {} for datasets that are too large to compare."""
    labels = defaultdict(set)
    if images.images.nbytes <= SAME:
        for pixels, label in zip(images.images, images.labels.tolist(), strict=True):
            labels[pixel_digest(pixels.numpy())].add(label)
    return labels

"""Checks a dataset for errors that must be fixed, and for facts that are worth knowing.

The dataset is read in the same way as in training. Every image is fully decoded, so truncated files are found even if the
header is valid. Two images are the same if their pixels are equal, in any encoding.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..config import ReadingConfig
from ..errors import DataError
from ..files import expanded
from .cache import FileImages, drop_outdated, workers
from .damage import UNGUARDED
from .finding import locate
from .groups import across_splits, groups_by_pattern, suggested
from .image import ImageError, Source, examined, header, quiet
from .imageset import Found, Images, Values, pixel_digest
from .opening import NO_BYTES
from .report import FEW, Report, training
from .scale import darkness, faults, find_scale, merged
from .scale import found as said_of
from .similar import Thumbnail, alike, thumbnail

_TRUNCATED = ("truncated", "premature", "unexpected end", "broken data stream", "eof")


def check_data(source: Any, labelled: bool = True, reading: ReadingConfig = ReadingConfig()) -> Report:  # noqa: B008
    """Finds a dataset as in training, decodes every image and returns a report.

    `labelled` False: images without classes, in any folders, as for pre-training. Raises the errors of
    `locate`. Classes missing from train are reported and are not an error.
    """
    found = locate(source, labelled, reading)
    place = str(expanded(source)) if isinstance(source, (str, os.PathLike)) else found.name
    report = Report(place, labelled, list(found.notes))
    if found.layout:  # None unless the source is a folder
        report.empty_classes = sorted(found.layout.empty)
        report.lost_classes = found.layout.lost
        report.outside_classes, report.not_images = found.layout.loose, found.layout.others
    names = [
        (split, found.class_names[label] if labelled else "", source)
        for split, images in found.splits.items()
        for label, source in zip(images.labels.tolist(), images.sources, strict=True)
    ]
    report.groups_in_splits = across_splits(found.groups or {})
    if not reading.groups and labelled:
        report.suggested_groups = _suggested(found)
    values = _find_scale(report, found)
    seen = [one for images in found.splits.values() for one in _seen(images.at_scale(report.scale))]
    counts: dict[str, Counter[str]] = {split: Counter() for split in found.splits}
    same: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for (split, name, file), one in zip(names, seen, strict=True):
        if one == NO_BYTES:
            report.empty.append(file)
        elif isinstance(one, str):
            kind = report.truncated if any(word in one.lower() for word in _TRUNCATED) else report.unreadable
            kind[file] = one
        else:
            counts[split][name] += 1
            same[one.digest].append((split, name, file))
            if one.doubt:
                report.doubtful[file] = one.doubt
    report.counts = {split: dict(sorted(count.items())) for split, count in counts.items()}
    _sort_out_duplicates(report, list(same.values()))
    report.near_duplicates = _near_duplicates(names, seen)
    if labelled:
        _judge_classes(report)
    readable = [one for one in seen if isinstance(one, Seen)]
    if readable:
        for side in ("width", "height"):
            lengths = sorted(getattr(one, side) for one in readable)
            report.sizes[side] = (lengths[0], int(statistics.median_low(lengths)), lengths[-1])
        report.modes = dict(Counter(one.mode for one in readable).most_common())
        kinds = {one.kind for one in readable}
        report.unguarded = {kind: what for kind, what in UNGUARDED.items() if kind in kinds}
        brightest_N = np.array([one.brightest for one in readable])
        report.warnings = [*faults(values, report.scale), *darkness(brightest_N, values, report.scale)]
    return report


# ---------------------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Holds what is compared of a readable image. `brightest`: its highest level. `kind`: PIL's name of its format."""

    width: int
    height: int
    mode: str
    kind: str | None
    doubt: str | None
    digest: str
    brightest: int
    thumbnail: Thumbnail


def _find_scale(report: Report, found: Found) -> Values:
    """Removes outdated cached images and finds the scale. Returns the values in images of more than 8 bits."""
    for images in found.splits.values():
        if isinstance(images, FileImages):
            report.outdated += drop_outdated(images.root)
    values = merged(images.values() for images in found.splits.values())
    try:
        report.scale = find_scale(values)
    except DataError as error:
        report.no_scale = str(error)
    report.values = said_of(values, report.scale)
    return values


def _seen(images: Images) -> Iterator[Seen | str]:
    """Examines every image, in order. Yields the reason for an image that cannot be read."""
    if isinstance(images, FileImages):
        with quiet(), ThreadPoolExecutor(workers()) as pool:
            yield from pool.map(partial(_look, scale=images.scale, max_gib=images.max_gib), images.items)
    else:
        mode = next(iter(images.scan().modes))
        for x_CHW in images.images:
            yield _of_pixels(x_CHW, x_CHW.shape[2], x_CHW.shape[1], mode)


def _look(item: Source, scale: float | None, max_gib: float) -> Seen | str:
    try:
        width, height, mode = header(item)
        with examined(item, 3, scale, max_gib) as (x_CHW, kind, doubted):
            return _of_pixels(x_CHW, width, height, mode, kind, doubted)
    except ImageError as error:
        return error.why


def _of_pixels(
    x_CHW: torch.Tensor, width: int, height: int, mode: str, kind: str | None = None, doubt: str | None = None
) -> Seen:
    small = thumbnail(x_CHW if x_CHW.shape[0] in (1, 3) else x_CHW[:1])
    return Seen(width, height, mode, kind, doubt, pixel_digest(x_CHW.numpy()), int(x_CHW.max()), small)


def _near_duplicates(names: list[tuple[str, str, str]], seen: list[Seen | str]) -> list[list[str]]:
    """Returns pairs of paths of near-duplicates.

    Only one of several identical images of a split is compared, because `_sort_out_duplicates` reports the others.
    """
    parts: dict[str, dict[str, tuple[str, Thumbnail]]] = defaultdict(dict)  # split -> digest -> (path, thumbnail)
    for (split, _, file), one in zip(names, seen, strict=True):
        if isinstance(one, Seen):
            parts[split].setdefault(one.digest, (file, one.thumbnail))
    splits = [list(part.items()) for part in parts.values()]
    pairs = [(a, b) for i, a in enumerate(splits) for b in splits[i + 1 :]]
    found = []
    for first, second in pairs or [(part, None) for part in splits]:
        other = first if second is None else second
        for i, j in alike([s for _, (_, s) in first], second and [s for _, (_, s) in second]):
            (digest, (file, _)), (digest_2, (file_2, _)) = first[i], other[j]
            if digest != digest_2:
                found.append([file, file_2])
    return found


def _suggested(found: Found) -> str:
    """Returns a sentence on groups that the paths suggest, or "" if there are none."""
    parts = {split: images for split, images in found.splits.items() if isinstance(images, FileImages)}
    sources = [source for images in parts.values() for source in images.sources]
    labels = [label for images in parts.values() for label in images.labels.tolist()]
    if not (guess := suggested(sources, labels)):
        return ""
    pattern, what, sizes = guess
    name, most = max(sizes.items(), key=lambda item: item[1])
    both = across_splits({split: groups_by_pattern(pattern, images.sources) for split, images in parts.items()})
    torn = f"; {len(both)} of them are in several splits" if both else ""
    return (
        f"{what} suggest {len(sizes)} groups, such as {name} ({most} images){torn}. If each is one person, animal or video, "
        f"--groups '{pattern}' keeps its images in one split"
    )


def _sort_out_duplicates(report: Report, groups: list[list[tuple[str, str, str]]]) -> None:
    for group in groups:
        if len(group) < 2:
            continue
        splits, labels, names = map(list, zip(*group, strict=True))
        if len(set(splits)) > 1:
            report.across_splits.append(names)
        if len(set(labels)) > 1:
            report.two_labels.append(names)
        if len(set(splits)) == len(set(labels)) == 1:
            report.duplicates.append(names)


def _judge_classes(report: Report) -> None:
    known = training(report.counts)
    if "train" in report.counts:
        for split, by_class in report.counts.items():
            for name in by_class:
                if name not in known:
                    report.not_in_train.setdefault(name, []).append(split)
    report.small_classes = {name: n for name, n in known.items() if n < FEW}
    if known:
        report.imbalance = max(known.values()) / min(known.values())

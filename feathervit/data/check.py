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
from typing import Any

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
from .imageset import Found, Images, Progress, Values, pixel_digest
from .report import FEW, Report, training
from .scale import darkness, faults, find_scale, merged
from .scale import found as said_of
from .similar import Thumbnail, alike, thumbnail

_TRUNCATED = ("truncated", "premature", "unexpected end", "broken data stream", "eof")
_NO_BYTES = "no bytes"


def check_data(
    source: Any,
    labelled: bool = True,
    reading: ReadingConfig = ReadingConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> Report:
    """Finds a dataset as in training, decodes every image and returns a report.

    `labelled` False: images without classes, in any folders, as for pre-training. progress(done, total) is called per image.
    Raises the errors of `locate`. Classes missing from train are reported and are not an error.
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
    examined = _examine(found, report.scale, progress)
    counts: dict[str, Counter[str]] = {split: Counter() for split in found.splits}
    same: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for (split, name, file), seen in zip(names, examined, strict=True):
        if seen == _NO_BYTES:
            report.empty.append(file)
        elif isinstance(seen, str):
            kind = report.truncated if any(word in seen.lower() for word in _TRUNCATED) else report.unreadable
            kind[file] = seen
        else:
            counts[split][name] += 1
            same[seen[3]].append((split, name, file))
            if seen[6]:
                report.doubtful[file] = seen[6]
    report.counts = {split: dict(sorted(count.items())) for split, count in counts.items()}
    _sort_out_duplicates(report, list(same.values()))
    report.near_duplicates = _near_duplicates(names, examined)
    if labelled:
        _judge_classes(report)
    sizes = [seen for seen in examined if not isinstance(seen, str)]
    if sizes:
        for i, side in enumerate(("width", "height")):
            lengths = sorted(seen[i] for seen in sizes)
            report.sizes[side] = (lengths[0], int(statistics.median_low(lengths)), lengths[-1])
        report.modes = dict(Counter(seen[2] for seen in sizes).most_common())
        kinds = {seen[5] for seen in sizes}
        report.unguarded = {kind: what for kind, what in UNGUARDED.items() if kind in kinds}
        brightest_N = np.array([seen[4] for seen in sizes])
        report.warnings = [*faults(values, report.scale), *darkness(brightest_N, values, report.scale)]
    return report


# ---------------------------------------------------------------------------------------------------------------------

# (width, height, mode, digest of the pixels, highest level, format, possible damage, thumbnail), or why it cannot be read
Seen = tuple[int, int, str, str, int, str | None, str | None, Thumbnail] | str


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


def _examine(found: Found, scale: float | None, progress: Progress | None) -> list[Seen]:
    """Examines every image of every split, in order."""
    out: list[Seen] = []
    total = sum(len(images.labels) for images in found.splits.values())
    for images in found.splits.values():
        for seen in _seen(images.at_scale(scale)):
            out.append(seen)
            if progress:
                progress(len(out), total)
    return out


def _seen(images: Images) -> Iterator[Seen]:
    if isinstance(images, FileImages):
        with quiet(), ThreadPoolExecutor(workers()) as pool:
            yield from pool.map(partial(_look, scale=images.scale, max_gib=images.max_gib), images.items)
    else:
        mode = next(iter(images.scan().modes))
        for x_CHW in images.images:
            yield *reversed(x_CHW.shape[1:]), *_of_pixels(x_CHW, mode, None, None)


def _look(item: Source, scale: float | None, max_gib: float) -> Seen:
    try:
        if item == b"" or (isinstance(item, (str, os.PathLike)) and os.path.isfile(item) and not os.path.getsize(item)):
            return _NO_BYTES
        width, height, mode = header(item)
        with examined(item, 3, scale, max_gib) as (x_CHW, kind, doubted):
            return width, height, *_of_pixels(x_CHW, mode, kind, doubted)
    except ImageError as error:
        return error.why


def _of_pixels(x_CHW: torch.Tensor, mode: str, kind: str | None, doubted: str | None) -> tuple:
    """Returns the fields of `Seen` that follow width and height."""
    small = thumbnail(x_CHW if x_CHW.shape[0] in (1, 3) else x_CHW[:1])
    return mode, pixel_digest(x_CHW.numpy()), int(x_CHW.max()), kind, doubted, small


def _near_duplicates(names: list[tuple[str, str, str]], examined: list[Seen]) -> list[list[str]]:
    """Returns pairs of paths of near-duplicates.

    Only one of several identical images of a split is compared, because `_sort_out_duplicates` reports the others.
    """
    parts: dict[str, dict[str, tuple[str, Thumbnail]]] = defaultdict(dict)  # split -> digest -> (path, thumbnail)
    for (split, _, file), seen in zip(names, examined, strict=True):
        if not isinstance(seen, str):
            parts[split].setdefault(seen[3], (file, seen[7]))
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
        f"--groups '{pattern}' keeps it on one side of a split"
    )


def _sort_out_duplicates(report: Report, groups: list[list[tuple[str, str, str]]]) -> None:
    for group in groups:
        if len(group) < 2:
            continue
        names = [file for *_, file in group]
        if len({split for split, *_ in group}) > 1:
            report.across_splits.append(names)
        if len({name for _, name, _ in group}) > 1:
            report.two_labels.append(names)
        for split in report.counts:
            if len(inside := [file for s, _, file in group if s == split]) > 1:
                report.duplicates.append(inside)


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

"""The data doctor: what is wrong with a folder of pictures, and what is only worth knowing.

Every picture is decoded whole, so a file that breaks off is found even where its header is sound. Two pictures are the
same when their pixels are, however they are encoded.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .cache import workers
from .folders import Tree, check_exists, read_trees, read_unlabelled
from .image import PictureError, decoded, header, quiet
from .imageset import Progress, pixel_digest

_FEW = 10  # pictures: a class with fewer is named
_TRUNCATED = ("truncated", "premature", "unexpected end", "broken data stream", "eof")
_SHOWN = 10  # names a line of the report for people


@dataclass
class Report:
    """What was found in a folder; paths are relative to it, with /. Widths and heights are in pixels, as stored.

    `counts`: split -> class -> pictures that can be read. `unreadable`, `truncated`: path -> why. `empty`: files of no
    bytes. `duplicates`: groups of same pictures in one split; `across_splits`: in several; `two_labels`: with more than
    one class. `sizes`: "width" and "height" -> (smallest, median, largest).
    """

    path: str
    labelled: bool = True
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    truncated: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)
    outside_classes: list[str] = field(default_factory=list)
    not_pictures: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    across_splits: list[list[str]] = field(default_factory=list)
    two_labels: list[list[str]] = field(default_factory=list)
    not_in_train: dict[str, list[str]] = field(default_factory=dict)
    small_classes: dict[str, int] = field(default_factory=dict)
    imbalance: float = 1.0
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)

    @property
    def one_class(self) -> bool:
        return self.labelled and len(_training(self.counts)) < 2

    @property
    def must_mend(self) -> bool:
        """Whether training would stop, or its figures would mislead."""
        broken = self.unreadable or self.truncated or self.empty
        return bool(broken or self.across_splits or self.not_in_train or self.one_class)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"one_class": self.one_class, "must_mend": self.must_mend}

    def lines(self) -> list[str]:
        """For people: counts first, then what must be mended, then what is worth knowing."""
        out = [f"{self.path}"]
        for split, by_class in self.counts.items():
            classes = f" in {len(by_class)} classes" if self.labelled else ""
            out.append(f"  {split}: {sum(by_class.values()):,} pictures{classes}")
        for side, (low, middle, high) in self.sizes.items():
            out.append(f"  {side}: {low} to {high} px, median {middle}")
        if self.modes:
            out.append("  modes: " + ", ".join(f"{mode} {n:,}" for mode, n in self.modes.items()))
        mend = [
            *_listed("unreadable", [f"{name} ({why})" for name, why in self.unreadable.items()]),
            *_listed("truncated", list(self.truncated)),
            *_listed("empty files", self.empty),
            *_listed("same picture in several splits", [" = ".join(group) for group in self.across_splits]),
            *_listed(
                "classes missing from train", [f"{name} ({', '.join(s)})" for name, s in self.not_in_train.items()]
            ),
            *(["one class only: a classifier needs at least two"] if self.one_class else []),
        ]
        know = [
            *_listed("same picture under two labels", [" = ".join(group) for group in self.two_labels]),
            *_listed("same picture twice in a split", [" = ".join(group) for group in self.duplicates]),
            *_listed(f"classes under {_FEW} pictures", [f"{name} ({n})" for name, n in self.small_classes.items()]),
            *_listed("class folders without pictures", self.empty_classes),
            *_listed("pictures outside the class folders", self.outside_classes),
            *_listed("files that are no pictures", self.not_pictures),
        ]
        if self.imbalance >= 3:
            know.append(f"imbalance: the largest class has {self.imbalance:.1f} times the pictures of the smallest")
        out += ["must be mended:", *(f"  {line}" for line in mend)] if mend else ["nothing must be mended"]
        return out + (["worth knowing:", *(f"  {line}" for line in know)] if know else [])


def check_folder(path: str | os.PathLike, labelled: bool = True, progress: Progress | None = None) -> Report:
    """Decodes every picture below `path` and reports. progress(done, total). `labelled` False: pictures without classes,
    in any folders, as pre-training takes them.

    Raises DataError where there is no such folder or no picture in it.
    """
    root = check_exists(Path(path))
    trees = read_trees(root) if labelled else _as_one_class(read_unlabelled(root))
    files = [(split, name, file, stat) for split, name, file, stat in _files(trees) if stat.st_size]
    report = Report(
        str(root),
        labelled,
        empty=[file for *_, file, stat in _files(trees) if not stat.st_size],
        empty_classes=sorted(name for tree in trees.values() for name in tree.empty),
        outside_classes=[name for tree in trees.values() for name in tree.loose],
        not_pictures=[name for tree in trees.values() for name in tree.others],
    )
    if not files and not report.empty:
        raise DataError(
            f"{root}: no pictures in class folders were found; --unlabelled checks pictures that lie in no class folders"
            if labelled
            else f"{root}: no pictures were found"
        )
    examined = _examine([root / file for *_, file, _ in files], progress)
    counts: dict[str, Counter[str]] = {split: Counter() for split in trees}
    same: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for (split, name, file, _), found in zip(files, examined, strict=True):
        if isinstance(found, str):
            kind = report.truncated if any(word in found.lower() for word in _TRUNCATED) else report.unreadable
            kind[file] = found
        else:
            counts[split][name] += 1
            same[found[3]].append((split, name, file))
    report.counts = {split: dict(sorted(count.items())) for split, count in counts.items()}
    _sort_out_duplicates(report, list(same.values()))
    if labelled:
        _judge_classes(report, trees)
    sizes = [found for found in examined if not isinstance(found, str)]
    if sizes:
        for i, side in enumerate(("width", "height")):
            values = sorted(found[i] for found in sizes)
            report.sizes[side] = (values[0], int(statistics.median_low(values)), values[-1])
        report.modes = dict(Counter(found[2] for found in sizes).most_common())
    return report


# ---------------------------------------------------------------------------------------------------------------------


def _as_one_class(trees: dict[str, Tree]) -> dict[str, Tree]:
    """The trees with all their pictures in one class, since folders say nothing."""
    return {
        split: Tree({"": [file for group in tree.classes.values() for file in group]}, tree.others)
        for split, tree in trees.items()
    }


def _files(trees: dict[str, Tree]) -> list[tuple[str, str, str, os.stat_result]]:
    """(split, class, path, stat) of every file that is a picture by its name."""
    return [
        (s, name, f, stat) for s, tree in trees.items() for name, group in tree.classes.items() for f, stat in group
    ]


def _examine(paths: list[Path], progress: Progress | None) -> list[tuple[int, int, str, str] | str]:
    """For each file (width, height, mode, digest of the pixels), or why it cannot be read."""

    def work(path: Path) -> tuple[int, int, str, str] | str:
        try:
            width, height, mode = header(path)
            with decoded(path, 3) as x_CHW:
                return width, height, mode, pixel_digest(x_CHW.numpy())
        except PictureError as error:
            return error.why

    out = []
    with quiet(), ThreadPoolExecutor(workers()) as pool:
        for found in pool.map(work, paths):
            out.append(found)
            if progress:
                progress(len(out), len(paths))
    return out


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


def _judge_classes(report: Report, trees: dict[str, Tree]) -> None:
    training = _training(report.counts)
    if "train" in trees:
        for split, by_class in report.counts.items():
            for name in by_class:
                if name not in training:
                    report.not_in_train.setdefault(name, []).append(split)
    report.small_classes = {name: n for name, n in training.items() if n < _FEW}
    if training:
        report.imbalance = max(training.values()) / min(training.values())


def _training(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    return counts.get("train") or next(iter(counts.values()), {})


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = [f"  and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [f"{what}: {len(names)}", *(f"  {name}" for name in names[:_SHOWN]), *more]

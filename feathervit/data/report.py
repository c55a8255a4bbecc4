"""Defines the report of `data check`, as text and JSON: errors that must be fixed, and facts worth knowing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..config import imbalanced
from ..text import shown
from .names import other_case
from .opening import UNREADABLE

FEW = 10  # the report lists classes with fewer images
_SHOWN = 10  # number of names that the report shows per list


@dataclass
class Report:
    """Holds the results of checking a dataset. Widths and heights are in pixels, as stored.

    Images are named by a path from the data's folder, with /, or by a name such as "test[3]".

    - `notes`: the detected layout and the skipped files, in one line.
    - `counts`: split -> class -> readable images.
    - `unreadable`, `truncated`: path -> reason. `empty`: files without bytes.
    - `two_labels`: groups of identical images with several labels; `across_splits`: in several splits; `duplicates`: with
      one label in one split.
    - `near_duplicates`: pairs of images with similar content and different pixels, from two splits, or from the only split.
    - `groups_in_splits`: group -> its splits, for groups in several splits, if `reading.groups` is set.
    - `suggested_groups`: a sentence on groups suggested by the paths.
    - `sizes`: "width" and "height" -> (smallest, median, largest).
    - `values`: the values in images of more than 8 bits. `scale`: their value of white. `no_scale`: why there is none.
    - `warnings`: possible faults of the full dataset.
    - `outdated`: files whose content changed although size, times and inode did not. Their decoded images were removed.
    - `doubtful`: path -> possible damage of the image. `unguarded`: format -> damage that cannot be detected.
    """

    path: str
    labelled: bool = True
    notes: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    truncated: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)
    outside_classes: list[str] = field(default_factory=list)
    lost_classes: dict[str, str] = field(default_factory=dict)
    not_images: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    across_splits: list[list[str]] = field(default_factory=list)
    two_labels: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] = field(default_factory=list)
    not_in_train: dict[str, list[str]] = field(default_factory=dict)
    groups_in_splits: dict[str, list[str]] = field(default_factory=dict)
    suggested_groups: str = ""
    small_classes: dict[str, int] = field(default_factory=dict)
    imbalance: float = 1.0
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    values: list[str] = field(default_factory=list)
    scale: float | None = None
    no_scale: str = ""
    warnings: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    doubtful: dict[str, str] = field(default_factory=dict)
    unguarded: dict[str, str] = field(default_factory=dict)

    @property
    def one_class(self) -> bool:
        return self.labelled and len(training(self.counts)) < 2

    @property
    def must_fix(self) -> bool:
        """Whether training would fail, or its results would mislead."""
        broken = self.unreadable or self.truncated or self.empty
        mixed = self.lost_classes or self.across_splits or self.not_in_train or self.groups_in_splits
        return bool(broken or mixed or self.one_class or self.no_scale)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dict for JSON."""
        return asdict(self) | {"one_class": self.one_class, "must_fix": self.must_fix}

    def lines(self) -> list[str]:
        """Returns the lines of the text report: counts, errors that must be fixed, facts worth knowing."""
        out = [shown(self.path), *(f"  {note}" for note in self.notes)]
        for split, by_class in self.counts.items():
            classes = f" in {len(by_class)} classes" if self.labelled else ""
            out.append(f"  {split}: {sum(by_class.values()):,} images{classes}")
        for side, (low, middle, high) in self.sizes.items():
            out.append(f"  {side}: {low} to {high} px, median {middle}" if low < high else f"  {side}: {low} px")
        if self.modes:
            out.append("  modes: " + ", ".join(f"{mode} {n:,}" for mode, n in self.modes.items()))
        out += [f"  values: {line}" for line in self.values]
        fix = [
            *_listed("unreadable", [f"{name} ({why})" for name, why in self.unreadable.items()]),
            *_listed("truncated", list(self.truncated)),
            *_listed("empty files", self.empty),
            *_listed(
                "class folders whose images cannot be read here", [f"{n} ({k})" for n, k in self.lost_classes.items()]
            ),
            *_listed("same image in several splits", [" = ".join(group) for group in self.across_splits]),
            *_listed(
                "classes missing from train",
                [
                    f"{name} ({', '.join(s)}{other_case(name, training(self.counts))})"
                    for name, s in self.not_in_train.items()
                ],
            ),
            *_listed(
                "groups in several splits", [f"{name} ({', '.join(s)})" for name, s in self.groups_in_splits.items()]
            ),
            *(["only one class: a classifier needs at least two"] if self.one_class else []),
            *([self.no_scale] if self.no_scale else []),
        ]
        know = [
            *self.warnings,
            *_listed("perhaps damaged", [f"{name} ({why})" for name, why in self.doubtful.items()]),
            *_listed("changed since they were decoded (they will be decoded again)", self.outdated),
            *_listed(
                "nearly the same image in two splits"
                if len(self.counts) > 1
                else "nearly the same image twice (a random validation split may separate them; --groups keeps them together)",
                [" ~ ".join(pair) for pair in self.near_duplicates],
            ),
            *_listed("same image under two labels", [" = ".join(group) for group in self.two_labels]),
            *_listed("same image twice in a split", [" = ".join(group) for group in self.duplicates]),
            *_listed(f"classes under {FEW} images", [f"{name} ({n})" for name, n in self.small_classes.items()]),
            *_listed("class folders without images", self.empty_classes),
            *_listed("images outside the class folders", self.outside_classes),
            *_listed("files that are not read", [_needing(name) for name in self.not_images]),
        ]
        if self.suggested_groups:
            know.append(self.suggested_groups)
        if imbalanced(training(self.counts).values()):
            know.append(f"imbalance: the largest class has {self.imbalance:.1f} times the images of the smallest")
        cannot = "; ".join(f"{kind}: {what}" for kind, what in self.unguarded.items())
        out += [f"  damage that cannot be found: {cannot}"] if cannot else []
        out += ["must be fixed:", *(f"  {line}" for line in fix)] if fix else ["nothing must be fixed"]
        return out + (["worth knowing:", *(f"  {line}" for line in know)] if know else [])


def training(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    return counts.get("train") or next(iter(counts.values()), {})


# ---------------------------------------------------------------------------------------------------------------------


def _needing(name: str) -> str:
    needs = UNREADABLE.get(PurePosixPath(name).suffix.lower())
    return f"{name} (needs {needs})" if needs else name


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = [f"  and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [f"{what}: {len(names)}", *(f"  {shown(name)}" for name in names[:_SHOWN]), *more]

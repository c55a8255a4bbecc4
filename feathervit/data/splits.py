"""Chooses the held-out validation images and the training images: stratified and seeded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from ..chance import Chance
from ..config import SplitConfig
from ..config.bounds import check_bounds
from ..errors import ConfigError


def check_split(split: SplitConfig) -> None:
    """Raises ConfigError for invalid fractions and folds."""
    check_bounds(split, "split.")
    if split.folds == 1 or split.fold >= max(1, split.folds):
        raise ConfigError(
            f"split.folds must be at least 2 (or 0: none), and split.fold below it, got {split.folds} and {split.fold}"
        )


def hold_out(
    labels_N: np.ndarray, split: SplitConfig, groups_N: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, str, list[str]]:
    """Returns (train indices, held-out indices, description, notes), with sorted indices. A fraction of 0 holds out nothing.

    A class with a single image stays in train. At least one image per other class is held out, even if the fraction is
    smaller. `groups_N`: the images of a group are either all held out or all kept.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split  # slow to import, not needed to predict

    check_split(split)
    everything = np.arange(len(labels_N))
    if split.val_fraction == 0 and not split.folds:
        return everything, everything[:0], "none held out of train", []
    if groups_N is not None:
        return _hold_out_groups(labels_N, np.unique(groups_N, return_inverse=True)[1], split)
    counts = np.bincount(labels_N)
    single = np.flatnonzero(counts == 1)
    notes = []
    if len(single):
        notes.append(f"{len(single)} classes have a single image, which stays in train")
    pool = everything[~np.isin(labels_N, single)]
    classes = len(np.unique(labels_N[pool]))
    if not classes:
        return everything, everything[:0], "none held out of train: no class has two images", notes
    if split.folds:
        if counts.max() < split.folds:
            raise ConfigError(f"split.folds is {split.folds} but the largest class has {counts.max()} images")
        with warnings.catch_warnings():  # classes with fewer images than folds are missing from some folds
            warnings.filterwarnings("ignore", message="The least populated class")
            folds = StratifiedKFold(split.folds, shuffle=True, random_state=split.seed).split(pool, labels_N[pool])
            held = pool[list(folds)[split.fold][1]]
        how = f"fold {split.fold} of {split.folds} of train, stratified, seed {split.seed}"
    else:
        wanted = round(split.val_fraction * len(labels_N))
        number = min(max(wanted, classes), len(pool) - classes)
        kept, held = train_test_split(pool, test_size=number, stratify=labels_N[pool], random_state=split.seed)
        lost = np.setdiff1d(labels_N[held], labels_N[kept])  # small classes, if much is held out
        held = np.setdiff1d(held, [held[labels_N[held] == label].min() for label in lost])
        chance = np.random.default_rng(split.seed)
        absent = np.setdiff1d(labels_N[pool], labels_N[held])  # small classes, if little is held out
        held = np.append(held, [chance.choice(pool[labels_N[pool] == label]) for label in absent]).astype(int)
        how = f"{split.val_fraction:.3g} of train held out, stratified, seed {split.seed}"
        if len(held) != wanted:
            notes.append(f"val: {len(held)} images instead of {wanted}, because there are {classes} classes")
    return np.setdiff1d(everything, held), np.sort(held), how, notes


def _hold_out_groups(
    labels_N: np.ndarray, groups_N: np.ndarray, split: SplitConfig
) -> tuple[np.ndarray, np.ndarray, str, list[str]]:
    """Holds out complete groups: about the fraction, or a fold. Every class stays in train."""
    from sklearn.model_selection import StratifiedGroupKFold

    everything, number, largest = np.arange(len(labels_N)), len(np.unique(groups_N)), np.bincount(labels_N).max()
    if split.folds > min(number, largest):
        raise ConfigError(
            f"split.folds is {split.folds} but there are {number} groups, and the largest class has {largest} images"
        )
    if min(number, largest) < 2:
        return everything, everything[:0], "none held out of train: it is one group, or no class has two images", []
    smaller = min(split.val_fraction, 1 - split.val_fraction)
    parts = split.folds or min(max(2, round(1 / smaller)), number, largest)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = StratifiedGroupKFold(parts, shuffle=True, random_state=split.seed)
        held = [part for _, part in folds.split(everything, labels_N, groups_N)][split.fold]
    if not split.folds and split.val_fraction > 0.5:
        held = np.setdiff1d(everything, held)
    back = _without_which_classes_are_lost(labels_N, groups_N, held)
    held = held[~np.isin(groups_N[held], back)]
    which = f"fold {split.fold} of {split.folds}" if split.folds else f"{len(held) / len(labels_N):.3g}"
    how = f"{which} of train held out by whole groups, {len(np.unique(groups_N[held]))} of {number}, seed {split.seed}"
    notes = [f"{len(back)} groups stay in train, so that train has images of every class"] if len(back) else []
    return np.setdiff1d(everything, held), np.sort(held), how, notes


def _without_which_classes_are_lost(labels_N: np.ndarray, groups_N: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Returns the smallest held-out groups that must stay in train to keep every class."""
    needed: list[int] = []
    for label in np.setdiff1d(labels_N, np.delete(labels_N, held)):
        candidates = groups_N[held][labels_N[held] == label]
        if not np.isin(candidates, needed).any():
            needed.append(min(np.unique(candidates), key=lambda group: (np.sum(groups_N == group), group)))
    return np.array(needed, dtype=groups_N.dtype)


def thin_out(labels_N: np.ndarray, split: SplitConfig) -> tuple[np.ndarray, list[str]]:
    """Returns (sorted indices of `split.train_per_class` images per class, notes). Smaller classes keep all images."""
    classes = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
    generator = Chance(split.seed).generator("train_per_class")
    orders = [torch.randperm(len(members), generator=generator).numpy()[: split.train_per_class] for members in classes]
    few = sum(len(members) < split.train_per_class for members in classes)
    notes = [f"{few} classes have fewer than {split.train_per_class} images to train on: all are taken"] if few else []
    return np.sort(np.concatenate([members[order] for members, order in zip(classes, orders, strict=True)])), notes

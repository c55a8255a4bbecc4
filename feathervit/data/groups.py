"""Groups images of one person, animal or video, so that no split divides a group."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ..errors import ConfigError

_GUESSES = (  # common patterns of file names: a folder inside the class, a name before a number, a name before a mark
    (r"[^/]+/([^/]+)/[^/]+$", "folders inside the classes"),
    (r"([^/]*?[^/\d])[-_. ]*\d+\.\w+$", "file names before their last number"),
    (r"([^/]*\d)[-_. ]+\d+\.\w+$", "file names before their last number"),
    (r"([^/]*?)[-_. ][^/]*\.\w+$", "file names before their first separator"),
)


def groups_by_pattern(pattern: str, sources: Iterable[str]) -> list[str]:
    """Returns the group of each path: the text matched by the parentheses of the pattern, or else the full match.

    Raises ConfigError for a pattern that is not a regular expression or does not match a path.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ConfigError(f"--groups {pattern!r} is neither a column nor a regular expression: {error}") from error
    groups, misses = [], []
    for source in sources:
        match = search(source)
        if match:
            groups.append("|".join(part or "" for part in match.groups()) or match[0])
        else:
            misses.append(source)
    if misses:
        raise ConfigError(
            f"--groups {pattern!r} is not a column and finds no group in {len(misses)} paths, such as {misses[0]}; give a "
            r"pattern that fits each, as in '(person\d+)'"
        )
    return groups


def across_splits(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """Returns group -> its splits, for groups in several splits."""
    found: dict[str, list[str]] = defaultdict(list)
    for split, names in groups.items():
        for name in dict.fromkeys(names):
            found[name].append(split)
    return {name: splits for name, splits in found.items() if len(splits) > 1}


def suggested(sources: Sequence[str], labels: Sequence[int]) -> tuple[str, str, dict[str, int]] | None:
    """Returns (pattern, description, group -> images) if the paths suggest groups, else None.

    Most groups must have several images. In most classes, no group may hold more than half of the images. Otherwise the
    names may only repeat the class and the split, as in cat_train.12.jpg.
    """
    for pattern, what in _GUESSES:
        matches = [re.search(pattern, source) for source in sources]
        if not all(matches):
            continue
        names = [match[1] for match in matches if match]
        sizes = Counter(names)
        per_class = Counter(labels)
        pairs = Counter(zip(labels, names, strict=True)).most_common()
        largest = {label: n for (label, _), n in reversed(pairs)}  # the last of a class, its largest, remains
        several = sum(count > 1 for count in sizes.values())
        mixed = sum(2 * largest[label] <= n for label, n in per_class.items())
        if len(sizes) > 2 and 2 * several > len(sizes) and 2 * mixed > len(per_class) and 2 * len(sizes) < len(names):
            return pattern, what, dict(sizes)
    return None

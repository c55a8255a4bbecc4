"""Recognises names of splits, and compares names of classes, in folders, tables, hub datasets and arrays.

"Training", "train_images", "train2017" and "01-train" all mean train. "pets_train" means train only beside "pets_test".
Alone, or beside "pets_dogs", it may be a class.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from ..errors import UnknownNameError
from ..text import shown

SPLITS = ("train", "val", "test")
TABLES = (".csv", ".tsv", ".parquet")  # suffixes of tables of labels
_WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_FILLER = {"", "set", "data", "dataset", "split", "image", "images", "img", "imgs", "picture", "pictures", "folder"}
_COMPOUND = re.compile(f"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(set|data|images?|imgs?|split)?")


def find_splits(names: Iterable[str]) -> dict[str, str]:
    """Returns name -> "train", "val" or "test" for the names of splits among `names`, which are siblings."""
    found, beside = {}, defaultdict(dict)
    for name in names:
        split, rest = _parsed(name)
        if split and not rest:
            found[name] = split
        elif split:
            beside[rest][name] = split
    for group in beside.values():
        if len(set(group.values())) > 1:
            found |= group
    return found


def is_general(name: str) -> bool:
    """Returns whether a name contains only general words or a split: "test", "images", "val_data"."""
    return not _parsed(name)[1]


def same_name(name: str) -> str:
    """Returns the name in Unicode NFC, for comparisons, because file systems encode é differently."""
    return unicodedata.normalize("NFC", name)


def other_case(name: str, known: Iterable[str]) -> str:
    """Returns a remark on a known name that differs from `name` only in case, or "" if there is none."""
    twin = next((other for other in known if other.lower() == name.lower()), None)
    return f"; train has {shown(twin)}, which differs only in case: rename one of them" if twin else ""


def wanted_classes(asked: Iterable[str], known: Collection[str]) -> set[str]:
    """Returns the classes named in `asked`. An item is one name, or several with commas. Raises UnknownNameError."""
    wanted = {part for name in map(same_name, asked) for part in ([name] if name in known else name.split(","))}
    for name in sorted(wanted.difference(known)):
        raise UnknownNameError("class", name, known)
    return wanted


def few(names: Sequence[str], most: int = 10) -> str:
    """Returns the first names as one line."""
    return ", ".join(map(shown, names[:most])) + (", ..." if len(names) > most else "")


def _parsed(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Returns (the split in the name, its other words). Ignores digits and words such as "images".

    "train_val", the union of both, is train.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = [word for word in re.split(r"[\W\d_]+", spaced.lower()) if word not in _FILLER]
    matches = [_COMPOUND.fullmatch(word) for word in words]
    splits = [_SPLIT_OF[match[1]] for match in matches if match]
    rest = tuple(word for word, match in zip(words, matches, strict=True) if not match)
    return (splits[0], rest) if splits in (["train"], ["val"], ["test"], ["train", "val"]) else (None, tuple(words))

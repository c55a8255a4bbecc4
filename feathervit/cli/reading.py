"""Flags that settle what data is taken for, of all verbs that read a data set; in training also called `--reading.*`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
SHORT = (
    "classes",
    "ignore",
    "label_column",
    "image_column",
    "root",
    "groups",
)  # fields of ReadingConfig that are flags


@dataclass(kw_only=True)
class ReadingFlags:
    """What a verb with data has besides its own flags."""

    classes: Names = ()
    """The class folders or labels to use, with commas between; others are skipped."""
    ignore: Names = ()
    """Skip files and folders of this name ("*.bmp", masks) or, with a "/", path ("train/old*"); may be given again."""
    label_column: str = ""
    """The column of the labels, in a table or hub set where several may be meant."""
    image_column: str = ""
    """The column of the images, in a table or hub set where several may be meant."""
    root: str = ""
    """The folder in which the paths of a table begin; the table's own if not given."""
    groups: str = ""
    """A column, or a regular expression for paths ('(person\\d+)'): images of one group stay on one side of each split."""

    def fields(self) -> dict[str, Any]:
        """The fields of `ReadingConfig` that were given."""
        return {name: value for name in SHORT if (value := getattr(self, name))}


def as_fields(argv: list[str]) -> list[str]:
    """The words of a training verb with these flags written as the fields of the recipe that they set."""
    out, given = [], {name: [] for name in SHORT}
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if word.startswith("--") and name in SHORT:
            value = value if equals else next(words, None)
            if value is None:
                return argv  # no value: tyro says so
            given[name].append(value)
        else:
            out.append(word)
    for name, values in given.items():
        if values:
            out += [f"--reading.{name.replace('_', '-')}", *values]
    return out

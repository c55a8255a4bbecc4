"""Flags that settle what data is taken for, of all verbs that read a data set; in training also called `--reading.*`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
SHORT = {"classes": "classes", "ignore": "ignore"}  # flag -> field of ReadingConfig


@dataclass(kw_only=True)
class ReadingFlags:
    """What a verb with data has besides its own flags."""

    classes: Names = ()
    """The class folders or labels to use, with commas between; others are skipped."""
    ignore: Names = ()
    """Skip files and folders of this name ("*.bmp", masks) or, with a "/", path ("train/old*"); may be given again."""

    def fields(self) -> dict[str, Any]:
        """The fields of `ReadingConfig` that were given."""
        return {field: value for flag, field in SHORT.items() if (value := getattr(self, flag))}


def as_fields(argv: list[str]) -> list[str]:
    """The words of a training verb with these flags written as the fields of the recipe that they set."""
    out, given = [], {name: [] for name in SHORT}
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in SHORT:
            value = value if equals else next(words, None)
            if value is None:
                return argv  # no value: tyro says so
            given[name].append(value)
        else:
            out.append(word)
    for name, values in given.items():
        if values:
            out += [f"--reading.{SHORT[name]}", *values]
    return out

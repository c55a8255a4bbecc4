"""The flags that control how a dataset is read. The training verbs also have them as `--reading.*`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import tyro

from ..config import ReadingConfig, from_dict

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(kw_only=True)
class ReadingFlags:
    """The flags of every verb that reads data."""

    classes: Names = ()
    """The class folders or labels to use, separated by commas; others are skipped."""
    ignore: Names = ()
    """Skip files and folders of this name ("*.bmp", masks) or, with a "/", path ("train/old*"); can be repeated."""
    label_column: str = ""
    """The column of the labels in a table or hub dataset, if several are possible."""
    image_column: str = ""
    """The column of the images in a table or hub dataset, if several are possible."""
    root: str = ""
    """The folder that the paths in a table are relative to; the folder of the table if not given."""
    groups: str = ""
    """A column, or a regular expression for paths ('(person\\d+)'): images of one group stay on one side of each split."""
    max_image_gib: float | None = None
    """Memory limit of one decoded image, in GiB (1, or as in training, if not given)."""

    def fields(self) -> dict[str, Any]:
        """Returns the fields of `ReadingConfig` set by the user. Raises ConfigError for an invalid value."""
        given = {name: value for name in SHORT if (value := getattr(self, name)) not in ((), "", None)}
        from_dict(ReadingConfig, given, "reading")
        return given


SHORT = tuple(field.name for field in fields(ReadingFlags))


def as_fields(argv: list[str]) -> list[str]:
    """Rewrites these flags in the arguments of a training verb as fields of the recipe."""
    out, given = [], {name: [] for name in SHORT}
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if word.startswith("--") and name in SHORT:
            value = value if equals else next(words, None)
            if value is None:
                return argv  # tyro reports the missing value
            given[name].append(value)
        else:
            out.append(word)
    for name, values in given.items():
        if values:
            out += [f"--reading.{name.replace('_', '-')}", *values]
    return out

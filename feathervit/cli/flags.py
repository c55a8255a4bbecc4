"""Flags that several verbs share. The training verbs also have those of `ReadingFlags` as `--reading.*`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from ..config import ReadingConfig, from_dict
from ..errors import ConfigError

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(kw_only=True)
class JsonFlag:
    """The flag of every verb with a result for programs."""

    json: bool = False
    """Print one JSON object on standard output and nothing else."""


@dataclass(kw_only=True)
class ThreadsFlag:
    """The flag of every verb that computes."""

    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""

    def set_threads(self) -> None:
        """Raises ConfigError for an invalid number."""
        if self.threads is not None:
            if not 1 <= self.threads <= 1024:
                raise ConfigError(f"--threads must be from 1 to 1024, got {self.threads}")
            import torch

            torch.set_num_threads(self.threads)


@dataclass(kw_only=True)
class MachineFlags(ThreadsFlag):
    """The flags of every verb that runs a model, except training, whose recipe has the device."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""


@dataclass(kw_only=True)
class CheckpointFlag:
    """The argument of every verb that applies a trained model."""

    checkpoint: tyro.conf.Positional[str]
    """A run folder (its best weights), a weights file, or weights in the package."""


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
    """A column, or a regular expression for paths ('(person\\d+)'): images of one group stay in the same split."""
    max_image_gib: float | None = None
    """Memory limit of one decoded image, in GiB (1, or as in training, if not given)."""

    def fields(self) -> dict[str, Any]:
        """Returns the fields of `ReadingConfig` set by the user. Raises ConfigError for an invalid value."""
        given = {name: value for name in SHORT if (value := getattr(self, name)) not in ((), "", None)}
        from_dict(ReadingConfig, given, "reading")
        return given


@dataclass(kw_only=True)
class LabelledFlags(CheckpointFlag, ReadingFlags, MachineFlags, JsonFlag):
    """The flags of the verbs that apply a checkpoint to labelled images."""

    data: str | None = None
    """A name or folder; the data the checkpoint was trained on if not given."""
    skip_unreadable: bool = False
    """Skip images that cannot be read, and count them."""


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

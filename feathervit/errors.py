"""What a user can get wrong. Each error says what was wrong, the value, and what to do about it.

The command line prints the message as one line and ends with `exit_status`; `--debug` shows the traceback.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable


class FeatherVitError(Exception):
    """Base of every error that a user can mend. The message is one clear sentence or two."""

    exit_status = 2


class UnknownNameError(FeatherVitError):
    """A name that is not known: a model, recipe, data set, class, verb or flag."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = ""):
        name, known = str(name), sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        mend = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:12])}"
        if not near and len(known) > 12:
            mend += f" and {len(known) - 12} more"
        super().__init__(f"unknown {kind} {name!r}; {mend}{'; ' + hint if hint else ''}")


class ConfigError(FeatherVitError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(FeatherVitError):
    """A data set that is missing, unreadable, or cannot be trained on."""


class CheckpointError(FeatherVitError):
    """A checkpoint that is damaged, not ours, or does not fit."""


class RunFolderError(FeatherVitError):
    """An output folder that cannot be written, is not empty, or belongs to another run."""


class OutputError(FeatherVitError):
    """A result that cannot be written to standard output."""


class DivergedError(FeatherVitError):
    """The loss stopped being a finite number."""

    exit_status = 1


class DataWarning(UserWarning):
    """What is worth knowing of data that are used all the same. The command line prints it on standard error."""


def warn(lines: Iterable[str]) -> None:
    """Each line as a DataWarning."""
    for line in lines:
        warnings.warn(line, DataWarning, stacklevel=3)

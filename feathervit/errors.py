"""Defines the errors that a user can fix. Each message states the error, the invalid value, and the fix.

The command line prints the message as one line and exits with `exit_status`. `--debug` shows the traceback.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class FeatherVitError(Exception):
    """Base of every error that a user can fix. The message is one or two sentences."""

    exit_status = 2


class UnknownNameError(FeatherVitError):
    """An unknown name: of a model, recipe, dataset, class, verb or flag."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = ""):
        name, known = str(name), sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:12])}"
        if not near and len(known) > 12:
            advice += f" and {len(known) - 12} more"
        super().__init__(f"unknown {kind} {name!r}; {advice}{f' ({hint})' if hint else ''}")


class ConfigError(FeatherVitError):
    """An invalid setting, or an invalid combination of settings."""


class DataError(FeatherVitError):
    """A dataset that is missing, unreadable, or unsuitable for training."""


class CheckpointError(FeatherVitError):
    """A checkpoint that is damaged, incompatible, or written by another program."""


class RunFolderError(FeatherVitError):
    """A run folder that cannot be written, is not empty, or belongs to another run."""


class OutputError(FeatherVitError):
    """A result that cannot be written to standard output."""


class DivergedError(FeatherVitError):
    """The loss is no longer finite."""

    exit_status = 1


class DataWarning(UserWarning):
    """A warning about data that is used nevertheless. The command line prints it on standard error."""


@contextmanager
def explained(problem: str, advice: str, kind: type[FeatherVitError] = RunFolderError) -> Iterator[None]:
    """Raises `kind` for an OSError inside the block, with the problem, the reason of the system, and the advice."""
    try:
        yield
    except OSError as error:
        raise kind(f"{problem}: {error.strerror or error}; {advice}") from error


@contextmanager
def valid(problem: str, advice: str = "") -> Iterator[None]:
    """Raises RunFolderError, with the problem, if a file inside the block cannot be read or holds invalid values."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise RunFolderError(f"{problem}: {error}{advice}") from error


def warn(*lines: str) -> None:
    """Issues each line as a DataWarning."""
    for line in lines:
        warnings.warn(line, DataWarning, stacklevel=3)

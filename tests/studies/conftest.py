"""Fixtures of studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from feathervit.studies import cell as runs


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The stage folders that were trained in, in order."""
    folders, whole = [], runs.train

    def train(*args, out, **kwargs):
        folders.append("/".join(Path(out).parts[-3:]))
        return whole(*args, out=out, **kwargs)

    monkeypatch.setattr(runs, "train", train)
    return folders

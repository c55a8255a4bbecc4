"""Fixtures of studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from feathervit.studies import cell as runs


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The folders of the stages that were trained, in order."""
    folders, original = [], runs.train

    def train(*args, out, **kwargs):
        folders.append("/".join(Path(out).parts[-3:]))
        return original(*args, out=out, **kwargs)

    monkeypatch.setattr(runs, "train", train)
    return folders

"""The command line, run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from feathervit.cli import main

from .commands import Command, paint


@pytest.fixture
def run(capsys):
    """Calls the command line and returns (status, standard output, standard error)."""

    def call(*argv) -> tuple[int, str, str]:
        status = main([str(a) for a in argv])
        out = capsys.readouterr()
        return status, out.out, out.err

    return call


@pytest.fixture
def command(capsys, tmp_path) -> Command:
    return Command(capsys, tmp_path)


@pytest.fixture
def flat(tmp_path) -> Path:
    """Eight images in one folder, without class folders."""
    return paint(tmp_path / "flat", " ".join(f"{i}.png" for i in range(8)))

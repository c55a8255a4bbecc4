"""The command line, run in this process."""

from __future__ import annotations

import pytest

from feathervit.cli import main


@pytest.fixture
def run(capsys):
    """Calls the command line and returns (status, standard output, standard error)."""

    def call(*argv) -> tuple[int, str, str]:
        status = main([str(a) for a in argv])
        out = capsys.readouterr()
        return status, out.out, out.err

    return call

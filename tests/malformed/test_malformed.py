"""Malformed input to any verb gives one clear line and status 1 or 2. Nothing is half-written, and nothing in a file is run.

The other modules of this folder contain the rows.
"""

from __future__ import annotations

import pytest

from feathervit.cli import main

from . import configurations, flags, folders, images, run_folders, studies, weights
from .case import Case

CASES: list[Case] = [
    case for module in (weights, configurations, run_folders, folders, images, studies, flags) for case in module.CASES
]


def snapshot(folder) -> dict[str, bytes | int | None]:
    """The content of every file below `folder`, or the size of a file that is too large to read."""
    found: dict[str, bytes | int | None] = {}
    for path in folder.rglob("*"):
        size = path.lstat().st_size
        content = None if not path.is_file() else size if size > 1 << 26 else path.read_bytes()
        found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed_input_is_refused(case, world, tmp_path, capsys):
    case.make(tmp_path, world)
    before = snapshot(tmp_path)
    capsys.readouterr()
    try:
        status = main(case.command(tmp_path, world))
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line]
    assert status == case.status, output
    assert len(lines) == 1, output.err
    assert lines[0].startswith("feathervit: ")
    for text in case.texts:
        assert text.lower() in lines[0].lower()
    assert "Traceback" not in output.out + output.err
    assert "internal error" not in lines[0]
    assert snapshot(tmp_path) == before


def test_cases_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({(case.make, str(case.argv)) for case in CASES}) == len(CASES)

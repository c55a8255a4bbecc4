"""Counts lines of code: python scripts/lines.py 185005e HEAD

For each revision, it prints the number of lines of the package and of the tests, formatted with the installed `ruff`, without
blank lines and comments. Docstrings are included, and also counted separately.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("feathervit", "tests")
LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def lines(source: str) -> tuple[int, int]:
    """Returns the number of lines that are neither blank nor comments, and the number of docstring lines among them."""
    numbers = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            numbers.update(range(token.start[0], token.end[0] + 1))
    text = source.split("\n")
    numbers = {number for number in numbers if text[number - 1].strip()}
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented.update(range(node.lineno, node.end_lineno + 1))
    return len(numbers), len(numbers & documented)


def main(revisions: list[str]) -> None:
    for revision in revisions or ["HEAD"]:
        archive = subprocess.run(["git", "-C", ROOT, "archive", revision, *FOLDERS], capture_output=True, check=True)
        with tempfile.TemporaryDirectory() as place:
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as file:
                file.extractall(place, filter="data")
            ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--config", ROOT / "pyproject.toml", place]
            subprocess.run(ruff, check=True)
            for folder in FOLDERS:
                files = [path.read_text(encoding="utf-8") for path in (Path(place) / folder).rglob("*.py")]
                counts = [lines(source) for source in files]
                total, documented = (sum(column) for column in zip(*counts, strict=True))
                print(
                    f"{revision:10} {folder:11} {total:7,} lines, {documented:,} of them docstrings, {len(files)} files"
                )


if __name__ == "__main__":
    main(sys.argv[1:])

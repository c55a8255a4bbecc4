"""Checks the English of README, docs, CHANGELOG and CONTRIBUTING: python scripts/words.py

Prints each banned word with its place and a better word, and exits with status 1 if there is one. Code and generated
tables are not checked.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BANNED = {  # pattern -> what to write
    r"anew": "again",
    r"beneath|underneath": "below, under",
    r"beforehand": "before",
    r"foresee\w*|foresaw": "expect",
    r"hence|thereof|therein|whereof|wherein|whereby": "so, of it, in it",
    r"lay|lays|laid": "put",
    r"mend|mends|mended|mending": "fix",
    r"one's|oneself": "your",
    r"pictures?": "image",
    r"tells?|told": "says, shows",
    r"upon": "on",
    r"whatever|whichever|whoever": "any, what",
    r"whilst|amongst": "while, among",
    r"with a word": "with a message",
    r"(?:images?|steps?|minutes|folder|labels|dozens?) a (?:second|run|arm|class|step|token|layer)": "per",
    r"is no (?:file|folder|number|picture|image|weights)": "is not a",
}
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md")


def prose(text: str) -> str:
    """The text with code, generated tables and links' addresses blanked; lines keep their numbers."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    for pattern in (r"^```.*?^```", r"<!-- [\w: -]+ -->\n.*?<!-- end -->", r"`[^`]*`", r"\]\([^)]*\)"):
        text = re.sub(pattern, blank, text, flags=re.DOTALL | re.MULTILINE)
    return text


def banned(text: str) -> list[tuple[int, str, str]]:
    """(line, word, better word) of each banned word in the text."""
    found = []
    for pattern, better in BANNED.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", prose(text), re.IGNORECASE):
            found.append((text.count("\n", 0, match.start()) + 1, match[0], better))
    return sorted(found)


def main() -> int:
    status = 0
    for page in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        for line, word, better in banned(page.read_text(encoding="utf-8")):
            print(f"{page.relative_to(ROOT)}:{line}: {word!r}; write: {better}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

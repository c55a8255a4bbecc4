"""Checks the English of the pages, and of the docstrings, comments, messages and names of the code.

python scripts/words.py            prints each banned word with its place and a better word; status 1 if there is one
python scripts/words.py --rooms    counts banned words and sentences of more than 25 words in each folder

Inline code, generated tables and the addresses of links are not checked.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
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
    r"pictures?|pictured": "image",
    r"tells?|told": "says, shows",
    r"upon": "on",
    r"whatever|whichever|whoever": "any, what",
    r"whilst|amongst": "while, among",
    r"with a word": "with a message",
    r"(?:images?|steps?|minutes|folder|labels|dozens?) a (?:second|run|arm|class|step|token|layer)": "per",
    r"is no (?:file|folder|number|picture|image|weights|finite)|no finite number": "is not a",
}
PAGES = ("*.md", "docs/*.md", "feathervit/**/*.md", "feathervit/**/*.html", "feathervit/**/*.js")
CODE = ("feathervit", "tests", "scripts", "benchmarks", "docs")
EXEMPT = ("scripts/words.py", "tests/test_words.py")  # they contain the banned words
WORDS_PER_SENTENCE = 25


def prose(text: str) -> str:
    """Blanks code, generated tables and the addresses of links in the text. Lines keep their numbers."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    for pattern in (r"^```.*?^```", r"<!-- [\w: -]+ -->\n.*?<!-- end -->", r"`[^`]*`", r"\]\([^)]*\)"):
        text = re.sub(pattern, blank, text, flags=re.DOTALL | re.MULTILINE)
    return text


def passages(source: str) -> Iterator[tuple[int, str]]:
    """Yields (first line, text) of each comment, docstring, string of several words and defined name of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name.replace("_", " ")
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg.replace("_", " ")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id.replace("_", " ")


def banned(text: str) -> list[tuple[int, str, str]]:
    """Returns (line, word, better word) of each banned word in the text."""
    found = []
    for pattern, better in BANNED.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", prose(text), re.IGNORECASE):
            found.append((text.count("\n", 0, match.start()) + 1, match[0], better))
    return sorted(found)


def long_sentences(text: str) -> int:
    """Counts the sentences of the text with more than 25 words."""
    sentences = re.split(r"[.!?:;](?=\s|$)|\n\s*\n|\n\s*(?:[-*|#]|\d+\.)\s", prose(text))
    return sum(len(re.findall(r"[\w'-]+", sentence)) > WORDS_PER_SENTENCE for sentence in sentences)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (first line, text) of each checked text of a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from passages(source)
    else:
        yield 1, source


def files() -> Iterator[Path]:
    """Yields each file that is checked."""
    patterns = (*PAGES, *(f"{folder}/**/*.py" for folder in CODE))
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        if name not in EXEMPT:
            yield path


def room(path: Path) -> str:
    """Returns the folder of a file, relative to the root."""
    return path.relative_to(ROOT).parent.as_posix()


def rooms() -> None:
    """Prints the numbers of banned words and long sentences per folder."""
    words, sentences = Counter(), Counter()
    for path in files():
        for _, text in texts(path):
            words[room(path)] += len(banned(text))
            sentences[room(path)] += long_sentences(text)
    print(f"{'room':28} banned words, sentences of more than {WORDS_PER_SENTENCE} words")
    for name in sorted(words):
        print(f"{name:28} {words[name]:12} {sentences[name]:12}")


def main(arguments: list[str]) -> int:
    if arguments == ["--rooms"]:
        rooms()
        return 0
    status = 0
    for path in files():
        for start, text in texts(path):
            for line, word, better in banned(text):
                print(f"{path.relative_to(ROOT)}:{start + line - 1}: {word!r}; write: {better}")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

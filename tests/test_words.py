"""scripts/words.py: finds banned words in prose, docstrings, comments, messages and names, and in nothing else."""

from pathlib import Path

import pytest

from .conftest import load_script

words = load_script(Path(__file__).resolve().parents[1] / "scripts" / "words.py")


@pytest.mark.parametrize(
    "text", ["Mend the file.", "The log tells\nwhy.", "It runs at 30 images a second.", "one's own"]
)
def test_banned_words_are_found(text):
    assert words.banned(text)


@pytest.mark.parametrize(
    "text",
    [
        "Fix the file. The layer delays nothing; 30 images per second.",
        "```sh\nmend pictures\n```",
        "Use `pictures`.",
        "[a link](pictures.md)",
        "<!-- study: peers -->\n\nThe same pictures.\n\n<!-- end -->",
    ],
)
def test_code_and_tables_are_not_checked(text):
    assert not words.banned(text)


def test_the_line_is_named():
    assert [line for line, _, _ in words.banned("Fine.\n```\npicture\n```\nA picture.")] == [5]


@pytest.mark.parametrize(
    "source",
    [
        '"""Mends a run."""\n',
        "x = 1  # a picture\n",
        'raise ValueError(f"told {x} twice")\n',
        "def pictures():\n    pass\n",
    ],
)
def test_docstrings_comments_messages_and_names_are_checked(source):
    assert any(words.banned(text) for _, text in words.passages(source))


def test_other_code_is_not_checked():
    source = 'x = row["picture"]\nfile.tell()\nimport pictures\n'
    assert not any(words.banned(text) for _, text in words.passages(source))


def test_long_sentences_are_counted():
    assert words.long_sentences("One two three. " + "word " * 26 + "end. Short again.") == 1

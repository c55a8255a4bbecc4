"""Makes names printable: replaces bytes that cannot be decoded, and escapes control characters."""

from __future__ import annotations

import codecs
import unicodedata

REPLACED = "feathervit.replaced"  # error handler: U+FFFD for a byte that is not UTF-8, escapes for other characters


def shown(name: str) -> str:
    """Returns a name as one line of printable characters. A line break becomes "\\n"; a byte that is not UTF-8, U+FFFD."""
    return "".join(_shown(character) for character in name)


def _shown(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cs":  # a lone surrogate represents a byte that is not UTF-8
        return "\ufffd"
    return character.encode("unicode_escape").decode() if kind == "Cc" else character


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    out = b""
    for character in error.object[error.start : error.end]:
        if unicodedata.category(character) == "Cs":
            out += "\ufffd".encode(error.encoding, "replace")
        else:  # a character outside the encoding
            out += character.encode("unicode_escape")
    return out, error.end


codecs.register_error(REPLACED, _replaced)

"""Typesets the formulas of the documentation when it is built: LaTeX in `math` blocks becomes MathML.

Browsers render MathML without a script, so the site needs no other server. GitHub renders the same blocks.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with each block of LaTeX replaced by MathML."""
    return re.sub(r"^```math\n(.*?)\n```$", _typeset, markdown, flags=re.DOTALL | re.MULTILINE)


def _typeset(match: re.Match[str]) -> str:
    return f'<div class="formula">{convert(match[1], display="block")}</div>'

"""Typesets the formulas of the documentation when it is built: LaTeX in `math` blocks becomes MathML.

Browsers draw MathML themselves, so the site needs no script and no other server. GitHub shows the same blocks.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with each block of LaTeX replaced by MathML."""
    return re.sub(r"^```math\n(.*?)\n```$", _typeset, markdown, flags=re.DOTALL | re.MULTILINE)


def _typeset(match: re.Match[str]) -> str:
    return f'<div class="formula">{convert(match[1], display="block")}</div>'
